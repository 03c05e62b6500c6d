//! Where a packed layer ends up: an fd, behind a buffer and a hash.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use sha2::{Digest as _, Sha256};

use super::source::write_all;
use super::stream::{digest_text, CHUNK};
use crate::error::{Error, Result};

pub struct Sink<'a> {
    fd: &'a OwnedFd,
    hash: Sha256,
    size: u64,
    buffer: Vec<u8>,
    /// What an encoder that only knows `io::Error` was given another one for.
    failure: Option<Error>,
}

impl<'a> Sink<'a> {
    pub fn new(fd: &'a OwnedFd) -> Self {
        Self { fd, hash: Sha256::new(), size: 0, buffer: Vec::new(), failure: None }
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush_buffer()?;
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.size += self.buffer.len() as u64;
        write_all(self.fd, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Why a write by way of `io::Write` failed: the kernel's answer, or what the encoder said.
    pub fn failure(&mut self, error: io::Error) -> Error {
        self.failure.take().unwrap_or_else(|| Error::os("compress", "layer", error))
    }

    /// Digest and size of all that was put in.
    pub fn finish(mut self) -> Result<(String, u64)> {
        self.flush_buffer()?;
        Ok((digest_text(self.hash), self.size))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("target failed")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

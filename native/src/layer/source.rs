//! The compressed side of the pipeline: where bytes come from, their digest, their copy, and what decompresses them.

use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sha2::{Digest as _, Sha256};

use super::feed::{CloseAtEnd, Feed, Piece};
use super::stream::{digest_text, CHUNK};
use crate::error::{Error, Result};

/// Where compressed bytes come from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Read to its end; may be a pipe.
    Fd(BorrowedFd<'a>),
    /// Given piece by piece from another thread.
    Feed(&'a Feed),
}

impl<'a> Input<'a> {
    /// For whoever reads it: a feed is closed when this goes.
    pub(super) fn held(self) -> Option<CloseAtEnd<'a>> {
        match self {
            Self::Fd(_) => None,
            Self::Feed(feed) => Some(CloseAtEnd(feed)),
        }
    }
}

impl<'a, T: AsFd> From<&'a T> for Input<'a> {
    fn from(fd: &'a T) -> Self {
        Self::Fd(fd.as_fd())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The compressed side: reads the fd, hashes and counts what came, copies it on.
pub(super) struct Source<'a> {
    input: Input<'a>,
    copy: Option<&'a OwnedFd>,
    /// None where nobody asks for the digest.
    hash: Option<Sha256>,
    pub size: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    failure: Option<Error>,
}

impl<'a> Source<'a> {
    pub fn new(input: Input<'a>, copy: Option<&'a OwnedFd>, hashing: bool) -> Self {
        let buffer = match input {
            Input::Fd(_) => vec![0; CHUNK],
            Input::Feed(_) => Vec::new(),
        };
        Self {
            input,
            copy,
            hash: hashing.then(Sha256::new),
            size: 0,
            buffer,
            start: 0,
            end: 0,
            failure: None,
        }
    }

    /// One read into the free part of the buffer, or the next piece; false at the end.
    fn read_more(&mut self) -> Result<bool> {
        let (count, copied) = match self.input {
            Input::Fd(fd) => (read(fd, &mut self.buffer[self.end..])?, false),
            Input::Feed(feed) => match feed.take()? {
                None => (0, true),
                Some(Piece { bytes, copied }) => {
                    let count = bytes.len();
                    if self.end == 0 {
                        self.buffer = bytes;
                    } else {
                        self.buffer.truncate(self.end);
                        self.buffer.extend_from_slice(&bytes);
                    }
                    (count, copied)
                }
            },
        };
        let fresh = &self.buffer[self.end..self.end + count];
        if let Some(hash) = &mut self.hash {
            hash.update(fresh);
        }
        if let Some(copy) = self.copy.filter(|_| !copied) {
            write_all(copy, fresh)?;
        }
        self.end += count;
        self.size += count as u64;
        Ok(count > 0)
    }

    /// The next piece of a feed as it is, empty at the end: what is not decompressed need not be copied.
    pub fn piece(&mut self) -> Result<Vec<u8>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if !self.read_more()? {
                return Ok(Vec::new());
            }
        }
        let mut piece = std::mem::take(&mut self.buffer);
        piece.truncate(self.end);
        piece.drain(..self.start);
        (self.start, self.end) = (0, 0);
        Ok(piece)
    }

    pub fn is_feed(&self) -> bool {
        matches!(self.input, Input::Feed(_))
    }

    /// Told by the first bytes, as every engine does: media types lie.
    pub fn compression(&mut self) -> Result<Compression> {
        while self.end < 4 && self.read_more()? {}
        Ok(match self.buffer[..self.end] {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A zstd frame, or a skippable one (as zstd:chunked writes).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', ..] => return Err(unsupported("xz")),
            _ => Compression::None,
        })
    }

    /// Digest covers the whole source, even what the decoder had no use for.
    pub fn drain(&mut self) -> Result<()> {
        self.start = 0;
        self.end = 0;
        while self.read_more()? {
            self.end = 0;
        }
        Ok(())
    }

    /// `sha256:...` of all that was read; empty where it was not to be hashed.
    pub fn digest(self) -> String {
        self.hash.map(digest_text).unwrap_or_default()
    }
}

/// What a blocking fd has, at most the whole buffer; 0 at its end.
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(|errno| Error::os("read", "layer", errno)),
        }
    }
}

fn unsupported(name: &str) -> Error {
    Error::Invalid(format!("malformed archive: {name} compression is not one of gzip, zstd and none"))
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if let Err(error) = self.read_more() {
                self.failure = Some(error);
                return Err(io::Error::other("source failed"));
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
    }
}

pub(super) enum Decoder<'s, 'a> {
    None(&'s mut Source<'a>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'s mut Source<'a>>>),
    Zstd(zstd::stream::read::Decoder<'static, &'s mut Source<'a>>),
}

impl<'s, 'a> Decoder<'s, 'a> {
    pub fn new(compression: Compression, source: &'s mut Source<'a>) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(source),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
            Compression::Zstd => Self::Zstd(
                zstd::stream::read::Decoder::with_buffer(source)
                    .map_err(|error| Error::os("start zstd for", "layer", error))?,
            ),
        })
    }

    pub fn source(&mut self) -> &mut Source<'a> {
        match self {
            Self::None(source) => source,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// As many bytes as there are, up to the whole buffer: few large chunks, not many small ones.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let count = match self {
                Self::None(source) => source.read(&mut buffer[done..]),
                Self::Gzip(decoder) => decoder.read(&mut buffer[done..]),
                Self::Zstd(decoder) => decoder.read(&mut buffer[done..]),
            };
            match count {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(&error)),
            }
        }
        Ok(done)
    }

    /// A failed read or copy as it was; anything else is the archive's fault.
    fn failure(&mut self, error: &io::Error) -> Error {
        let name = match self {
            Self::None(_) => "tar",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        };
        self.source()
            .failure
            .take()
            .unwrap_or_else(|| Error::Invalid(format!("malformed archive: {name}: {error}")))
    }
}

/// Write all of `bytes` to a blocking fd.
pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("write", "layer", errno)),
        }
    }
    Ok(())
}

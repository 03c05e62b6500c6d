//! The pipeline's first half: read, digest, decompress, hash — on threads of their own, since each costs about
//! as much as creating the files does: inflating, hashing and writing are three stages that even out.
//!
//! ```text
//! source fd or feed --> sha256 (digest) --> gunzip | unzstd | as it is --.     proa-inflate
//!                         `--> copy fd                                    |  bounded channel of
//!                                    .--- sha256 (diff_id) <--------------'  256 KiB chunks
//!                                    |                                         proa-hash
//!                         Stream <---'  bounded channel                        the caller's thread
//! ```
//! Memory is bounded by the channels; spent chunks go back to be filled again. What came uncompressed has one
//! digest only and no hashing thread.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use super::limits::Limits;
use super::recipe::Recorder;
use super::source::{Compression, Decoder, Input, Source};
use crate::error::{Error, Result};

/// Bytes of one chunk: large enough that a hand-over costs nothing beside its work.
pub(super) const CHUNK: usize = 256 << 10;
/// Chunks in one channel; with both full and those in hand, about 4.5 MiB.
const DEPTH: usize = 7;

/// What went through the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// `sha256:...` of the bytes as they came.
    pub digest: String,
    /// `sha256:...` of the bytes uncompressed.
    pub diff_id: String,
    pub compressed_size: u64,
    pub size: u64,
}

/// `sha256:` and 64 hex digits.
pub(super) fn digest_text(hash: Sha256) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The uncompressed bytes, on the reading side.
#[derive(Debug)]
pub struct Stream {
    chunks: Receiver<Vec<u8>>,
    spare: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
    size: u64,
    recorder: Option<Rc<RefCell<Recorder>>>,
}

impl Stream {
    /// Have somebody see all that is taken from now on.
    pub(super) fn record(&mut self, recorder: Option<Rc<RefCell<Recorder>>>) {
        self.recorder = recorder;
    }

    /// What is there now, at least one byte, or empty at the end.
    pub fn fill(&mut self) -> &[u8] {
        while self.position == self.chunk.len() {
            let Ok(next) = self.chunks.recv() else { return &[] };
            self.size += next.len() as u64;
            let spent = std::mem::replace(&mut self.chunk, next);
            self.position = 0;
            let _ = self.spare.try_send(spent);
        }
        &self.chunk[self.position..]
    }

    /// Take `count` bytes that `fill` gave.
    pub fn consume(&mut self, count: usize) {
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().take(&self.chunk[self.position..self.position + count]);
        }
        self.position += count;
    }

    /// Fill the whole buffer; false at a clean end before its first byte.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < buffer.len() {
            let available = self.fill();
            if available.is_empty() {
                return if done == 0 { Ok(false) } else { Err(truncated()) };
            }
            let count = available.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&available[..count]);
            self.consume(count);
            done += count;
        }
        Ok(true)
    }

    /// Pass over `count` bytes.
    pub fn skip(&mut self, count: u64) -> Result<()> {
        self.pass(count, |_| {})
    }

    /// Show `count` bytes to `other`.
    pub fn pass(&mut self, mut count: u64, mut other: impl FnMut(&[u8])) -> Result<()> {
        while count > 0 {
            let available = self.fill();
            if available.is_empty() {
                return Err(truncated());
            }
            let step = available.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            other(&available[..step]);
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }

    /// Move `length` bytes to `offset` of a file called `name`.
    pub fn write_to(&mut self, file: &OwnedFd, offset: u64, length: u64, name: &[u8]) -> Result<()> {
        self.write_to_both(file, offset, length, name, |_| {})
    }

    /// The same, and show each piece to `other` as well.
    pub fn write_to_both(
        &mut self,
        file: &OwnedFd,
        mut offset: u64,
        length: u64,
        name: &[u8],
        mut other: impl FnMut(&[u8]),
    ) -> Result<()> {
        let end = offset.saturating_add(length);
        while offset < end {
            let available = self.fill();
            if available.is_empty() {
                return Err(truncated());
            }
            let step = available.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            other(&available[..step]);
            write_at(file, &available[..step], offset, name)?;
            self.consume(step);
            offset += step as u64;
        }
        Ok(())
    }

    /// Read to the end: what follows the archive belongs to the `diff_id`.
    pub fn drain(&mut self) {
        loop {
            let available = self.fill().len();
            if available == 0 {
                return;
            }
            self.consume(available);
        }
    }
}

/// Write all of `bytes` at `offset` of a file called `name`.
pub(super) fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64, name: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("write", String::from_utf8_lossy(name), errno)),
        }
    }
    Ok(())
}

pub(super) fn truncated() -> Error {
    Error::Invalid("malformed archive: unexpected end".into())
}

/// Run `consume` over the uncompressed bytes of `input`; every thread has ended when this returns.
///
/// The bytes as read are also written to `copy`. A failure of the producing half is the cause of whatever the
/// consuming half made of it, so it is the one reported.
pub fn run<T>(
    input: Input<'_>,
    copy: Option<&OwnedFd>,
    limits: &Limits,
    consume: impl FnOnce(&mut Stream) -> Result<T>,
) -> Result<(T, Digests)> {
    pass(Source::new(input, copy, true), true, limits, consume)
}

/// The same where nobody asks what the digests are.
pub fn run_unhashed<T>(
    input: Input<'_>,
    limits: &Limits,
    consume: impl FnOnce(&mut Stream) -> Result<T>,
) -> Result<T> {
    Ok(pass(Source::new(input, None, false), false, limits, consume)?.0)
}

fn pass<T>(
    mut source: Source<'_>,
    hashing: bool,
    limits: &Limits,
    consume: impl FnOnce(&mut Stream) -> Result<T>,
) -> Result<(T, Digests)> {
    let compression = source.compression()?;
    let (chunk_sender, chunks) = sync_channel(DEPTH);
    let (spare, spare_receiver) = sync_channel(2 * DEPTH + 3);
    std::thread::scope(|scope| {
        let start = |name: &str| std::thread::Builder::new().name(name.into());
        let failed = |error| Error::os("start a thread for", "layer", error);
        let producer = start("proa-inflate")
            .spawn_scoped(scope, move || {
                if compression == Compression::None && source.is_feed() {
                    drop(spare_receiver);
                    return pass_on(source, &chunk_sender);
                }
                produce(source, compression, limits, &chunk_sender, &spare_receiver)
            })
            .map_err(failed)?;
        let (chunks, hasher) = if compression == Compression::None || !hashing {
            (chunks, None)
        } else {
            let (sender, known) = sync_channel(DEPTH);
            let hasher =
                start("proa-hash").spawn_scoped(scope, move || hash(&chunks, &sender)).map_err(failed)?;
            (known, Some(hasher))
        };
        let mut stream = Stream { chunks, spare, chunk: Vec::new(), position: 0, size: 0, recorder: None };
        let consumed = consume(&mut stream);
        if consumed.is_ok() {
            stream.drain();
        }
        let size = stream.size;
        drop(stream);
        let diff_id = hasher.map(|hasher| hasher.join().unwrap_or_default());
        let outcome = producer.join().unwrap_or_else(|_| Err(Error::Invalid("malformed archive".into())));
        match (outcome, consumed) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(None), Ok(_)) => Err(truncated()),
            (Ok(Some((digest, compressed_size))), Ok(value)) => {
                let diff_id = diff_id.unwrap_or_else(|| digest.clone());
                Ok((value, Digests { digest, diff_id, compressed_size, size }))
            }
        }
    })
}

/// The middle: the `diff_id` of what goes by, until either side ends.
fn hash(chunks: &Receiver<Vec<u8>>, hashed: &SyncSender<Vec<u8>>) -> String {
    let mut hash = Sha256::new();
    for chunk in chunks {
        hash.update(&chunk);
        if hashed.send(chunk).is_err() {
            break;
        }
    }
    digest_text(hash)
}

/// The producing half of what comes in pieces and uncompressed: they are the chunks.
fn pass_on(mut source: Source<'_>, chunks: &SyncSender<Vec<u8>>) -> Result<Option<(String, u64)>> {
    loop {
        let piece = source.piece()?;
        if piece.is_empty() {
            let size = source.size;
            return Ok(Some((source.digest(), size)));
        }
        if chunks.send(piece).is_err() {
            return Ok(None);
        }
    }
}

/// The producing half: digest and size of what was read; `None` where the consumer gave up first.
fn produce(
    mut source: Source<'_>,
    compression: Compression,
    limits: &Limits,
    chunks: &SyncSender<Vec<u8>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<Option<(String, u64)>> {
    let mut size = 0;
    let mut decoder = Decoder::new(compression, &mut source)?;
    loop {
        let mut chunk: Vec<u8> = spare.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let count = decoder.fill(&mut chunk)?;
        if count == 0 {
            break;
        }
        chunk.truncate(count);
        size += count as u64;
        let compressed = decoder.source().size;
        if size > limits.free_output && size / limits.ratio > compressed {
            return Err(Error::Invalid(format!(
                "malformed archive: {compressed} bytes expand to more than {} times that",
                limits.ratio
            )));
        }
        if chunks.send(chunk).is_err() {
            return Ok(None);
        }
    }
    drop(decoder);
    source.drain()?;
    let size = source.size;
    Ok(Some((source.digest(), size)))
}

//! A plain tar to gzip on all processors, for registries.
//!
//! ```text
//! fd -> diff_id, crc -> blocks of 1 MiB --> worker: deflate, the block before as dictionary --> digest -> fd
//!                                      `--> worker ...                          in order
//! ```
//! Every block ends on a byte (a sync flush), so that they are one deflate stream one after the other; where a
//! block ends depends on the bytes alone, and so the result does. Memory is bounded by the blocks on their way.
//!
//! Source: RFC 1951, RFC 1952; Mark Adler's pigz has the idea.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Compress, Compression, Crc, FlushCompress};
use sha2::{Digest as _, Sha256};

use super::source::write_all;
use super::stream::{digest_text, Digests};
use crate::error::{Error, Result};

const BLOCK: usize = 1 << 20;
/// How far back a deflate match may lie.
const WINDOW: usize = 32 << 10;
/// What gzip itself, and Docker, compress with.
const LEVEL: u32 = 6;
/// More gain nothing: reading and hashing are one thread's work.
const WORKERS_MAX: usize = 8;

/// No name, no time, no operating system: only what the bytes say.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block.
const END: [u8; 2] = [3, 0];

/// A block, the one before it, and where the result goes.
struct Job {
    block: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    result: SyncSender<Result<Vec<u8>>>,
}

/// Compress everything that `source` has to `target`.
pub fn compress_layer(source: &impl AsFd, target: &OwnedFd) -> Result<Digests> {
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX));
    let (jobs, waiting) = sync_channel::<Job>(workers);
    let (results, in_order) = sync_channel::<Receiver<Result<Vec<u8>>>>(2 * workers);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        let failed = |error| Error::os("start a thread for", "layer", error);
        for _ in 0..workers {
            let thread = std::thread::Builder::new().name("proa-deflate".into());
            thread.spawn_scoped(scope, || work(&waiting)).map_err(failed)?;
        }
        let thread = std::thread::Builder::new().name("proa-gzip".into());
        let writer = thread.spawn_scoped(scope, move || write(target, &in_order)).map_err(failed)?;
        let read = read(source, jobs, results);
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(Error::Invalid("the compressed layer was not written".into())));
        // A writer that failed is why there was nobody to give blocks to.
        let (mut digest, mut compressed_size) = written?;
        let Plain { diff_id, size, crc } = read?;
        let trailer = [&END[..], &crc.to_le_bytes(), &(size as u32).to_le_bytes()].concat();
        write_all(target, &trailer)?;
        digest.update(&trailer);
        compressed_size += trailer.len() as u64;
        Ok(Digests { digest: digest_text(digest), diff_id, compressed_size, size })
    })
}

struct Plain {
    diff_id: String,
    size: u64,
    crc: u32,
}

/// Read, hash and hand out. Ends early where nobody takes the blocks: the writer says why.
#[allow(clippy::needless_pass_by_value)] // The channels close when this returns.
fn read(
    source: &impl AsFd,
    jobs: SyncSender<Job>,
    results: SyncSender<Receiver<Result<Vec<u8>>>>,
) -> Result<Plain> {
    let (mut hash, mut crc, mut size) = (Sha256::new(), Crc::new(), 0);
    let mut before = None;
    loop {
        let block = Arc::new(read_block(source)?);
        if block.is_empty() {
            break;
        }
        hash.update(&*block);
        crc.update(&block);
        size += block.len() as u64;
        let (result, receiver) = sync_channel(1);
        let job = Job { block: Arc::clone(&block), before: before.replace(block), result };
        if results.send(receiver).is_err() || jobs.send(job).is_err() {
            break;
        }
    }
    Ok(Plain { diff_id: digest_text(hash), size, crc: crc.sum() })
}

/// A whole block, or what is left.
fn read_block(source: &impl AsFd) -> Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    let mut done = 0;
    while done < BLOCK {
        match rustix::io::read(source, &mut block[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("read", "layer", errno)),
        }
    }
    block.truncate(done);
    Ok(block)
}

/// One worker: blocks until there are no more.
fn work(waiting: &Mutex<Receiver<Job>>) {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, before, result }) = next else { return };
        // The writer may have given up.
        let _ = result.send(deflate(&mut compress, &block, before.as_ref().map(|block| &block[..])));
    }
}

fn deflate(compress: &mut Compress, block: &[u8], before: Option<&[u8]>) -> Result<Vec<u8>> {
    let failed = |error| Error::os("compress", "layer", std::io::Error::other(error));
    compress.reset();
    if let Some(before) = before {
        let window = &before[before.len().saturating_sub(WINDOW)..];
        compress.set_dictionary(window).map_err(|error| failed(error.to_string()))?;
    }
    // Deflate adds at most a few bytes for each 16 KiB; a flush a few more.
    let mut output = Vec::with_capacity(block.len() + (block.len() >> 8) + 64);
    loop {
        let taken = compress.total_in() as usize;
        let room = output.capacity() - output.len();
        compress
            .compress_vec(&block[taken..], &mut output, FlushCompress::Sync)
            .map_err(|error| failed(error.to_string()))?;
        if compress.total_in() as usize == block.len() && output.len() < output.capacity() {
            return Ok(output);
        }
        output.reserve(room.max(4096));
    }
}

/// Everything in the order it was read, without the trailer: its digest so far and its size.
fn write(target: &OwnedFd, in_order: &Receiver<Receiver<Result<Vec<u8>>>>) -> Result<(Sha256, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut put = |bytes: &[u8]| {
        hash.update(bytes);
        size += bytes.len() as u64;
        write_all(target, bytes)
    };
    put(&HEADER)?;
    for result in in_order {
        // No result at all: the worker has panicked.
        let packed =
            result.recv().unwrap_or_else(|_| Err(Error::Invalid("the layer was not compressed".into())))?;
        put(&packed)?;
    }
    Ok((hash, size))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn packed(data: &[u8]) -> (Digests, Vec<u8>) {
        let mut source = tempfile::tempfile().expect("a file");
        source.write_all(data).expect("written");
        source.rewind().expect("rewound");
        let target = tempfile::tempfile().expect("a file");
        let found = compress_layer(&source, &OwnedFd::from(target.try_clone().expect("a duplicate")))
            .expect("packed");
        let (mut target, mut bytes) = (target, Vec::new());
        target.rewind().expect("rewound");
        target.read_to_end(&mut bytes).expect("read");
        (found, bytes)
    }

    #[test]
    fn any_gunzip_gives_the_bytes_back() {
        let noise = |count: usize| (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
        let mut data: Vec<u8> = noise(BLOCK + 7).collect();
        data.resize(data.len() + 3 * BLOCK, b'x');
        data.extend(noise(123));
        for data in [&data[..], &data[..BLOCK], b"short", b""] {
            let (found, bytes) = packed(data);
            let mut plain = Vec::new();
            // Not the multi-member decoder: it is one member.
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
            assert!(plain == data);
            assert_eq!(found.compressed_size, bytes.len() as u64);
            assert_eq!(found.size, data.len() as u64);
            assert_eq!(found.digest, digest_text(Sha256::new_with_prefix(&bytes)));
            assert_eq!(found.diff_id, digest_text(Sha256::new_with_prefix(data)));
        }
    }

    #[test]
    fn blocks_know_what_came_before_them() {
        let line: Vec<u8> = (0..WINDOW as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut data = vec![0; BLOCK - line.len()];
        data.extend_from_slice(&line);
        let alone = packed(&data).1.len();
        data.extend_from_slice(&line[line.len() / 2..]);
        assert!(packed(&data).1.len() < alone + 2000);
    }

    #[test]
    fn a_target_that_cannot_be_written_to_is_the_failure() {
        let source = std::fs::File::open("/dev/zero").expect("zeros");
        let target = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let error = compress_layer(&source, &target.into()).expect_err("full");
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}

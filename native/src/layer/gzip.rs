//! gzip on every processor: one valid stream of one member, the same bytes whatever the number of threads.
//!
//! ```text
//! write --blocks--> workers (deflate, the 32 KiB before as dictionary) --in order--> sink thread
//! ```
//! Each block ends on a byte boundary with an empty stored block (as `Z_SYNC_FLUSH` leaves it), the last one with
//! the stream's end, so that they can be joined as they are. What pigz does.
//!
//! Source: RFC 1951, RFC 1952.

use std::sync::mpsc::{channel, sync_channel, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::sink::Sink;
use crate::error::{Error, Result};

/// Bytes of one block: what is lost at its ends is a fraction of a per cent, and a few of them are no memory.
pub(super) const BLOCK: usize = 512 << 10;
/// What deflate looks back.
pub(super) const WINDOW: usize = 32 << 10;
/// More than this many threads wait for the one that reads.
const WORKERS_MAX: usize = 16;
/// Measured with zlib-rs on a Python installation, for one processor (MB/s, per cent of the size): 1: 346, 33.9;
/// 2: 185, 28.1; 3: 155, 26.5; 4: 128, 25.9; 5: 110, 25.2; 6: 87, 25.1; GNU gzip's 6: 33, 24.9. Past 4 a second
/// of compression saves less than it takes to send at a gigabit.
const LEVEL: u32 = 4;

/// No time, no name, Unix: equal layers are equal.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

struct Job {
    block: Vec<u8>,
    dictionary: Vec<u8>,
    last: bool,
    done: Sender<Result<Vec<u8>>>,
}

/// Takes plain bytes, gives the sink the gzip stream; the sink comes back at the end.
pub struct Writer<'scope> {
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<Result<Vec<u8>>>>,
    /// Until it has failed.
    sink: Option<ScopedJoinHandle<'scope, Result<Sink<'scope>>>>,
    block: Vec<u8>,
    dictionary: Vec<u8>,
    crc: Crc,
}

impl<'scope> Writer<'scope> {
    /// On threads of `scope`, which end with the writer, finished or dropped.
    pub fn new(scope: &'scope Scope<'scope, '_>, sink: Sink<'scope>, level: Option<i32>) -> Result<Self> {
        let level = level.map_or(LEVEL, |level| level.clamp(0, 9).unsigned_abs());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let spawning = |error| Error::os("start a thread for", "layer", error);
        let (jobs, queue) = sync_channel(1);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("proa-deflate".into())
                .spawn_scoped(scope, move || work(&queue, level))
                .map_err(spawning)?;
        }
        let (order, ordered) = sync_channel(2 * workers);
        let sink = std::thread::Builder::new()
            .name("proa-gzip".into())
            .spawn_scoped(scope, move || drain(sink, &ordered))
            .map_err(spawning)?;
        let block = Vec::with_capacity(BLOCK);
        Ok(Self { jobs, order, sink: Some(sink), block, dictionary: Vec::new(), crc: Crc::new() })
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.hand_over(false)?;
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, last: bool) -> Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(if last { 0 } else { BLOCK }));
        let next = block[block.len().saturating_sub(WINDOW)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, next);
        let (done, result) = channel();
        if self.order.send(result).is_ok() && self.jobs.send(Job { block, dictionary, last, done }).is_ok() {
            return Ok(());
        }
        // Nobody takes it any more: the sink's thread has ended, and says why.
        match self.sink.take().map(ScopedJoinHandle::join) {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(stopped()),
        }
    }

    /// Compress the rest and write the trailer.
    pub fn finish(mut self) -> Result<Sink<'scope>> {
        self.hand_over(true)?;
        let trailer = [self.crc.sum().to_le_bytes(), self.crc.amount().to_le_bytes()].concat();
        let Self { jobs, order, sink, .. } = self;
        drop((jobs, order));
        let mut sink =
            sink.map_or_else(|| Err(stopped()), |sink| sink.join().unwrap_or_else(|_| Err(stopped())))?;
        sink.put(&trailer)?;
        Ok(sink)
    }
}

fn stopped() -> Error {
    Error::Invalid("the compression of a layer has stopped".into())
}

/// Compress blocks until no more come.
fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    let mut deflate = Compress::new(Compression::new(level), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, dictionary, last, done }) = job else { return };
        let _ = done.send(compress(&mut deflate, &block, &dictionary, last));
    }
}

fn compress(deflate: &mut Compress, block: &[u8], dictionary: &[u8], last: bool) -> Result<Vec<u8>> {
    let failed = |error| Error::os("compress", "layer", std::io::Error::other(error));
    deflate.reset();
    if !dictionary.is_empty() {
        deflate.set_dictionary(dictionary).map_err(failed)?;
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(block.len() / 2 + 64);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate.compress_vec(&block[taken..], &mut out, flush).map_err(failed)?;
        // Room that was not used up means that all is out, the flush included.
        if status == Status::StreamEnd || (!last && out.len() < out.capacity()) {
            return Ok(out);
        }
        out.reserve(block.len() / 2 + 64);
    }
}

/// The stream but for its trailer, block after block.
fn drain<'a>(mut sink: Sink<'a>, ordered: &Receiver<Receiver<Result<Vec<u8>>>>) -> Result<Sink<'a>> {
    sink.put(&HEADER)?;
    for result in ordered {
        // Unanswered where the writer was dropped in between.
        let Ok(block) = result.recv() else { break };
        sink.put(&block?)?;
    }
    Ok(sink)
}

//! A layer that comes piece by piece from memory: a bounded queue, and the thread that unpacks what is in it.
//!
//! ```text
//! caller --write, try_write, write_file--> Feed (bounded) --> stream::run on a thread --> finish
//!                   a lent socket, read in its own thread --'
//! ```
//! Bytes of a download go in as they arrive; those of an earlier attempt, which lie in a file, go in before
//! them and are not copied again. Every way out (finish, abort, drop) ends with the thread joined.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{eventfd, EventfdFlags};

use super::body::Body;
use super::limits::Limits;
use super::source::Input;
use super::stream::CHUNK;
use super::{unpack_input, Layer, Recording};
use crate::error::{Error, Result};

/// Bytes that may wait in the queue. One piece is always taken, so that its size cannot block it for good.
const QUEUE: usize = 1 << 20;

/// Some compressed bytes.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Vec<u8>,
    /// Whether the copy has them already.
    pub copied: bool,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// No more will come.
    ended: bool,
    /// The reading side is gone, or is to go.
    closed: bool,
    /// A `try_write` was turned away and waits for the eventfd.
    starved: bool,
    lent: Lent,
}

/// The socket that the reading side takes bytes from itself, when there are no pieces.
#[derive(Debug, Default)]
enum Lent {
    #[default]
    Nothing,
    Here(Body),
    /// It is being read.
    Out,
    /// Nothing plain was left to read.
    Done(Body),
}

impl Lent {
    /// A socket that there is to read.
    fn take(&mut self) -> Option<Body> {
        match std::mem::replace(self, Self::Out) {
            Self::Here(body) => Some(body),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// The queue: one thread takes, others give.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    changed: Condvar,
    room: OwnedFd,
}

impl Feed {
    pub fn new() -> Result<Self> {
        let room = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::os("create", "eventfd", errno))?;
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), room })
    }

    /// Nothing that panics runs under the lock, and no state in between is left there.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece; `None` at the end. Waits.
    pub(super) fn take(&self) -> Result<Option<Piece>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(Error::Invalid("the layer was given up".into()));
            }
            if let Some(piece) = state.pieces.pop_front() {
                state.bytes -= piece.bytes.len();
                self.changed.notify_all();
                if std::mem::take(&mut state.starved) {
                    self.signal();
                }
                return Ok(Some(piece));
            }
            if state.ended {
                return Ok(None);
            }
            if let Some(body) = state.lent.take() {
                drop(state);
                if let Some(bytes) = self.read_lent(body) {
                    return Ok(Some(Piece { bytes, copied: false }));
                }
                state = self.lock();
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next bytes of a lent socket, which is put back.
    fn read_lent(&self, mut body: Body) -> Option<Vec<u8>> {
        let bytes = body.next();
        let mut state = self.lock();
        state.lent = match (&bytes, state.closed) {
            (Some(_), false) => Lent::Here(body),
            (None, false) => Lent::Done(body),
            // Whoever closed found it being read and lets the connection go: this is the last that holds it.
            (_, true) => Lent::Nothing,
        };
        if !matches!(state.lent, Lent::Here(_)) {
            self.signal();
        }
        bytes
    }

    /// Let the reading side take bytes from a socket. `room` becomes readable when it has done with it.
    pub fn lend(&self, body: Body) {
        let mut state = self.lock();
        let _ = rustix::io::read(&self.room, &mut [0; 8]);
        if state.closed {
            self.signal();
        }
        state.lent = Lent::Here(body);
        self.changed.notify_all();
    }

    /// Take the lent socket back; `None` while it is being read.
    pub fn reclaim(&self) -> Option<Body> {
        let mut state = self.lock();
        match std::mem::take(&mut state.lent) {
            Lent::Here(body) | Lent::Done(body) => Some(body),
            Lent::Nothing => None,
            Lent::Out => {
                state.lent = Lent::Out;
                None
            }
        }
    }

    /// Put a piece in; false where nobody will read it. Waits for room.
    fn put(&self, piece: Piece) -> bool {
        let mut state = self.lock();
        while !state.closed && state.bytes > 0 && state.bytes + piece.bytes.len() > QUEUE {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.push(&mut state, piece)
    }

    /// Put a copy of `bytes` in if there is room: `None` where there is none, false as `put`.
    pub fn try_put(&self, bytes: &[u8]) -> Option<bool> {
        let mut state = self.lock();
        if !state.closed && state.bytes > 0 && state.bytes + bytes.len() > QUEUE {
            state.starved = true;
            let _ = rustix::io::read(&self.room, &mut [0; 8]);
            return None;
        }
        Some(self.push(&mut state, Piece { bytes: bytes.to_vec(), copied: false }))
    }

    fn push(&self, state: &mut State, piece: Piece) -> bool {
        if state.closed {
            return false;
        }
        // An empty piece would read as the end.
        if piece.bytes.is_empty() {
            return true;
        }
        state.bytes += piece.bytes.len();
        state.pieces.push_back(piece);
        self.changed.notify_all();
        true
    }

    /// No more will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Nothing more is read, nothing more is taken in; whoever waits is woken.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.pieces.clear();
        state.bytes = 0;
        self.changed.notify_all();
        self.signal();
    }

    /// An eventfd, readable when a `try_put` that was turned away may be tried again, or a lent socket reclaimed.
    pub fn room(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    fn signal(&self) {
        let _ = rustix::io::write(&self.room, &1_u64.to_ne_bytes());
    }
}

#[derive(Debug)]
enum Outcome {
    Running(JoinHandle<Result<Layer>>),
    /// Told once with its whole cause, then again to whoever still writes.
    Failed(Error),
    /// Finished or aborted.
    Over,
}

/// Unpacks a layer that is handed over piece by piece. Any thread may call; each call holds for itself.
#[derive(Debug)]
pub struct LayerUnpacker {
    feed: Arc<Feed>,
    outcome: Mutex<Outcome>,
}

impl LayerUnpacker {
    /// Begin to unpack into the directory `target`, as [`super::unpack_layer`] does.
    pub fn new(target: &str, overlay: bool, copy: Option<OwnedFd>, limits: Limits) -> Result<Self> {
        Self::start(target, overlay, copy, limits, None)
    }

    /// The same, and keep a recipe of the layer, which must come uncompressed, or else its blob.
    pub(super) fn recording(target: &str, blob: PathBuf, limits: Limits) -> Result<Self> {
        let recording = Recording { directory: target.to_owned(), blob };
        Self::start(target, true, None, limits, Some(recording))
    }

    fn start(
        target: &str,
        overlay: bool,
        copy: Option<OwnedFd>,
        limits: Limits,
        recording: Option<Recording>,
    ) -> Result<Self> {
        let feed = Arc::new(Feed::new()?);
        let root = super::tree::open_root(target)?;
        let source = Arc::clone(&feed);
        let thread = std::thread::Builder::new()
            .name("proa-layer".into())
            .spawn(move || {
                unpack_input(Input::Feed(&source), root, overlay, copy.as_ref(), &limits, recording)
            })
            .map_err(|error| Error::os("start a thread for", "layer", error))?;
        Ok(Self { feed, outcome: Mutex::new(Outcome::Running(thread)) })
    }

    /// Hand over the next bytes. Waits while the queue is full; fails as the unpacking did.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        if self.feed.put(Piece { bytes: bytes.to_vec(), copied: false }) {
            return Ok(());
        }
        Err(self.failure())
    }

    /// The same without waiting: false where there is no room; `room` becomes readable when there may be.
    pub fn try_write(&self, bytes: &[u8]) -> Result<bool> {
        match self.feed.try_put(bytes) {
            None => Ok(false),
            Some(true) => Ok(true),
            Some(false) => Err(self.failure()),
        }
    }

    /// An eventfd, readable when a `try_write` that was turned away may be tried again.
    pub fn room(&self) -> BorrowedFd<'_> {
        self.feed.room()
    }

    /// Hand over the first `size` bytes of a file, which is where the copy goes or a twin of it: they are not
    /// written to the copy. Waits; fails where the file is shorter.
    pub fn write_file(&self, file: &OwnedFd, size: u64) -> Result<()> {
        let mut offset = 0;
        while offset < size {
            let step = usize::try_from(size - offset).unwrap_or(usize::MAX).min(CHUNK);
            let mut bytes = vec![0; step];
            match rustix::io::pread(file, &mut bytes[..], offset) {
                Ok(0) => {
                    return Err(Error::Invalid(format!("the partial file ends at {offset} of {size} bytes")))
                }
                Ok(count) => bytes.truncate(count),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(Error::os("read", "partial layer", errno)),
            }
            offset += bytes.len() as u64;
            if !self.feed.put(Piece { bytes, copied: true }) {
                return Err(self.failure());
            }
        }
        Ok(())
    }

    /// No more will come: wait for the rest to be unpacked.
    pub fn finish(&self) -> Result<Layer> {
        self.feed.end();
        let mut outcome = self.lock();
        match std::mem::replace(&mut *outcome, Outcome::Over) {
            Outcome::Running(thread) => join(thread),
            Outcome::Failed(error) => Err(error),
            Outcome::Over => Err(over()),
        }
    }

    /// Stop, whatever was written; what is on disk stays for the caller to remove. Idempotent.
    pub fn abort(&self) {
        self.feed.close();
        if let Outcome::Running(thread) = std::mem::replace(&mut *self.lock(), Outcome::Over) {
            let _ = join(thread);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the reading side has gone.
    fn failure(&self) -> Error {
        let mut outcome = self.lock();
        match std::mem::replace(&mut *outcome, Outcome::Over) {
            Outcome::Running(thread) => match join(thread) {
                Err(error) => {
                    *outcome = Outcome::Failed(again(&error));
                    error
                }
                // It ended before its input did: closed by an abort meanwhile.
                Ok(_) => over(),
            },
            Outcome::Failed(error) => {
                *outcome = Outcome::Failed(again(&error));
                error
            }
            Outcome::Over => over(),
        }
    }
}

impl Drop for LayerUnpacker {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Whoever reads a feed holds this, so that it is closed however that ends, a panic included: a writer must never
/// wait for nobody.
#[derive(Debug)]
pub(super) struct CloseAtEnd<'a>(pub &'a Feed);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn join(thread: JoinHandle<Result<Layer>>) -> Result<Layer> {
    thread.join().unwrap_or_else(|_| Err(Error::Invalid("malformed archive".into())))
}

fn over() -> Error {
    Error::Invalid("the layer is finished or was given up".into())
}

/// The same error once more; only its errno is kept of the source.
fn again(error: &Error) -> Error {
    match error {
        Error::Os { operation, path, source } => {
            let source = source
                .raw_os_error()
                .map_or_else(|| std::io::Error::other(source.to_string()), std::io::Error::from_raw_os_error);
            Error::os(operation.clone(), path.clone(), source)
        }
        Error::Invalid(text) => Error::Invalid(text.clone()),
    }
}

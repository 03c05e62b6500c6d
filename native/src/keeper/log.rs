//! The log of one process: its output as lines, to the file and to where lines are shipped.
//!
//! Owns the unfinished line of each stream. A line longer than [`PARTIAL`] is logged in pieces; the pieces of
//! one line share an id, as Docker's do.
//! Source: Docker's `daemon/logger/copier.go`.

use std::os::fd::BorrowedFd;

use serde_bytes::ByteBuf;

use super::json_line::{format_time, Stream};
use super::log_writer::{FileState, LogWriter};
use super::poll::{Flags, Registration};
use super::ship::{Entry, Piece, Ship, ShipState};
use super::timers::monotonic_ns;
use crate::sys::supervise::adopt;

/// A longer line is logged in pieces of this size, all but the last without a newline.
pub const PARTIAL: usize = 16 * 1024;

#[derive(Debug)]
pub struct Log {
    /// The unfinished line of stdout and of stderr.
    unfinished: [Vec<u8>; 2],
    /// The last piece of a line of stdout and of stderr that came in pieces, while more are to come.
    pieces: [Option<Piece>; 2],
    file: Option<LogWriter>,
    ship: Option<Box<Ship>>,
}

/// What a hand-over carries of a log with a file, besides its descriptor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct LogState {
    #[serde(flatten)]
    file: FileState,
    #[serde(flatten)]
    lines: Lines,
}

/// What a hand-over carries of a log that ships its lines, besides its descriptor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct ShippedState {
    ship: ShipState,
    lines: Lines,
    pieces: [Option<Piece>; 2],
}

/// The unfinished lines on their way to a newer keeper.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Lines {
    stdout: ByteBuf,
    stderr: ByteBuf,
}

/// A log on its way to a newer keeper; descriptors by number.
pub type States = (Option<(i32, LogState)>, Option<(Option<i32>, ShippedState)>);

impl Log {
    /// Nothing where there is neither.
    #[must_use]
    pub fn new(file: Option<LogWriter>, ship: Option<Ship>) -> Option<Self> {
        if file.is_none() && ship.is_none() {
            return None;
        }
        Some(Self { unfinished: Default::default(), pieces: [None, None], file, ship: ship.map(Box::new) })
    }

    /// Log what was read from `stream` at `time_ns`. `scratch` is a shared buffer, empty before and after.
    pub fn append(&mut self, stream: Stream, mut bytes: &[u8], time_ns: u64, scratch: &mut Vec<u8>) {
        let time = format_time(time_ns);
        let mut unfinished = std::mem::take(&mut self.unfinished[stream.index()]);
        while !bytes.is_empty() {
            let room = PARTIAL - unfinished.len();
            let window = &bytes[..bytes.len().min(room)];
            let (piece, newline) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (&window[..at], true),
                None => (window, false),
            };
            bytes = &bytes[piece.len() + usize::from(newline)..];
            if !newline && piece.len() < room {
                unfinished.extend_from_slice(piece);
                break;
            }
            if unfinished.is_empty() {
                self.line(piece, newline, stream, (time_ns, &time), scratch);
            } else {
                unfinished.extend_from_slice(piece);
                self.line(&unfinished, newline, stream, (time_ns, &time), scratch);
                unfinished.clear();
            }
        }
        if unfinished.is_empty() {
            unfinished = Vec::new();
        }
        self.unfinished[stream.index()] = unfinished;
        self.write(scratch);
    }

    /// The stream has ended: log its unfinished line, without a newline.
    pub fn finish(&mut self, stream: Stream, time_ns: u64, scratch: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.unfinished[stream.index()]);
        if !rest.is_empty() {
            self.line(&rest, false, stream, (time_ns, &format_time(time_ns)), scratch);
            self.write(scratch);
        }
    }

    /// All is logged: close the file. What is left is a log that has lines on their way yet.
    #[must_use]
    pub fn end(mut self) -> Option<Self> {
        self.file = None;
        self.ship.as_mut()?.end(monotonic_ns());
        self.rest()
    }

    /// Nothing once all lines of an ended process are sent.
    #[must_use]
    pub fn rest(self) -> Option<Self> {
        let busy = self.ship.as_ref()?.is_busy();
        busy.then_some(self)
    }

    /// The lines of an ended process have had their time.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.ship.as_ref().is_some_and(|ship| ship.is_late(monotonic_ns()))
    }

    fn line(
        &mut self,
        text: &[u8],
        newline: bool,
        stream: Stream,
        (time_ns, time): (u64, &str),
        scratch: &mut Vec<u8>,
    ) {
        if let Some(file) = &mut self.file {
            file.line(text, newline, stream, time, scratch);
        }
        if let Some(ship) = &mut self.ship {
            let piece = Piece::after(self.pieces[stream.index()].take(), newline, time_ns);
            let time_ns = piece.as_ref().map_or(time_ns, |piece| piece.time_ns);
            ship.push(&Entry { text, stream, time_ns, piece: piece.as_ref() }, monotonic_ns());
            self.pieces[stream.index()] = piece.filter(|piece| !piece.last);
        }
    }

    fn write(&mut self, scratch: &mut Vec<u8>) {
        if let Some(file) = &mut self.file {
            file.write(scratch);
        }
        if let Some(ship) = &mut self.ship {
            ship.send(monotonic_ns());
        }
    }

    /// The unfinished line of a stream: output that is not in the file yet.
    #[must_use]
    pub fn unfinished(&self, stream: Stream) -> &[u8] {
        &self.unfinished[stream.index()]
    }

    /// Of the file; none where there is no file to read.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.file.as_ref().map(LogWriter::path)
    }

    /// How much to read at a time where each line is a message that is packed and sent.
    #[must_use]
    pub fn shipped_read_size(&self) -> Option<usize> {
        self.ship.as_ref().map(|ship| ship.read_size())
    }

    /// What comes now is for the file alone.
    pub fn end_shipping(&mut self) {
        if let Some(ship) = &mut self.ship {
            ship.end(monotonic_ns());
        }
    }

    /// No further output can be taken before some was sent.
    #[must_use]
    pub fn congested(&self) -> bool {
        self.ship.as_ref().is_some_and(|ship| ship.is_full())
    }

    /// Where lines are shipped to is ready.
    pub fn on_ready(&mut self, flags: Flags) {
        if let Some(ship) = &mut self.ship {
            ship.on_ready(flags, monotonic_ns());
        }
    }

    /// A time has come that [`Log::due`] has told of.
    pub fn wake(&mut self) {
        if let Some(ship) = &mut self.ship {
            ship.wake(monotonic_ns());
        }
    }

    /// When to be woken, in monotonic nanoseconds.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.ship.as_ref()?.due()
    }

    /// All of it for a hand-over; `lend` makes a descriptor survive the execve and answers its number.
    pub fn state(&self, lend: &mut dyn FnMut(BorrowedFd<'_>) -> i32) -> States {
        let lines = || {
            let [stdout, stderr] = &self.unfinished;
            Lines { stdout: ByteBuf::from(stdout.clone()), stderr: ByteBuf::from(stderr.clone()) }
        };
        let file = self.file.as_ref().map(LogWriter::state);
        let file = file.map(|(fd, file)| (lend(fd), LogState { file, lines: lines() }));
        let ship = self.ship.as_ref().map(|ship| ship.state());
        let ship = ship.map(|(fd, ship)| {
            (fd.map(lend), ShippedState { ship, lines: lines(), pieces: self.pieces.clone() })
        });
        (file, ship)
    }

    /// Go on with what an older keeper had.
    #[must_use]
    pub fn restore((file, ship): States, registration: Registration) -> Option<Self> {
        let (mut unfinished, mut pieces) = (Lines::default(), [None, None]);
        let ship = ship.map(|(fd, shipped)| {
            (unfinished, pieces) = (shipped.lines, shipped.pieces);
            Ship::restore(shipped.ship, fd.and_then(adopt), registration, monotonic_ns())
        });
        let file = file.and_then(|(fd, state)| {
            unfinished = state.lines;
            Some(LogWriter::restore(adopt(fd)?, state.file))
        });
        let mut log = Self::new(file, ship)?;
        log.unfinished = [unfinished.stdout.into_vec(), unfinished.stderr.into_vec()];
        log.pieces = pieces;
        Some(log)
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;

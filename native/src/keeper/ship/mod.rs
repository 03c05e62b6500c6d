//! Ships one process's log lines to where they are collected: a bounded queue, one connection, one encoder.
//!
//! Nothing here waits: what the socket does not take is kept. In blocking mode a full queue stops the reading of
//! the process's output, as Docker's drivers stop it; otherwise what does not fit is dropped and counted, as is what
//! an ended process leaves in its pipes beyond [`FLOOD`]. A
//! connection that is lost is made again when there is something to send; what was not sent whole is sent anew.
//!
//! | file       | decision it hides                                       |
//! |------------|---------------------------------------------------------|
//! | config.rs  | where to, how long and how often                        |
//! | link.rs    | the connection and its failures                         |
//! | names.rs   | addresses of names                                      |
//! | syslog.rs journald.rs fluentd.rs gelf.rs | one encoding each         |
//!
//! Source: Docker's `daemon/logger` (ring.go and the drivers).

mod config;
mod fluentd;
mod gelf;
mod journald;
mod link;
mod names;
mod syslog;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::rand::{getrandom, GetRandomFlags};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::json_line::Stream;
use super::poll::{Flags, Registration};
use config::Format;
pub use config::Shipping;
use link::{Link, Sent};

/// How long lines are waited for after the process has ended. Source: Docker's `loggerCloseTimeout`.
pub const END_NS: u64 = 10_000_000_000;
/// Bytes that may wait beyond a full queue in blocking mode: more than one read comes to.
const FLOOD: usize = 8 << 20;
/// Bytes read of a process's output at a time, each of which may be a message to be packed and sent.
const READ_SIZE: usize = 8 * 1024;
/// Fewer where the messages of one read would come to more than this.
const READ_WEIGHT: usize = 4 << 20;
/// What a message has besides its line and its attributes, about.
const HEAD: usize = 128;

/// One line, or a piece of a long one.
#[derive(Debug)]
pub struct Entry<'a> {
    pub text: &'a [u8],
    pub stream: Stream,
    /// Unix time; of the first piece, where there are pieces.
    pub time_ns: u64,
    pub piece: Option<&'a Piece>,
}

/// Which piece of a long line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Piece {
    /// 64 hex digits.
    pub id: String,
    /// From 1.
    pub ordinal: u32,
    pub last: bool,
    pub time_ns: u64,
}

impl Piece {
    /// The piece after `before`; none for a line that is whole.
    #[must_use]
    pub fn after(before: Option<Self>, newline: bool, time_ns: u64) -> Option<Self> {
        match before {
            Some(before) => Some(Self { ordinal: before.ordinal + 1, last: newline, ..before }),
            None if newline => None,
            None => Some(Self { id: hex(&random_bytes::<32>()), ordinal: 1, last: false, time_ns }),
        }
    }
}

fn random_bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // Ignored: so few come whole, from a kernel that has been up for long.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

#[derive(Debug)]
pub struct Ship {
    config: Shipping,
    link: Link,
    /// Packets of a datagram socket, messages of a stream.
    queue: VecDeque<Vec<u8>>,
    /// Bytes in the queue.
    queued: usize,
    /// The shortest line that did not fit since something was sent.
    too_long: usize,
    /// Lines shipped so far, lost ones too.
    ordinal: u64,
    /// Messages that were lost and not told of yet.
    dropped: u64,
    /// Until when the rest is waited for, once the process has ended.
    deadline_ns: Option<u64>,
}

/// What a hand-over carries besides the socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShipState {
    config: Shipping,
    queue: Vec<ByteBuf>,
    /// Bytes of the first that are sent.
    sent: usize,
    ordinal: u64,
    dropped: u64,
    deadline_ns: Option<u64>,
}

impl Ship {
    /// `socket` is connected already, or there is none yet.
    #[must_use]
    pub fn new(config: Shipping, socket: Option<OwnedFd>, registration: Registration, now_ns: u64) -> Self {
        let link = Link::new(socket, registration, now_ns);
        let (queue, deadline_ns) = (VecDeque::new(), None);
        Self { config, link, queue, queued: 0, too_long: usize::MAX, ordinal: 0, dropped: 0, deadline_ns }
    }

    /// Take a line. [`Ship::send`] sends it.
    pub fn push(&mut self, entry: &Entry<'_>, now_ns: u64) {
        self.ordinal += 1;
        // Asked first: encoding takes most of the time.
        if self.deadline_ns.is_some() {
            return self.drop_message(&"they come too late");
        } else if !self.has_room(entry.text.len()) {
            return self.drop_message(&"the buffer is full");
        } else if self.link.gave_up(now_ns) {
            return self.drop_message(&"there is no connection");
        }
        let packets = match &self.config.format {
            Format::Syslog(format) => Some(format.encode(entry)),
            Format::Journald(format) => Some(vec![format.encode(entry, self.ordinal)]),
            Format::Fluentd(format) => Some(vec![format.encode(entry)]),
            Format::Gelf(format) => format.encode(entry),
        };
        let Some(packets) = packets else { return self.drop_message(&"the message is too large") };
        let size: usize = packets.iter().map(Vec::len).sum();
        let full = !self.config.blocking && !self.queue.is_empty() && self.queued + size > self.config.buffer;
        if full {
            self.too_long = entry.text.len();
            self.drop_message(&"the buffer is full");
        } else {
            self.queued += size;
            self.queue.extend(packets);
        }
    }

    fn has_room(&self, length: usize) -> bool {
        if self.config.blocking {
            self.queued < self.config.buffer.saturating_add(FLOOD)
        } else {
            length < self.too_long
        }
    }

    fn drop_message(&mut self, why: &dyn std::fmt::Display) {
        if self.dropped == 0 {
            let Shipping { id, to, .. } = &self.config;
            report!("log of {id}: messages to {to} are being dropped: {why}");
        }
        self.dropped += 1;
    }

    /// Send what can be sent, and connect where there is no connection.
    pub fn send(&mut self, now_ns: u64) {
        while let Some(first) = self.queue.front() {
            match self.link.send(&self.config, first, now_ns) {
                Sent::Whole => {
                    self.take_first();
                    self.tell_dropped();
                }
                Sent::Not => break,
                Sent::Refused(error) => {
                    self.take_first();
                    self.drop_message(&error);
                }
                Sent::GaveUp(error) => {
                    for _ in 0..self.queue.len() {
                        self.drop_message(&error);
                    }
                    self.queue.clear();
                    (self.queued, self.too_long) = (0, usize::MAX);
                }
            }
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(16);
        }
        self.link.settle(!self.queue.is_empty());
    }

    fn take_first(&mut self) {
        if let Some(first) = self.queue.pop_front() {
            self.queued -= first.len();
            self.too_long = usize::MAX;
        }
    }

    /// Some arrive again: say how many did not.
    fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            let Shipping { id, to, .. } = &self.config;
            report!("log of {id}: {} messages to {to} were dropped", self.dropped);
            self.dropped = 0;
        }
    }

    pub fn on_ready(&mut self, flags: Flags, now_ns: u64) {
        self.link.on_ready(flags, &self.config, now_ns);
        self.send(now_ns);
    }

    pub fn wake(&mut self, now_ns: u64) {
        self.link.wake(&self.config, now_ns);
        self.send(now_ns);
    }

    /// When something is to be done though nothing is ready, in monotonic nanoseconds.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        if self.queue.is_empty() {
            None
        } else {
            self.link.due(&self.config)
        }
    }

    /// The reading of the process's output has to stop.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.config.blocking && self.queued >= self.config.buffer
    }

    /// Bytes of the process's output to read before others get their turn.
    #[must_use]
    pub fn read_size(&self) -> usize {
        (READ_WEIGHT / (HEAD + self.config.format.attributes())).clamp(1, READ_SIZE)
    }

    /// The process has ended; what is queued has some time yet, and nothing more is taken.
    pub fn end(&mut self, now_ns: u64) {
        self.deadline_ns = Some(now_ns + END_NS);
    }

    /// Something is on its way yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The time for what is left is over.
    #[must_use]
    pub fn is_late(&self, now_ns: u64) -> bool {
        self.deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
    }

    /// The socket and the rest of the state, for a hand-over.
    #[must_use]
    pub fn state(&self) -> (Option<BorrowedFd<'_>>, ShipState) {
        let (socket, sent) = self.link.state();
        let queue = self.queue.iter().map(|message| ByteBuf::from(message.clone())).collect();
        let (config, ordinal, dropped, deadline_ns) =
            (self.config.clone(), self.ordinal, self.dropped, self.deadline_ns);
        (socket, ShipState { config, queue, sent, ordinal, dropped, deadline_ns })
    }

    /// Go on where an older keeper has stopped; without its socket, from the first that was not sent whole.
    #[must_use]
    pub fn restore(
        state: ShipState,
        socket: Option<OwnedFd>,
        registration: Registration,
        now_ns: u64,
    ) -> Self {
        let ShipState { config, queue, sent, ordinal, dropped, deadline_ns } = state;
        let link = Link::restore(socket, sent, registration, now_ns);
        let queue: VecDeque<_> = queue.into_iter().map(ByteBuf::into_vec).collect();
        let queued = queue.iter().map(Vec::len).sum();
        let too_long = usize::MAX;
        let mut ship = Self { config, link, queue, queued, too_long, ordinal, dropped, deadline_ns };
        ship.send(now_ns);
        ship
    }
}

impl Drop for Ship {
    fn drop(&mut self) {
        self.dropped += self.queue.len() as u64;
        self.tell_dropped();
    }
}

#[cfg(test)]
pub(super) mod tests;

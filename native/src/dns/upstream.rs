//! One question to one server, over UDP or TCP, from the network namespace that can reach it.
//!
//! Each has a socket of its own meanwhile, connected, so that the kernel picks a random port and lets only the
//! server's answers through, and a new random id. Source: RFC 5452, section 9.2; RFC 7766, section 8.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
};
use rustix::rand::{getrandom, GetRandomFlags};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::response::Response;
use super::server::{Poll, Source, Watched};
use super::table::Upstream;
use crate::epoll::Flags;
use crate::timers::monotonic_ns;

/// Questions that a UDP socket serves for, one at a time.
const MOST_USES: u8 = 16;
/// Idle sockets of all containers, and how long one may have been idle to be used again.
const MOST_IDLE: usize = 64;
const IDLE_NS: u64 = 5_000_000_000;
/// Messages on one socket that are not the answer, before it is given up.
const MOST_BOGUS: u8 = 16;

/// Where the calling thread's new sockets are: it goes where the next one has to be, and stays there.
#[derive(Debug)]
pub struct Place {
    host: OwnedFd,
    /// The number of the container in whose namespace it is.
    at: Option<u32>,
}

impl Place {
    /// `host`: the network namespace that the calling thread is in.
    pub fn new(host: OwnedFd) -> Self {
        Self { host, at: None }
    }

    fn enter(&mut self, container: Option<(u32, &OwnedFd)>) -> Result<(), Errno> {
        let wanted = container.map(|(number, _)| number);
        if self.at != wanted {
            let namespace = container.map_or(&self.host, |(_, namespace)| namespace);
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            self.at = wanted;
        }
        Ok(())
    }

    /// Let go of a container's namespace.
    pub fn leave(&mut self, number: u32) {
        if self.at == Some(number) {
            if let Err(error) = self.enter(None) {
                report!("return to the host's network namespace: {error}");
            }
        }
    }
}

/// A connected socket of a question, UDP or TCP, known by its number.
#[derive(Debug)]
pub struct Line {
    pub number: u32,
    socket: Watched,
    /// Where it is, and to whom it leads.
    end: End,
    /// Questions so far.
    uses: u8,
    /// When it became idle.
    since_ns: u64,
}

/// The container from whose namespace a server is asked, none for the host's, and the server.
type End = (Option<u32>, Upstream);

/// Sockets to servers: what each is busy with, and idle ones that may be used again.
///
/// A new socket for each question costs more than the question itself, most of it in the tracking of one more
/// connection; one that serves for a few questions, one at a time, has a port that is as hard to guess.
#[derive(Debug, Default)]
pub struct Lines {
    /// Flight by line.
    busy: HashMap<u32, u32>,
    /// The one that was used last comes last.
    idle: VecDeque<Line>,
    last: u32,
    ids: Ids,
}

impl Lines {
    /// The flight that a line's socket is busy with; an idle one that says something is closed.
    pub fn flight(&mut self, line: u32) -> Option<u32> {
        let flight = self.busy.get(&line).copied();
        if flight.is_none() {
            self.idle.retain(|idle| idle.number != line);
        }
        flight
    }

    /// Close what leads out of a container's namespace.
    pub fn leave(&mut self, container: u32) {
        self.idle.retain(|line| line.end.0 != Some(container));
    }

    /// An attempt is over. Its socket may be used again if the one answer to its one question has come.
    pub fn give_back(&mut self, attempt: Attempt, answered: bool) {
        let Attempt { mut line, stream, bogus, .. } = attempt;
        self.busy.remove(&line.number);
        if answered && stream.is_none() && bogus == 0 && line.uses < MOST_USES {
            line.since_ns = monotonic_ns();
            self.idle.push_back(line);
            if self.idle.len() > MOST_IDLE {
                self.idle.pop_front();
            }
        }
    }

    fn take_idle(&mut self, end: &End) -> Option<Line> {
        let at = self.idle.iter().rposition(|line| line.end == *end)?;
        let line = self.idle.remove(at)?;
        (monotonic_ns() - line.since_ns < IDLE_NS).then_some(line)
    }

    fn connect(&mut self, poll: &Poll, end: End, kind: SocketType) -> Result<Line, Errno> {
        let upstream = &end.1;
        let family = if upstream.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &SocketAddr::new(upstream.address, upstream.port)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.last = self.last.wrapping_add(1);
        let socket = poll.watch(socket, Source::Upstream(self.last));
        Ok(Line { number: self.last, socket, end, uses: 0, since_ns: 0 })
    }
}

/// Random ids, taken from the kernel by the hundred.
#[derive(Debug)]
struct Ids {
    bytes: [u8; 256],
    left: usize,
}

impl Default for Ids {
    fn default() -> Self {
        Self { bytes: [0; 256], left: 0 }
    }
}

impl Ids {
    fn next(&mut self) -> Result<u16, Errno> {
        if self.left == 0 {
            let length = getrandom(&mut self.bytes, GetRandomFlags::empty())?;
            self.left = length / 2;
        }
        self.left -= 1;
        Ok(u16::from_ne_bytes([self.bytes[2 * self.left], self.bytes[2 * self.left + 1]]))
    }
}

/// How far a TCP conversation is.
#[derive(Debug)]
struct Stream {
    /// The query behind its length, as far as it is not sent.
    unsent: Vec<u8>,
    received: Vec<u8>,
}

/// One question to one server.
#[derive(Debug)]
pub struct Attempt {
    pub server: usize,
    line: Line,
    id: u16,
    bogus: u8,
    stream: Option<Stream>,
}

/// What has come of it.
#[derive(Debug)]
pub enum Progress {
    Pending,
    Failed,
    Received(Vec<u8>, Response),
}

impl Attempt {
    /// Ask. `container`: number and namespace of the container that asks; `query` with any id.
    pub fn start(
        poll: &Poll,
        place: &mut Place,
        lines: &mut Lines,
        container: (u32, &OwnedFd),
        (flight, server, upstream): (u32, usize, &Upstream),
        query: &[u8],
        tcp: bool,
    ) -> Result<Self, Errno> {
        let inside = (!upstream.host).then_some(container);
        let end = (inside.map(|(number, _)| number), upstream.clone());
        let id = lines.ids.next()?;
        let mut query = query.to_vec();
        query.get_mut(..2).ok_or(Errno::INVAL)?.copy_from_slice(&id.to_be_bytes());
        let ask = |line: &Line| send(&line.socket, &query, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // One that has been told of an error meanwhile is closed.
        let idle = if tcp { None } else { lines.take_idle(&end) };
        let known = idle.filter(|line| ask(line).is_ok());
        let mut line = if let Some(line) = known {
            line
        } else {
            place.enter(inside)?;
            let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
            let line = lines.connect(poll, end, kind)?;
            if !tcp {
                ask(&line)?;
            }
            line
        };
        line.uses += 1;
        line.socket.want(Some(if tcp { Flags::OUT } else { Flags::IN }));
        let stream = tcp.then(|| {
            let unsent = [&(query.len() as u16).to_be_bytes(), query.as_slice()].concat();
            Stream { unsent, received: Vec::new() }
        });
        lines.busy.insert(line.number, flight);
        Ok(Self { server, line, id, bogus: 0, stream })
    }

    pub fn line(&self) -> u32 {
        self.line.number
    }

    /// Its socket is ready. `question` as it was asked; `buffer` holds any message.
    pub fn on_ready(&mut self, question: &[u8], buffer: &mut [u8]) -> Progress {
        if self.stream.is_some() {
            return self.converse(question, buffer);
        }
        loop {
            match recv(&self.line.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(response) = Response::read(&buffer[..length], self.id, question) {
                        return Progress::Received(buffer[..length].to_vec(), response);
                    }
                    self.bogus += 1;
                    if self.bogus > MOST_BOGUS {
                        return Progress::Failed;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                // Nobody listens there, the kernel was told.
                Err(_) => return Progress::Failed,
            }
        }
    }

    pub fn is_tcp(&self) -> bool {
        self.stream.is_some()
    }

    fn converse(&mut self, question: &[u8], buffer: &mut [u8]) -> Progress {
        let Some(stream) = &mut self.stream else { return Progress::Failed };
        while !stream.unsent.is_empty() {
            match send(&self.line.socket, &stream.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(stream.unsent.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
        }
        self.line.socket.want(Some(Flags::IN));
        loop {
            match recv(&self.line.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Progress::Failed,
                Ok((length, _)) => stream.received.extend(&buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
            let Some(length) = super::message::word(&stream.received, 0) else { continue };
            if let Some(message) = stream.received.get(2..2 + usize::from(length)) {
                return match Response::read(message, self.id, question) {
                    Some(response) => Progress::Received(message.to_vec(), response),
                    None => Progress::Failed,
                };
            }
        }
    }
}

//! Questions to servers over UDP, from the network namespace that can reach each.
//!
//! A new socket for each question costs more than the question itself. So a few lead to each server, connected, so
//! that the kernel picks a random port and lets only the server's answers through; the questions of one turn of the
//! loop go over one of them, chosen at random, with one call. What an answer must match is as hard to guess as with
//! a socket for each: every question has a random id of its own, an answer must be to the very question that has
//! this id on this socket, and a socket is in use for a moment only, or until something comes that is no answer.
//!
//! Source: RFC 5452, section 9.2.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{connect, socket_with, AddressFamily, SocketFlags, SocketType};
use rustix::rand::{getrandom, GetRandomFlags};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::message::word;
use super::numbered::Numbered;
use super::outbox::Outbox;
use super::server::{Poll, Source, Watched};
use super::table::Upstream;
use crate::epoll::Flags;
use crate::sys::datagrams::Arrivals;

/// Sockets to one server that questions may go over.
const MOST_OPEN: usize = 4;
/// Questions that a socket serves for, those that may wait on it at a time, and how long it is used.
const MOST_USES: u16 = 128;
const MOST_WAITING: usize = 64;
pub const LIFE_NS: u64 = 1_000_000_000;
/// Messages on one socket that are no answers, before it is given up.
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

    /// A socket that is, or soon will be, connected to a server: from the host, or from `container`.
    pub fn connect(
        &mut self,
        container: (u32, &OwnedFd),
        upstream: &Upstream,
        kind: SocketType,
    ) -> Result<OwnedFd, Errno> {
        self.enter((!upstream.host).then_some(container))?;
        let family = if upstream.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &SocketAddr::new(upstream.address, upstream.port)) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }
}

/// The container from whose namespace a server is asked, none for the host's, and the server.
type End = (Option<u32>, Upstream);

/// A UDP socket to a server.
#[derive(Debug)]
struct Line {
    socket: Watched,
    end: End,
    /// The questions that wait for answers: id and flight.
    waiting: Vec<(u16, u32)>,
    /// Questions so far, and how often it was chosen for some.
    uses: u16,
    turns: u16,
    born_ns: u64,
    bogus: u8,
}

impl Line {
    /// Whether it is fit for another question.
    fn is_open(&self, now_ns: u64) -> bool {
        !self.is_spent() && now_ns.saturating_sub(self.born_ns) < LIFE_NS
    }

    fn is_spent(&self) -> bool {
        self.bogus > 0 || self.uses >= MOST_USES
    }

    fn has_room(&self) -> bool {
        self.uses < MOST_USES && self.waiting.len() < MOST_WAITING
    }
}

/// Where a question is: what its answer must match, besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub line: u32,
    pub id: u16,
}

/// All sockets over which servers are asked.
#[derive(Debug, Default)]
pub struct Lines {
    of_number: Numbered<Line>,
    /// Those that new questions may go over.
    open: HashMap<End, Vec<u32>>,
    /// The one that this turn's questions go over.
    current: Option<u32>,
    last: u32,
    outbox: Outbox,
    pub ids: Ids,
}

impl Lines {
    /// Ask `upstream` with `query`, whatever its id: it goes with the next `send`. `container`: number and
    /// namespace of the one that asks.
    pub fn ask(
        &mut self,
        (poll, place): (&Poll, &mut Place),
        container: (u32, &OwnedFd),
        upstream: &Upstream,
        (flight, query): (u32, &[u8]),
        now_ns: u64,
    ) -> Result<Ticket, Errno> {
        let from = (!upstream.host).then_some(container.0);
        let fits = |line: &Line| line.end.0 == from && line.end.1 == *upstream && line.has_room();
        let current = self.current.filter(|number| self.of_number.get(number).is_some_and(fits));
        let end = || (from, upstream.clone());
        let known = if current.is_some() { current } else { self.choose(&end(), now_ns)? };
        let number = if let Some(number) = known {
            number
        } else {
            let socket = place.connect(container, upstream, SocketType::DGRAM)?;
            self.open(poll, socket, end(), now_ns)
        };
        let line = self.of_number.get_mut(&number).ok_or(Errno::BADF)?;
        if self.current != Some(number) {
            self.current = Some(number);
            line.turns += 1;
        }
        let mut id = self.ids.next()?;
        while line.waiting.iter().any(|(other, _)| *other == id) {
            id = self.ids.next()?;
        }
        line.waiting.push((id, flight));
        line.uses += 1;
        self.outbox.push_with_id(number, id, query);
        Ok(Ticket { line: number, id })
    }

    /// One of the open sockets, at random; none while there may be more of them.
    fn choose(&mut self, end: &End, now_ns: u64) -> Result<Option<u32>, Errno> {
        let Some(open) = self.open.get_mut(end) else { return Ok(None) };
        let lines = &self.of_number;
        open.retain(|number| lines.get(number).is_some_and(|line| line.is_open(now_ns)));
        let with_room = |number: &&u32| lines.get(number).is_some_and(Line::has_room);
        let count = open.iter().filter(with_room).count();
        if count < MOST_OPEN {
            return Ok(None);
        }
        let at = usize::from(self.ids.next()?) % count;
        Ok(open.iter().filter(with_room).nth(at).copied())
    }

    fn open(&mut self, poll: &Poll, socket: OwnedFd, end: End, now_ns: u64) -> u32 {
        self.last = self.last.wrapping_add(1);
        let mut socket = poll.watch(socket, Source::Line(self.last));
        socket.want(Some(Flags::IN));
        self.open.entry(end.clone()).or_default().push(self.last);
        let line = Line { socket, end, waiting: Vec::new(), uses: 0, turns: 0, born_ns: now_ns, bogus: 0 };
        self.of_number.insert(self.last, line);
        self.last
    }

    /// Send what `ask` was given since the last time. Answers which questions were not taken, of which flight, and
    /// whether the socket was in use before: what it was told of may be an earlier question's failure.
    pub fn send(&mut self) -> Vec<(Ticket, u32, bool)> {
        let mut failures = Vec::new();
        self.current = None;
        let Self { of_number, outbox, .. } = self;
        let socket = |number: u32| of_number.get(&number).map(|line| line.socket.as_fd());
        let mut untaken = Vec::new();
        outbox.send(socket, |line, query, _| untaken.push(Ticket { line, id: word(query, 0).unwrap_or(0) }));
        for ticket in untaken {
            if let Some(line) = of_number.get_mut(&ticket.line) {
                let old = line.turns > 1;
                line.bogus = line.bogus.max(1);
                if let Some(flight) = take(&mut line.waiting, ticket.id) {
                    failures.push((ticket, flight, old));
                }
            }
        }
        failures
    }

    /// Take what has come over a line. An error is about all that wait on it.
    pub fn receive(&mut self, number: u32, arrivals: &mut Arrivals) -> Result<usize, Errno> {
        let Some(line) = self.of_number.get(&number) else { return Ok(0) };
        arrivals.receive(line.socket.as_fd())
    }

    /// The flight that waits for the answer to the question under a ticket.
    pub fn flight(&self, ticket: Ticket) -> Option<u32> {
        let waiting = &self.of_number.get(&ticket.line)?.waiting;
        waiting.iter().find(|(id, _)| *id == ticket.id).map(|(_, flight)| *flight)
    }

    /// A question is answered, or no answer is waited for any more.
    pub fn forget(&mut self, ticket: Ticket) {
        let Some(line) = self.of_number.get_mut(&ticket.line) else { return };
        take(&mut line.waiting, ticket.id);
        if line.waiting.is_empty() && line.is_spent() {
            self.of_number.remove(&ticket.line);
        }
    }

    /// Something has come that is no answer to what was asked: somebody may be guessing, so that the line is asked
    /// over no more. False where it is too much.
    pub fn suspect(&mut self, number: u32) -> bool {
        let Some(line) = self.of_number.get_mut(&number) else { return true };
        line.bogus += 1;
        line.bogus <= MOST_BOGUS
    }

    /// Close a line; answers what waited on it.
    pub fn close(&mut self, number: u32) -> Vec<(u16, u32)> {
        self.of_number.remove(&number).map(|line| line.waiting).unwrap_or_default()
    }

    /// Close what leads out of a container's namespace.
    pub fn leave(&mut self, container: u32) {
        self.of_number.retain(|_, line| line.end.0 != Some(container));
        self.open.retain(|end, _| end.0 != Some(container));
    }

    /// Close what nothing waits on and no question will go over; whether any line is left.
    pub fn sweep(&mut self, now_ns: u64) -> bool {
        self.of_number.retain(|_, line| !line.waiting.is_empty() || line.is_open(now_ns));
        let lines = &self.of_number;
        self.open.retain(|_, open| {
            open.retain(|number| lines.get(number).is_some_and(|line| line.is_open(now_ns)));
            !open.is_empty()
        });
        !self.of_number.is_empty()
    }
}

fn take(waiting: &mut Vec<(u16, u32)>, id: u16) -> Option<u32> {
    let at = waiting.iter().position(|(other, _)| *other == id)?;
    Some(waiting.swap_remove(at).1)
}

/// Random ids, taken from the kernel by the hundred.
#[derive(Debug)]
pub struct Ids {
    bytes: [u8; 256],
    left: usize,
}

impl Default for Ids {
    fn default() -> Self {
        Self { bytes: [0; 256], left: 0 }
    }
}

impl Ids {
    pub fn next(&mut self) -> Result<u16, Errno> {
        if self.left == 0 {
            let length = getrandom(&mut self.bytes, GetRandomFlags::empty())?;
            self.left = length / 2;
        }
        self.left -= 1;
        Ok(u16::from_ne_bytes([self.bytes[2 * self.left], self.bytes[2 * self.left + 1]]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::UdpSocket;

    use super::*;
    use crate::netns::own_namespace;

    /// A server on the host, which has been asked by sockets of its own.
    struct Rig {
        poll: Poll,
        place: Place,
        lines: Lines,
        netns: OwnedFd,
        server: UdpSocket,
        upstream: Upstream,
    }

    impl Rig {
        fn new() -> Self {
            let namespace = || own_namespace().expect("a namespace");
            let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            server.set_nonblocking(true).expect("not blocking");
            let address = server.local_addr().expect("an address");
            let upstream = Upstream { address: address.ip(), port: address.port(), host: true };
            let (poll, place) = (Poll::new().expect("a set"), Place::new(namespace()));
            Self { poll, place, lines: Lines::default(), netns: namespace(), server, upstream }
        }

        fn ask(&mut self, flight: u32, now_ns: u64) -> Ticket {
            let Self { poll, place, lines, netns, upstream, .. } = self;
            lines
                .ask((poll, place), (1, netns), upstream, (flight, b"..question"), now_ns)
                .expect("it is asked")
        }

        /// The (port, id) of each question that has come to the server.
        fn asked(&mut self) -> Vec<(SocketAddr, u16)> {
            let mut buffer = [0; 100];
            let mut asked = Vec::new();
            while let Ok((length, from)) = self.server.recv_from(&mut buffer) {
                assert_eq!(&buffer[2..length], b"question");
                asked.push((from, word(&buffer, 0).expect("an id")));
            }
            asked
        }
    }

    #[test]
    fn a_turns_questions_share_a_socket_and_no_socket_serves_for_long() {
        let mut rig = Rig::new();
        let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
        for turn in 0..200 {
            let tickets: Vec<Ticket> = (0..10).map(|flight| rig.ask(flight, turn)).collect();
            assert_eq!(rig.lines.send(), []);
            let asked = rig.asked();
            let of_turn: HashSet<SocketAddr> = asked.iter().map(|(port, _)| *port).collect();
            assert!(of_turn.len() <= 2, "two where the first has served for long enough: {of_turn:?}");
            assert_eq!(asked.len(), 10);
            ports.extend(asked.iter().map(|(port, _)| *port));
            ids.extend(asked.iter().map(|(_, id)| *id));
            for (flight, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(rig.lines.flight(ticket), Some(flight as u32));
                rig.lines.forget(ticket);
                assert_eq!(rig.lines.flight(ticket), None);
            }
        }
        assert!(ports.len() >= 2000 / usize::from(MOST_USES), "{ports:?}");
        assert!(ids.len() > 1900, "{} ids of 2000 questions", ids.len());
        assert!(rig.lines.of_number.len() <= MOST_OPEN, "what has served is closed");
        let last = rig.ask(0, LIFE_NS + 200);
        assert!(!rig.lines.of_number.keys().any(|number| *number > last.line), "what is old is used no more");
        assert!(rig.lines.sweep(LIFE_NS + 200));
        assert_eq!(rig.lines.of_number.len(), 1, "but closed");
        assert!(rig.lines.sweep(LIFE_NS + 200) && rig.lines.sweep(4 * LIFE_NS), "something waits on it");
        rig.lines.leave(1);
        assert_eq!(rig.lines.of_number.len(), 1, "it leads out of the host's namespace");
    }

    #[test]
    fn only_so_many_wait_on_a_socket() {
        let mut rig = Rig::new();
        let tickets: Vec<Ticket> = (0..500).map(|flight| rig.ask(flight, 0)).collect();
        let lines: HashSet<u32> = tickets.iter().map(|ticket| ticket.line).collect();
        for line in &lines {
            let ids: HashSet<u16> =
                tickets.iter().filter(|ticket| ticket.line == *line).map(|ticket| ticket.id).collect();
            assert!(ids.len() <= MOST_WAITING);
            assert_eq!(ids.len(), rig.lines.close(*line).len(), "each has an id of its own");
        }
        assert!(!rig.lines.sweep(0));
    }

    #[test]
    fn what_nobody_was_asked_for_is_no_answer_and_ends_the_use_of_its_socket() {
        let mut rig = Rig::new();
        let mut arrivals = Arrivals::new(100);
        let ticket = rig.ask(7, 0);
        assert_eq!(rig.lines.send(), []);
        let (port, id) = rig.asked()[0];
        let other = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        other.send_to(&[&id.to_be_bytes()[..], b"from another server"].concat(), port).expect("sent");
        assert_eq!(rig.lines.receive(ticket.line, &mut arrivals), Err(Errno::AGAIN), "the kernel drops it");
        rig.server.send_to(&[&(id ^ 1).to_be_bytes()[..], b"a guess"].concat(), port).expect("sent");
        assert_eq!(rig.lines.receive(ticket.line, &mut arrivals), Ok(1));
        assert_eq!(rig.lines.flight(Ticket { id: id ^ 1, ..ticket }), None);
        assert!(rig.lines.suspect(ticket.line));
        assert_eq!(rig.lines.flight(ticket), Some(7), "the answer may still come");
        assert!((0..100).all(|flight| {
            rig.lines.send();
            rig.ask(flight, 0).line != ticket.line
        }));
        let patience = (0..u32::from(u8::MAX)).take_while(|_| rig.lines.suspect(ticket.line)).count();
        assert_eq!(patience, usize::from(MOST_BOGUS) - 1);
    }

    #[test]
    fn a_question_that_does_not_leave_is_told() {
        let mut rig = Rig::new();
        let (poll, place) = (&rig.poll, &mut rig.place);
        let long = vec![0; 65_530];
        let ticket = rig.lines.ask((poll, place), (1, &rig.netns), &rig.upstream, (7, &long), 0);
        let ticket = ticket.expect("it is asked");
        assert_eq!(rig.lines.send(), [(ticket, 7, false)]);
        assert_ne!(rig.ask(8, 0).line, ticket.line);
    }
}

//! The loop that passes on what arrives at held ports, on a thread of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender};

use rustix::net::{accept_with, SocketFlags};

use super::datagram::Datagrams;
use super::handle::{list, receive, send_socket, Answer, Command, Left, Line};
use super::hold::{Held, Port};
use super::stream::{End, Stream};
use crate::epoll::{self, Flags};
use crate::error::Result;
use crate::timers::monotonic_ns;

const BUFFER: usize = 256 << 10;
/// Connections taken before others have their turn.
const BURST: usize = 32;
/// Pairs at a time, each with two descriptors; more wait in the backlog.
const MOST_STREAMS: usize = 4096;
const SWEEP_NS: u64 = 30_000_000_000;

/// What a ready fd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The keeper has told something.
    Wake,
    /// A held port.
    Port(u32),
    Stream(u32, End),
    /// A client of a port for datagrams.
    Flow(u32),
}

pub(super) type Poll = epoll::Poll<Source>;
pub(super) type Watched = epoll::Watched<Source>;

impl epoll::Token for Source {
    /// Kind in the low byte, a number in the upper four.
    fn token(self) -> u64 {
        let (kind, number) = match self {
            Self::Wake => (0, 0),
            Self::Port(number) => (1, number),
            Self::Stream(number, End::Client) => (2, number),
            Self::Stream(number, End::Target) => (3, number),
            Self::Flow(number) => (4, number),
        };
        u64::from(number) << 32 | kind
    }

    fn from_token(token: u64) -> Self {
        let number = (token >> 32) as u32;
        match token & 0xff {
            1 => Self::Port(number),
            2 => Self::Stream(number, End::Client),
            3 => Self::Stream(number, End::Target),
            4 => Self::Flow(number),
            _ => Self::Wake,
        }
    }
}

#[derive(Debug)]
struct Listening {
    port: Port,
    /// None for a protocol without sockets.
    socket: Option<Watched>,
    datagrams: Datagrams,
}

pub(super) struct Server {
    poll: Poll,
    wake: Watched,
    commands: Receiver<Command>,
    answers: Sender<Answer>,
    answered: OwnedFd,
    sockets: OwnedFd,
    ports: HashMap<u32, Listening>,
    /// The ports of each container.
    held: HashMap<String, Vec<u32>>,
    streams: HashMap<u32, Stream>,
    /// Which port a client of datagrams belongs to.
    flows: HashMap<u32, u32>,
    last: u32,
    sweep_ns: u64,
    buffer: Vec<u8>,
}

impl Server {
    pub(super) fn new(line: Line) -> Result<Self> {
        let Line { commands, answers, wake, answered, sockets } = line;
        let poll = Poll::new()?;
        let mut wake = poll.watch(wake, Source::Wake);
        wake.want(Some(Flags::IN));
        Ok(Self {
            poll,
            wake,
            commands,
            answers,
            answered,
            sockets,
            ports: HashMap::new(),
            held: HashMap::new(),
            streams: HashMap::new(),
            flows: HashMap::new(),
            last: 0,
            sweep_ns: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Serve until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let patience = (!self.flows.is_empty()).then_some(SWEEP_NS);
            self.poll.wait(patience, &mut events);
            for (source, flags) in events.drain(..) {
                match source {
                    // Ignored: a wake-up more or less does no harm.
                    Source::Wake => drop(rustix::io::read(&self.wake, &mut [0u8; 8])),
                    Source::Port(number) => self.on_port(number),
                    Source::Stream(number, end) => self.on_stream(number, end, flags),
                    Source::Flow(number) => self.on_flow(number),
                }
                // Starts wait for it: traffic does not come first.
                if self.obey() {
                    return self.leave();
                }
            }
            self.sweep();
        }
    }

    /// Do what was told; true when that was to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Set(id, ports) => {
                    let result = self.set(&id, &ports);
                    self.answer(Answer::Set(result));
                }
                Command::Adopt(listed) => {
                    for (id, held) in receive(&self.sockets, listed) {
                        self.add(&id, held);
                    }
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn answer(&self, answer: Answer) {
        // Ignored: a keeper that is not there any more asks no more either.
        let _ = self.answers.send(answer);
        let _ = rustix::io::write(&self.answered, &1u64.to_ne_bytes());
    }

    /// The ports of a container are these from now on; what it does not hold any more is free afterwards.
    fn set(&mut self, id: &str, ports: &[Port]) -> Result<()> {
        let held = self.held.get(id).map_or(&[][..], Vec::as_slice);
        let before: Vec<&Port> = held.iter().filter_map(|n| self.ports.get(n)).map(|l| &l.port).collect();
        let new = ports.iter().filter(|port| !before.iter().any(|old| old.same(port)));
        let new = new.map(|port| port.clone().hold()).collect::<Result<Vec<_>>>()?;
        self.keep(id, ports);
        self.add(id, new);
        Ok(())
    }

    fn add(&mut self, id: &str, held: Vec<Held>) {
        for Held { port, socket } in held {
            let number = self.next();
            let socket = socket.map(|socket| {
                let mut socket = self.poll.watch(socket, Source::Port(number));
                socket.want(Some(Flags::IN));
                socket
            });
            self.ports.insert(number, Listening { port, socket, datagrams: Datagrams::default() });
            self.held.entry(id.to_owned()).or_default().push(number);
        }
    }

    /// Of what a container holds only these stay, with these targets.
    fn keep(&mut self, id: &str, ports: &[Port]) {
        let Some(mut numbers) = self.held.remove(id) else { return };
        numbers.retain(|number| {
            let Some(listening) = self.ports.get_mut(number) else { return false };
            let Some(wanted) = ports.iter().find(|port| port.same(&listening.port)) else {
                self.ports.remove(number);
                return false;
            };
            if wanted.target != listening.port.target {
                listening.datagrams = Datagrams::default();
            }
            listening.port = wanted.clone();
            true
        });
        if !numbers.is_empty() {
            self.held.insert(id.to_owned(), numbers);
        }
        let ports = &self.ports;
        self.flows.retain(|_, port| ports.get(port).is_some_and(|listening| !listening.datagrams.is_empty()));
    }

    fn on_port(&mut self, number: u32) {
        let Some(listening) = self.ports.get_mut(&number) else { return };
        let Some(socket) = &listening.socket else { return };
        if listening.port.is_stream() {
            let target = listening.port.target;
            for _ in 0..BURST {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let Some(Ok(client)) =
                    self.ports.get(&number).and_then(|l| l.socket.as_ref()).map(|s| accept_with(s, flags))
                else {
                    return;
                };
                self.begin(client, target);
            }
            return;
        }
        let Some(target) = listening.port.target else { return };
        let (last, flows) = (&mut self.last, &mut self.flows);
        let new = || {
            *last = last.wrapping_add(1);
            flows.insert(*last, number);
            *last
        };
        listening.datagrams.inwards(socket, target, &self.poll, monotonic_ns(), &mut self.buffer, new);
    }

    fn begin(&mut self, client: OwnedFd, target: Option<SocketAddr>) {
        if self.streams.len() >= MOST_STREAMS {
            return;
        }
        let number = self.next();
        // A client that cannot be passed on is closed.
        if let Some(stream) = target.and_then(|to| Stream::open(&self.poll, number, client, &to)) {
            self.streams.insert(number, stream);
        }
    }

    fn on_stream(&mut self, number: u32, end: End, flags: Flags) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if !stream.on_ready(end, flags, &mut self.buffer) {
            self.streams.remove(&number);
        }
    }

    fn on_flow(&mut self, number: u32) {
        let Some(listening) = self.flows.get(&number).and_then(|port| self.ports.get_mut(port)) else {
            return;
        };
        if let Some(socket) = &listening.socket {
            listening.datagrams.outwards(socket, number, monotonic_ns(), &mut self.buffer);
        }
    }

    fn sweep(&mut self) {
        let now_ns = monotonic_ns();
        if self.flows.is_empty() || now_ns < self.sweep_ns {
            return;
        }
        self.sweep_ns = now_ns + SWEEP_NS;
        for listening in self.ports.values_mut() {
            for gone in listening.datagrams.sweep(now_ns) {
                self.flows.remove(&gone);
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Tell what is held, and send the sockets after it.
    fn leave(mut self) {
        let ports = &mut self.ports;
        let mut one = |number: u32| {
            let listening = ports.remove(&number)?;
            let socket = listening.socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok());
            Some(Held { port: listening.port, socket })
        };
        let held = std::mem::take(&mut self.held);
        let left: Left = held
            .into_iter()
            .map(|(id, ports)| (id, ports.into_iter().filter_map(&mut one).collect()))
            .collect();
        let (listed, sockets) = list(left);
        self.answer(Answer::Left(listed));
        for socket in sockets {
            if let Err(error) = send_socket(&self.sockets, socket.as_fd()) {
                return report!("published ports are not handed over: {error}");
            }
        }
    }
}

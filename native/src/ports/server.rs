//! The loop that passes on what arrives at held ports, on a thread of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{eventfd, EventfdFlags};
use rustix::net::{accept_with, SocketFlags};

use super::datagram::Datagrams;
use super::hold::{Held, Port};
use super::stream::{End, Stream};
use crate::epoll::{self, Flags};
use crate::error::{Error, Result};
use crate::sys::supervise::own_working_directory;
use crate::timers::monotonic_ns;

const STACK: usize = 128 << 10;
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
enum Command {
    /// More ports of a container.
    Add(String, Vec<Held>),
    /// Of the ports of a container only these stay, with these targets.
    Keep(String, Vec<Port>),
    Stop,
}

/// What the thread leaves behind when it is stopped: the ports by container. Connections it has end.
pub type Left = Vec<(String, Vec<Held>)>;

/// The way to the thread.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<Left>,
}

impl Handle {
    /// Start the thread, in the calling thread's network namespace, which is the host's.
    pub fn start() -> Result<Self> {
        let failed = |errno| Error::os("start", "port server", errno);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let wake = Arc::new(wake);
        let (commands, inbox) = channel();
        let (ready, started) = channel();
        let own_wake = wake.try_clone().map_err(|error| Error::os("start", "port server", error))?;
        let run = move || {
            let server = own_working_directory().map_err(failed);
            let server = server.and_then(|()| Server::new(inbox, own_wake));
            // Ignored: the starter waits for it.
            let _ = ready.send(server.as_ref().err().map(ToString::to_string));
            server.map_or_else(|_| Left::default(), Server::run)
        };
        let builder = std::thread::Builder::new().name("proa-ports".into()).stack_size(STACK);
        let thread = builder.spawn(run).map_err(|error| Error::os("start", "port server", error))?;
        // Only then is the working directory nobody else's again.
        match started.recv() {
            Ok(None) => Ok(Self { commands, wake, thread }),
            Ok(Some(why)) => Err(Error::Invalid(why)),
            Err(_) => Err(Error::Invalid("the port server's thread has ended".into())),
        }
    }

    pub fn add(&self, id: &str, held: Vec<Held>) {
        self.tell(Command::Add(id.to_owned(), held));
    }

    pub fn keep(&self, id: &str, ports: Vec<Port>) {
        self.tell(Command::Keep(id.to_owned(), ports));
    }

    /// End the thread and take the ports.
    #[must_use]
    pub fn stop(self) -> Left {
        self.tell(Command::Stop);
        self.thread.join().unwrap_or_default()
    }

    fn tell(&self, command: Command) {
        // Ignored: a thread that has ended has nobody to serve.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

#[derive(Debug)]
struct Listening {
    id: String,
    port: Port,
    /// None for a protocol without sockets.
    socket: Option<Watched>,
    datagrams: Datagrams,
}

struct Server {
    poll: Poll,
    wake: Watched,
    inbox: Receiver<Command>,
    ports: HashMap<u32, Listening>,
    streams: HashMap<u32, Stream>,
    /// Which port a client of datagrams belongs to.
    flows: HashMap<u32, u32>,
    last: u32,
    sweep_ns: u64,
    buffer: Vec<u8>,
}

impl Server {
    fn new(inbox: Receiver<Command>, wake: OwnedFd) -> Result<Self> {
        let poll = Poll::new()?;
        let mut wake = poll.watch(wake, Source::Wake);
        wake.want(Some(Flags::IN));
        Ok(Self {
            poll,
            wake,
            inbox,
            ports: HashMap::new(),
            streams: HashMap::new(),
            flows: HashMap::new(),
            last: 0,
            sweep_ns: 0,
            buffer: vec![0; BUFFER],
        })
    }

    fn run(mut self) -> Left {
        let mut events = Vec::new();
        loop {
            let patience = (!self.flows.is_empty()).then_some(SWEEP_NS);
            self.poll.wait(patience, &mut events);
            for (source, flags) in events.drain(..) {
                match source {
                    Source::Wake => {
                        if self.obey() {
                            return self.leave();
                        }
                    }
                    Source::Port(number) => self.on_port(number),
                    Source::Stream(number, end) => self.on_stream(number, end, flags),
                    Source::Flow(number) => self.on_flow(number),
                }
            }
            self.sweep();
        }
    }

    /// Do what was told; true when that was to stop.
    fn obey(&mut self) -> bool {
        // Ignored: a wake-up more or less does no harm.
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Add(id, held) => held.into_iter().for_each(|held| self.add(&id, held)),
                Command::Keep(id, ports) => self.keep(&id, &ports),
                Command::Stop => return true,
            }
        }
        false
    }

    fn add(&mut self, id: &str, held: Held) {
        let number = self.next();
        let socket = held.socket.map(|socket| {
            let mut socket = self.poll.watch(socket, Source::Port(number));
            socket.want(Some(Flags::IN));
            socket
        });
        let datagrams = Datagrams::default();
        self.ports.insert(number, Listening { id: id.to_owned(), port: held.port, socket, datagrams });
    }

    fn keep(&mut self, id: &str, ports: &[Port]) {
        self.ports.retain(|_, listening| {
            if listening.id != id {
                return true;
            }
            let Some(wanted) = ports.iter().find(|port| port.same(&listening.port)) else { return false };
            if wanted.target != listening.port.target {
                listening.datagrams = Datagrams::default();
            }
            listening.port = wanted.clone();
            true
        });
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

    fn leave(self) -> Left {
        let mut left: HashMap<String, Vec<Held>> = HashMap::new();
        for (_, listening) in self.ports {
            let socket = listening.socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok());
            left.entry(listening.id).or_default().push(Held { port: listening.port, socket });
        }
        left.into_iter().collect()
    }
}

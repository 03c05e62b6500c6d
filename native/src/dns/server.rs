//! The loop: containers' sockets, what the keeper tells, and what is due.
//!
//! What the keeper has told before it answered proad holds for every query that comes afterwards: it is looked
//! for between taking a query from its socket and answering it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{eventfd, EventfdFlags};

use super::answer::answer;
use super::cache::{Cache, Scope};
use super::client::Client;
use super::forward::{Flights, From};
use super::message::{reply_bad, Query};
use super::numbered::Numbered;
use super::outbox::Outbox;
use super::sockets::Sockets;
use super::stream::Streams;
use super::table::{Sandbox, Table, Upstream};
use super::upstream::{Lines, Place, LIFE_NS};
use crate::epoll::{self, Flags, Registration};
use crate::error::{Error, Result};
use crate::netns::own_namespace;
use crate::sys::datagrams::{Arrival, Arrivals};
use crate::sys::supervise::own_working_directory;
use crate::timers::{monotonic_ns, Timers};

const STACK: usize = 256 << 10;
/// Over UDP: no query is longer, and a response that is, is asked for again over TCP.
const LONGEST_DATAGRAM: usize = 4096;
const LONGEST_MESSAGE: usize = 64 << 10;

/// What a ready fd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The keeper has told something.
    Wake,
    /// A container's sockets.
    Udp(u32),
    Tcp(u32),
    /// A TCP connection of a container.
    Client(u32),
    /// A UDP socket to a server.
    Line(u32),
    /// A TCP connection to a server.
    Stream(u32),
}

pub(super) type Poll = epoll::Poll<Source>;
pub(super) type Watched = epoll::Watched<Source>;

impl epoll::Token for Source {
    /// Kind in the low byte, a number in the upper four.
    fn token(self) -> u64 {
        let (kind, number) = match self {
            Self::Wake => (0, 0),
            Self::Udp(number) => (1, number),
            Self::Tcp(number) => (2, number),
            Self::Client(number) => (3, number),
            Self::Line(number) => (4, number),
            Self::Stream(number) => (5, number),
        };
        u64::from(number) << 32 | kind
    }

    fn from_token(token: u64) -> Self {
        let number = (token >> 32) as u32;
        match token & 0xff {
            1 => Self::Udp(number),
            2 => Self::Tcp(number),
            3 => Self::Client(number),
            4 => Self::Line(number),
            5 => Self::Stream(number),
            _ => Self::Wake,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A connection has been silent.
    Client(u32),
    /// Sockets to servers have been in use for long enough.
    Lines,
}

/// A query over UDP that was not answered yet.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The container's id.
    pub id: String,
    pub client: SocketAddr,
    pub query: Vec<u8>,
}

/// What the thread leaves behind when it is stopped.
#[derive(Debug, Default)]
pub struct Left {
    pub sandboxes: Vec<(Sandbox, Sockets)>,
    pub pending: Vec<Pending>,
}

#[derive(Debug)]
enum Command {
    /// With sockets where it has new ones.
    Set(Box<Sandbox>, Option<Sockets>),
    Drop(String),
    Retain(HashSet<String>),
    Resume(Vec<Pending>),
    Stop,
}

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
        let failed = |error| Error::os("start", "resolver", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let wake = Arc::new(wake);
        let (commands, inbox) = channel();
        let (ready, started) = channel();
        let host = own_namespace()?;
        let own_wake = wake.try_clone().map_err(|error| Error::os("start", "resolver", error))?;
        let run = move || {
            let server = own_working_directory().map_err(|error| Error::os("unshare", "resolver", error));
            let server = server.and_then(|()| Server::new(inbox, own_wake, host));
            // Ignored: the starter waits for it.
            let _ = ready.send(server.as_ref().err().map(ToString::to_string));
            server.map_or_else(|_| Left::default(), Server::run)
        };
        let builder = std::thread::Builder::new().name("proa-resolver".into()).stack_size(STACK);
        let thread = builder.spawn(run).map_err(|error| Error::os("start", "resolver", error))?;
        // Only then is the working directory nobody else's again.
        match started.recv() {
            Ok(None) => Ok(Self { commands, wake, thread }),
            Ok(Some(why)) => Err(Error::Invalid(why)),
            Err(_) => Err(Error::Invalid("the resolver's thread has ended".into())),
        }
    }

    /// From now on this is what is known of a container; with `sockets`, these are its.
    pub fn set(&self, sandbox: Sandbox, sockets: Option<Sockets>) {
        self.tell(Command::Set(Box::new(sandbox), sockets));
    }

    /// Forget a container.
    pub fn drop(&self, id: &str) {
        self.tell(Command::Drop(id.to_owned()));
    }

    /// Forget all but these.
    pub fn retain(&self, ids: HashSet<String>) {
        self.tell(Command::Retain(ids));
    }

    /// Go on with what another thread has left.
    pub fn resume(&self, left: Left) {
        for (sandbox, sockets) in left.sandboxes {
            self.set(sandbox, Some(sockets));
        }
        self.tell(Command::Resume(left.pending));
    }

    /// End the thread and take what it has; queries wait in their sockets meanwhile.
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

/// One container that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    pub netns: OwnedFd,
    registrations: [Registration<Source>; 2],
    pub upstreams: Rc<[Upstream]>,
    pub scope: Scope,
    pub ndots: bool,
    /// The server to ask first.
    pub first_upstream: usize,
    /// Its queries that wait for servers.
    pub waiting: usize,
    /// Its TCP connections.
    pub clients: usize,
}

/// The thread's state.
#[allow(missing_debug_implementations)] // Holds the epoll set.
pub(super) struct Server {
    pub poll: Poll,
    inbox: Receiver<Command>,
    wake: Watched,
    table: Table,
    pub served: Numbered<Served>,
    /// Sets of servers that are asked from the host, by number. As many as the host has had configurations.
    shared_sets: HashMap<Rc<[Upstream]>, u32>,
    pub cache: Cache,
    pub flights: Flights,
    pub clients: Numbered<Client>,
    pub last_client: u32,
    pub timers: Timers<Due>,
    pub place: Place,
    pub lines: Lines,
    pub streams: Streams,
    /// When sockets to servers are looked over next, if there are any.
    pub sweep_ns: Option<u64>,
    /// The reply under construction.
    pub out: Vec<u8>,
    /// Replies to containers that wait to be sent.
    replies: Outbox,
    /// The datagrams that came last, and what came last over TCP.
    pub arrivals: Arrivals,
    pub packet: Vec<u8>,
    turn: usize,
    stopped: bool,
}

impl Server {
    fn new(inbox: Receiver<Command>, wake: OwnedFd, host: OwnedFd) -> Result<Self> {
        let poll = Poll::new()?;
        let mut wake = poll.watch(wake, Source::Wake);
        wake.want(Some(Flags::IN));
        Ok(Self {
            poll,
            inbox,
            wake,
            table: Table::default(),
            served: Numbered::default(),
            shared_sets: HashMap::new(),
            cache: Cache::default(),
            flights: Flights::default(),
            clients: Numbered::default(),
            last_client: 0,
            timers: Timers::default(),
            place: Place::new(host),
            lines: Lines::default(),
            streams: Streams::default(),
            sweep_ns: None,
            out: Vec::with_capacity(512),
            replies: Outbox::default(),
            arrivals: Arrivals::new(LONGEST_DATAGRAM),
            packet: vec![0; LONGEST_MESSAGE],
            turn: 0,
            stopped: false,
        })
    }

    fn run(mut self) -> Left {
        let mut events = Vec::new();
        while !self.stopped {
            self.poll.wait(self.patience_ns(), &mut events);
            for (source, flags) in events.drain(..) {
                self.dispatch(source, flags);
                self.send_replies();
            }
            self.run_timers();
            // Questions of all containers together.
            self.send_questions();
            self.send_replies();
        }
        self.leave()
    }

    fn dispatch(&mut self, source: Source, flags: Flags) {
        match source {
            Source::Wake => {
                // Ignored: the commands say what there is.
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                self.obey();
            }
            Source::Udp(number) => self.receive(number),
            Source::Tcp(number) => self.accept(number),
            Source::Client(number) => self.on_client(number, flags),
            Source::Line(number) => self.on_line(number),
            Source::Stream(number) => self.on_stream(number),
        }
    }

    /// Until something is due.
    fn patience_ns(&self) -> Option<u64> {
        let now_ns = monotonic_ns();
        let flights = self.flights.next_deadline_ns().map(|at_ns| at_ns.saturating_sub(now_ns));
        [flights, self.timers.next_in(now_ns)].into_iter().flatten().min()
    }

    fn run_timers(&mut self) {
        let now_ns = monotonic_ns();
        while let Some(number) = self.flights.overdue(now_ns) {
            self.on_silence(number);
        }
        while let Some(due) = self.timers.pop(now_ns) {
            match due {
                Due::Client(number) => self.close_client(number),
                Due::Lines => {
                    let next_ns = now_ns + LIFE_NS;
                    self.sweep_ns = self.lines.sweep(now_ns).then_some(next_ns);
                    if self.sweep_ns.is_some() {
                        self.timers.add(next_ns, Due::Lines);
                    }
                }
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Set(sandbox, sockets) => self.set(*sandbox, sockets),
                Command::Drop(id) => self.forget(&id),
                Command::Retain(ids) => {
                    let all = self.table.sandboxes().map(|(_, sandbox)| &sandbox.id);
                    let gone: Vec<String> = all.filter(|id| !ids.contains(*id)).cloned().collect();
                    for id in gone {
                        self.forget(&id);
                    }
                }
                Command::Resume(pending) => {
                    for Pending { id, client, query } in pending {
                        if let (Some(number), SocketAddr::V4(client)) = (self.table.number(&id), client) {
                            self.query(number, &query, From::Udp(client));
                        }
                    }
                }
                Command::Stop => {
                    self.stopped = true;
                    return;
                }
            }
        }
    }

    fn set(&mut self, mut sandbox: Sandbox, sockets: Option<Sockets>) {
        // It would be asking itself.
        sandbox.upstreams.retain(|upstream| upstream.host || upstream.address != super::sockets::ADDRESS);
        let upstreams: Rc<[Upstream]> = sandbox.upstreams.as_slice().into();
        let ndots = sandbox.ndots;
        let number = self.table.set(sandbox);
        if let Some(sockets) = sockets {
            self.unserve(number);
            let served = self.serve(number, sockets);
            self.served.insert(number, served);
        }
        let Some(served) = self.served.get_mut(&number) else { return };
        served.ndots = ndots;
        if served.upstreams == upstreams {
            return;
        }
        // Answers of the old servers are not the new ones'.
        self.ground(number);
        self.cache.drop(Scope::Private(number));
        let scope = if upstreams.iter().all(|upstream| upstream.host) {
            let next = self.shared_sets.len() as u32;
            Scope::Shared(*self.shared_sets.entry(Rc::clone(&upstreams)).or_insert(next))
        } else {
            Scope::Private(number)
        };
        if let Some(served) = self.served.get_mut(&number) {
            served.scope = scope;
            served.upstreams = upstreams;
            served.first_upstream = 0;
        }
    }

    fn serve(&self, number: u32, sockets: Sockets) -> Served {
        let Sockets { udp, tcp, netns } = sockets;
        let mut registrations =
            [self.poll.registration(Source::Udp(number)), self.poll.registration(Source::Tcp(number))];
        registrations[0].want(&udp, Some(Flags::IN));
        registrations[1].want(&tcp, Some(Flags::IN));
        Served {
            udp,
            tcp,
            netns,
            registrations,
            upstreams: [].into(),
            scope: Scope::Private(number),
            ndots: false,
            first_upstream: 0,
            waiting: 0,
            clients: 0,
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(number) = self.table.drop(id) {
            self.unserve(number);
        }
    }

    /// Close a container's sockets, with all that hangs on them.
    fn unserve(&mut self, number: u32) {
        self.ground(number);
        let theirs = |(client, of): (&u32, &Client)| (of.sandbox == number).then_some(*client);
        let clients: Vec<u32> = self.clients.iter().filter_map(theirs).collect();
        for client in clients {
            self.close_client(client);
        }
        self.send_replies();
        self.cache.drop(Scope::Private(number));
        self.place.leave(number);
        self.lines.leave(number);
        if let Some(mut served) = self.served.remove(&number) {
            served.registrations[0].want(&served.udp, None);
            served.registrations[1].want(&served.tcp, None);
        }
    }

    /// A container's UDP socket has queries: as many as one call takes, before the next one has its turn.
    fn receive(&mut self, number: u32) {
        let Some(served) = self.served.get(&number) else { return };
        let mut arrivals = std::mem::take(&mut self.arrivals);
        // Whatever the error is, it is about a reply that did not arrive.
        let count = arrivals.receive(served.udp.as_fd()).unwrap_or_default();
        self.obey();
        for at in 0..count {
            if let Some(Arrival { bytes, from: Some(client), cut: false }) = arrivals.get(at) {
                self.query(number, bytes, From::Udp(client));
            }
        }
        self.arrivals = arrivals;
    }

    pub(super) fn query(&mut self, number: u32, message: &[u8], from: From) {
        match Query::parse(message) {
            Err(bad) => {
                if reply_bad(message, &bad, &mut self.out) {
                    self.send(number, from);
                }
            }
            Ok(query) => {
                self.turn = self.turn.wrapping_add(1);
                if answer(&self.table, number, &query, from.limit(&query), self.turn, &mut self.out) {
                    self.send(number, from);
                } else {
                    self.forward(number, message, &query, from);
                }
            }
        }
    }

    /// Send `out`, over UDP with the next `send_replies`.
    pub(super) fn send(&mut self, number: u32, from: From) {
        match from {
            From::Udp(client) => self.replies.push(number, Some(client), &self.out),
            From::Tcp(client) => self.send_to_client(client),
        }
    }

    /// What a client's socket does not take, it will ask for again.
    fn send_replies(&mut self) {
        let served = &self.served;
        self.replies.send(|number| served.get(&number).map(|served| served.udp.as_fd()), |_, _, _| {});
    }

    /// What the next thread needs. Connections over TCP end here; their clients ask again.
    fn leave(mut self) -> Left {
        self.send_replies();
        let mut left = Left::default();
        for flight in self.flights.drain() {
            for waiter in flight.waiters {
                if let (From::Udp(client), Some(sandbox)) = (waiter.from, self.table.sandbox(waiter.sandbox))
                {
                    left.pending.push(Pending {
                        id: sandbox.id.clone(),
                        client: client.into(),
                        query: waiter.query.to_vec(),
                    });
                }
            }
        }
        for (number, Served { udp, tcp, netns, .. }) in self.served.drain() {
            if let Some(sandbox) = self.table.sandbox(number) {
                left.sandboxes.push((sandbox.clone(), Sockets { udp, tcp, netns }));
            }
        }
        left
    }
}

impl Sockets {
    /// Its descriptors, to be handed to another program.
    #[must_use]
    pub fn descriptors(&self) -> [std::os::fd::BorrowedFd<'_>; 3] {
        [self.udp.as_fd(), self.tcp.as_fd(), self.netns.as_fd()]
    }
}

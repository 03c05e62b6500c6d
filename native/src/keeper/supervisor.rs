//! The keeper's state and its loop: wait, hand each ready fd to what it belongs to, then what is due.
//!
//! Work that nobody waits for (network namespaces for the pool, the removal of cgroups) is deferred
//! until nothing else is ready, a piece at a time, so that it never delays a start or an exit.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::connection::{accept, Connection, Received, PACKET_LIMIT};
use super::hand_over::Successor;
use super::janitor::Janitor;
use super::ledger::Ledger;
use super::net_pool::NetPool;
use super::poll::{Flags, Part, Poll, Source, Watched};
use super::ports::Ports;
use super::protocol::{Endpoint, Failure, Reply};
use super::record::{Asked, Confinement, Phase, Table};
use super::resolver::Resolver;
use super::stdio::Scratch;
use super::timers::{monotonic_ns, realtime_ns, Due, Timers};
use crate::cgroup::{Group, Hierarchies};
use crate::error::{Error, Result};
use crate::process::Host;

/// Rounds with ready fds before a deferred piece of work gets its turn all the same.
const BUSY_ROUNDS: u32 = 8;

/// How long deferred work waits for a child on its way to execve.
const START_NS: u64 = 5_000_000;

/// How long it waits for the end of a process that has just begun: many are that short, and their end is waited for.
pub(super) const SHORT_LIFE_NS: u64 = 3_000_000;

/// Work that nobody waits for.
#[derive(Debug)]
pub enum Deferred {
    PrepareNetwork(Asked, u64, Vec<Endpoint>),
    /// Fill up the namespaces with only `lo`.
    SpareNetworks,
    /// Be told of out-of-memory kills of this process's cgroup.
    WatchMemory(u32),
    Clean(Cleanup),
}

/// A cgroup to remove.
#[derive(Debug)]
pub struct Cleanup {
    pub group: Group,
    pub path: String,
    /// How often it was tried.
    pub tries: u32,
}

/// A request that is answered when the table allows it.
#[derive(Debug)]
pub enum Ending {
    No,
    HandOver(Asked, Vec<String>, Successor),
    Shutdown(Asked),
    Now,
}

/// All of the keeper's state.
#[allow(missing_debug_implementations)] // Holds the epoll set.
pub struct Keeper {
    pub(super) poll: Poll,
    pub(super) listener: Watched,
    /// Held for the life of the keeper.
    pub(super) lock: OwnedFd,
    pub(super) connection: Option<Connection>,
    /// How many connections there have been: answers of an old one go nowhere.
    pub(super) connections: u64,
    pub(super) table: Table,
    pub(super) ledger: Ledger,
    pub(super) pool: NetPool,
    pub(super) resolver: Resolver,
    pub(super) ports: Ports,
    pub(super) timers: Timers,
    pub(super) deferred: VecDeque<Deferred>,
    /// Cgroups that were busy when their removal was tried.
    pub(super) cleanups: Vec<Cleanup>,
    pub(super) host: Host,
    pub(super) hierarchies: Hierarchies,
    /// Stands for the streams of a process that has a tty.
    pub(super) null: OwnedFd,
    pub(super) scratch: Scratch,
    pub(super) janitor: Janitor,
    packet: Vec<u8>,
    /// Children between clone and execve.
    pub(super) starting: usize,
    /// The process that began last, and when that is long ago; until it has ended.
    pub(super) fresh: Option<(u32, u64)>,
    pub(super) ending: Ending,
}

impl Keeper {
    /// A keeper with nothing to keep yet. The ledger may hold exits of an earlier one.
    pub fn new(exec_root: &Path, lock: OwnedFd, listener: OwnedFd) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = poll.watch(listener, Source::Listener);
        listener.want(Some(Flags::IN));
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty());
        Ok(Self {
            ledger: Ledger::open(&exec_root.join("ledger"))?,
            poll,
            listener,
            lock,
            connection: None,
            connections: 0,
            table: Table::default(),
            pool: NetPool::new()?,
            resolver: Resolver::default(),
            ports: Ports::default(),
            timers: Timers::default(),
            deferred: VecDeque::new(),
            janitor: Janitor::default(),
            cleanups: Vec::new(),
            host: Host::probe()?.with_bare_mounts(),
            hierarchies: Hierarchies::probe()?,
            null: null.map_err(|error| Error::os("open", "/dev/null", error))?,
            scratch: Scratch::new(),
            // Zeroed by the kernel: only what a packet has filled takes memory.
            packet: vec![0; PACKET_LIMIT],
            starting: 0,
            fresh: None,
            ending: Ending::No,
        })
    }

    /// Serve until told to shut down.
    pub fn run(&mut self) {
        let mut events = Vec::new();
        let mut busy = 0;
        while !matches!(self.ending, Ending::Now) {
            self.poll.wait(self.patience(), &mut events);
            busy += 1;
            if events.is_empty() || busy >= BUSY_ROUNDS {
                self.run_deferred();
                busy = 0;
            }
            for (source, flags) in events.drain(..) {
                self.dispatch(source, flags);
            }
            self.run_timers();
            self.try_to_end();
        }
    }

    /// How long to wait for a ready fd: until a timer or, with work deferred, not at all; a child on its way to
    /// execve is given a moment first, and so is the one that began last.
    fn patience(&self) -> Option<u64> {
        let now_ns = monotonic_ns();
        let timer = self.timers.next_in(now_ns);
        if self.deferred.is_empty() {
            return timer;
        }
        let deferred = match self.fresh.filter(|(_, until_ns)| *until_ns > now_ns) {
            _ if self.starting > 0 => START_NS,
            Some((_, until_ns)) => until_ns - now_ns,
            None => 0,
        };
        Some(timer.map_or(deferred, |timer| timer.min(deferred)))
    }

    fn dispatch(&mut self, source: Source, flags: Flags) {
        match source {
            Source::Listener => self.accept(),
            Source::Peer => self.serve(flags),
            Source::Successor => self.try_to_end(),
            Source::Ports => self.on_ports(),
            Source::Process(number, Part::Sync) => self.drive(number),
            Source::Process(number, Part::Pidfd) => self.reap(number),
            Source::Process(number, Part::Oom) => self.on_memory_trouble(number),
            Source::Process(number, Part::Ship) => self.on_ship(number, Some(flags)),
            Source::Process(number, part) => {
                if let Some(record) = self.table.get_mut(number) {
                    record.stdio.on_ready(part, flags, realtime_ns(), &mut self.scratch);
                    self.after_output(number);
                }
            }
            Source::Client(number, client) => {
                if let Some(record) = self.table.get_mut(number) {
                    record.stdio.on_client(client, flags, &mut self.scratch);
                    self.after_client(number);
                }
            }
        }
    }

    /// A new proad replaces the old one; what the old one had begun to start, nobody waits for.
    fn accept(&mut self) {
        while let Some(socket) = accept(&self.listener) {
            self.disconnect();
            self.connections += 1;
            self.connection = Some(Connection::new(socket, &self.poll));
        }
    }

    pub(super) fn disconnect(&mut self) {
        if self.connection.take().is_some() {
            for number in self.table.numbers(|phase| matches!(phase, Phase::Starting(_))) {
                self.abandon(number);
            }
            for number in self.table.numbers(|phase| matches!(phase, Phase::Waiting)) {
                self.table.remove(number);
            }
        }
    }

    fn serve(&mut self, flags: Flags) {
        let Some(connection) = &mut self.connection else { return };
        if flags.contains(Flags::OUT) {
            connection.flush();
        }
        for _ in 0..connection.burst() {
            let Some(connection) = &mut self.connection else { return };
            match connection.receive(&mut self.packet) {
                Received::Request(request, fds) => self.handle(request, fds),
                Received::Nothing => break,
                Received::Refused(seq, why) => {
                    let asked = Asked { connection: self.connections, seq };
                    self.refuse(asked, refusal("invalid", why));
                }
                Received::Closed => return self.disconnect(),
                Received::Garbled(why) => {
                    report!("connection dropped: {why}");
                    return self.disconnect();
                }
            }
        }
        if self.connection.as_ref().is_some_and(Connection::closed) {
            self.disconnect();
        }
    }

    /// Answer a request, if the connection it came on is still the one.
    pub(super) fn answer(&mut self, asked: Asked, reply: &Reply) {
        if asked.connection == self.connections {
            self.tell(reply);
        }
    }

    pub(super) fn done(&mut self, asked: Asked) {
        self.answer(asked, &Reply::Done { seq: asked.seq });
    }

    pub(super) fn refuse(&mut self, asked: Asked, error: Failure) {
        self.answer(asked, &Reply::Failed { seq: asked.seq, error });
    }

    /// Send to whatever proad is connected.
    pub(super) fn tell(&mut self, reply: &Reply) {
        let Some(connection) = &mut self.connection else { return };
        connection.send(reply);
        if connection.closed() {
            self.disconnect();
        }
    }

    fn run_deferred(&mut self) {
        match self.deferred.pop_front() {
            None => {}
            Some(Deferred::PrepareNetwork(asked, key, endpoints)) => {
                self.prepare_network(asked, key, &endpoints);
            }
            Some(Deferred::SpareNetworks) => self.make_spare_network(),
            Some(Deferred::WatchMemory(number)) => self.watch_memory(number),
            Some(Deferred::Clean(cleanup)) => self.clean(cleanup),
        }
    }

    fn run_timers(&mut self) {
        let now_ns = monotonic_ns();
        while let Some(due) = self.timers.pop(now_ns) {
            match due {
                Due::Timeout(number) => self.time_out(number),
                Due::Drain(number) => self.drain(number),
                Due::Linger(number) => self.drop_lingering(number),
                Due::Ship(number) => self.on_ship(number, None),
                Due::Successor => self.give_up_successor(),
                Due::Memory(number, look) => self.look_for_kills(number, look),
                Due::Cleanup => self.deferred.extend(self.cleanups.drain(..).map(Deferred::Clean)),
            }
        }
    }

    /// Remove a container's cgroup when there is time, and its root beside all that.
    pub(super) fn clean_later(&mut self, confinement: Confinement) {
        if let Some(root) = confinement.root {
            self.janitor.close(root);
        }
        let Confinement { group: Some(group), group_path: path, .. } = confinement else { return };
        self.deferred.push_back(Deferred::Clean(Cleanup { group, path, tries: 0 }));
    }
}

/// The failure of a step that the native core reports as an [`Error`].
pub fn failure(step: &str, error: &Error) -> Failure {
    match error {
        Error::Os { operation, path, .. } => {
            Failure { step: step.to_owned(), subject: format!("{operation} {path}"), errno: error.errno() }
        }
        Error::Invalid(text) => Failure { step: step.to_owned(), subject: text.clone(), errno: 0 },
    }
}

/// A failure found before any call.
pub fn refusal(step: &str, subject: impl Into<String>) -> Failure {
    Failure { step: step.to_owned(), subject: subject.into(), errno: 0 }
}

//! The clock of all probes, and the loop that their connections are on.
//!
//! | due      | then                                                                        |
//! |----------|-----------------------------------------------------------------------------|
//! | probe    | a connection begins; where too many are open, when one of them is over      |
//! | deadline | the connection ends: without a result yet, that is told as one too late     |

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{pidfd_open, Pid, PidfdFlags};

use super::attempt::{begin, words, Attempt, Progress};
use super::handle::{Command, Line};
use super::head::LIMIT;
use super::results::{Outcome, Results};
use super::Watch;
use crate::epoll::{self, Flags};
use crate::error::{Error, Result};
use crate::netns::HostNetwork;
use crate::timers::{monotonic_ns, realtime_ns, Timers};

/// Connections at a time: a descriptor each, of the thousand that a process may have.
const MOST_OPEN: usize = 256;
/// How long the rest of an answer may take.
const DRAIN_NS: u64 = 1_000_000_000;

/// What a ready fd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Something was told.
    Wake,
    /// The connection of a watch.
    Attempt(u32),
}

pub(super) type Poll = epoll::Poll<Source>;
pub(super) type Watched = epoll::Watched<Source>;

impl epoll::Token for Source {
    /// A number, past which is the wake-up.
    fn token(self) -> u64 {
        match self {
            Self::Wake => u64::MAX,
            Self::Attempt(number) => u64::from(number),
        }
    }

    fn from_token(token: u64) -> Self {
        u32::try_from(token).map_or(Self::Wake, Self::Attempt)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Probe(u32),
    Deadline(u32),
}

#[derive(Debug)]
struct Watching {
    watch: Watch,
    /// Unix time at which the last probe began.
    began_ns: u64,
    /// Which of its addresses is tried.
    address: usize,
    /// Why the first of them was not reached.
    unreachable: Option<String>,
    /// When the next probe is due, and when the connection ends, of the monotonic clock.
    next_ns: Option<u64>,
    deadline_ns: Option<u64>,
}

impl Watching {
    fn new(watch: Watch) -> Self {
        Self { watch, began_ns: 0, address: 0, unreachable: None, next_ns: None, deadline_ns: None }
    }

    fn interval(&self) -> u64 {
        let rhythm = &self.watch.rhythm;
        let starting = self.watch.starting && realtime_ns() < rhythm.start_ends;
        if starting {
            rhythm.start_interval
        } else {
            rhythm.interval
        }
    }

    fn target(&self) -> Option<SocketAddr> {
        self.watch.target.addresses.get(self.address).copied()
    }
}

pub(super) struct Server {
    poll: Poll,
    wake: Watched,
    commands: Receiver<Command>,
    results: Arc<Results>,
    host: HostNetwork,
    watches: HashMap<u32, Watching>,
    /// By the number of their watch.
    attempts: HashMap<u32, Attempt>,
    /// Whose probe is due and finds too many open.
    waiting: VecDeque<u32>,
    timers: Timers<Due>,
    buffer: Vec<u8>,
}

impl Server {
    pub(super) fn new(line: Line) -> Result<Self> {
        let Line { commands, wake, results } = line;
        let poll = Poll::new()?;
        let mut wake = poll.watch(wake, Source::Wake);
        wake.want(Some(Flags::IN));
        Ok(Self {
            poll,
            wake,
            commands,
            results,
            host: HostNetwork::open()?,
            watches: HashMap::new(),
            attempts: HashMap::new(),
            waiting: VecDeque::new(),
            timers: Timers::default(),
            buffer: vec![0; LIMIT],
        })
    }

    /// Probe until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        loop {
            let patience = self.timers.next_in(monotonic_ns());
            self.poll.wait(patience, &mut events);
            for (source, _) in events.drain(..) {
                match source {
                    // Ignored: a wake-up more or less does no harm.
                    Source::Wake => drop(rustix::io::read(&self.wake, &mut [0u8; 8])),
                    Source::Attempt(number) => self.on_ready(number),
                }
            }
            if self.obey() {
                return;
            }
            let now_ns = monotonic_ns();
            while let Some(due) = self.timers.pop(now_ns) {
                match due {
                    Due::Probe(number) => self.probe(number),
                    Due::Deadline(number) => self.too_late(number),
                }
            }
            self.admit();
        }
    }

    /// Do what was told; true when that was to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Watch(number, watch) => {
                    self.watches.insert(number, Watching::new(*watch));
                    self.schedule(number);
                }
                Command::Unwatch(number) => self.forget(number),
                Command::Stop => return true,
            }
        }
        false
    }

    fn forget(&mut self, number: u32) {
        self.end(number);
        if let Some(next_ns) = self.watches.remove(&number).and_then(|watching| watching.next_ns) {
            self.timers.remove(next_ns, Due::Probe(number));
        }
        self.waiting.retain(|waiting| *waiting != number);
    }

    /// The next probe comes an interval from now.
    fn schedule(&mut self, number: u32) {
        let Some(watching) = self.watches.get_mut(&number) else { return };
        let next_ns = monotonic_ns().saturating_add(watching.interval());
        watching.next_ns = Some(next_ns);
        self.timers.add(next_ns, Due::Probe(number));
    }

    /// A connection is over.
    fn end(&mut self, number: u32) {
        self.attempts.remove(&number);
        let Some(watching) = self.watches.get_mut(&number) else { return };
        if let Some(deadline_ns) = watching.deadline_ns.take() {
            self.timers.remove(deadline_ns, Due::Deadline(number));
        }
    }

    fn end_by(&mut self, number: u32, deadline_ns: u64) {
        let Some(watching) = self.watches.get_mut(&number) else { return };
        if let Some(before_ns) = watching.deadline_ns.replace(deadline_ns) {
            self.timers.remove(before_ns, Due::Deadline(number));
        }
        self.timers.add(deadline_ns, Due::Deadline(number));
    }

    /// A probe is due; the last one's answer is waited for no longer.
    fn probe(&mut self, number: u32) {
        self.end(number);
        self.waiting.push_back(number);
    }

    /// Begin as many of the probes that are due as may be open.
    fn admit(&mut self) {
        while self.attempts.len() < MOST_OPEN {
            let Some(number) = self.waiting.pop_front() else { return };
            let Some(watching) = self.watches.get_mut(&number) else { continue };
            watching.next_ns = None;
            watching.began_ns = realtime_ns();
            watching.address = 0;
            watching.unreachable = None;
            let deadline_ns = monotonic_ns().saturating_add(watching.watch.rhythm.timeout);
            self.end_by(number, deadline_ns);
            self.connect(number);
        }
    }

    /// Begin to connect to the address whose turn it is, or the next that can be.
    fn connect(&mut self, number: u32) {
        loop {
            let Some(watching) = self.watches.get_mut(&number) else { return };
            let Some(address) = watching.target() else {
                let why = watching.unreachable.take().unwrap_or_default();
                return self.judge(number, 1, why);
            };
            match socket_in(&self.host, watching.watch.pid, &address) {
                Ok(Ok(socket)) => {
                    let socket = self.poll.watch(socket, Source::Attempt(number));
                    self.attempts.insert(number, Attempt::new(socket));
                    return;
                }
                Ok(Err(error)) => self.unreachable(number, &words(error)),
                // Its process is gone: whoever watches will end the watch.
                Err(error) if error.errno() == Errno::SRCH.raw_os_error() => {
                    self.end(number);
                    return self.schedule(number);
                }
                Err(error) => return self.judge(number, -1, error.to_string()),
            }
        }
    }

    /// The next address has its turn; the first failure is the one to tell.
    fn unreachable(&mut self, number: u32, why: &str) {
        let Some(watching) = self.watches.get_mut(&number) else { return };
        if let Some(address) = watching.target() {
            watching.unreachable.get_or_insert_with(|| format!("{address}: {why}"));
        }
        watching.address += 1;
    }

    fn on_ready(&mut self, number: u32) {
        let (Some(watching), Some(attempt)) = (self.watches.get(&number), self.attempts.get_mut(&number))
        else {
            return;
        };
        match attempt.on_ready(&watching.watch.target.request, &mut self.buffer) {
            Progress::Pending => {}
            Progress::Unreachable(why) => {
                self.attempts.remove(&number);
                self.unreachable(number, &why);
                self.connect(number);
            }
            Progress::Over(code, output) => {
                let output = watching.target().map_or_else(|| output.clone(), |at| format!("{at}: {output}"));
                self.judge(number, code, output);
            }
            Progress::Answered(code, output) => {
                self.tell(number, code, output);
                self.end_by(number, monotonic_ns() + DRAIN_NS);
            }
            Progress::Drained => self.end(number),
        }
    }

    fn too_late(&mut self, number: u32) {
        let Some(watching) = self.watches.get_mut(&number) else { return };
        watching.deadline_ns = None;
        let late = watching.watch.late.clone();
        match self.attempts.remove(&number) {
            Some(attempt) if !attempt.is_judged() => self.tell(number, -1, late),
            _ => {}
        }
    }

    /// A result with which the connection is over.
    fn judge(&mut self, number: u32, code: i32, output: String) {
        self.end(number);
        self.tell(number, code, output);
    }

    fn tell(&mut self, number: u32, code: i32, output: String) {
        let Some(watching) = self.watches.get_mut(&number) else { return };
        watching.watch.starting &= code != 0;
        let outcome = Outcome { start_ns: watching.began_ns, end_ns: realtime_ns(), code, output };
        self.results.add(number, outcome);
        self.schedule(number);
    }
}

/// A socket of a container's network namespace, on its way to an address; inside, why that cannot be reached.
fn socket_in(
    host: &HostNetwork,
    pid: i32,
    address: &SocketAddr,
) -> Result<std::result::Result<OwnedFd, Errno>> {
    let failed = |error| Error::os("open", "the container's process", error);
    let pid = Pid::from_raw(pid).ok_or_else(|| failed(Errno::SRCH))?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    host.step_into(process.as_fd(), || Ok(begin(address)))
}

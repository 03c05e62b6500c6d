//! Hand-over to a newer keeper: the same process executes the new program, so children stay children.
//!
//! The state goes through a memfd whose number the new program finds in [`VARIABLE`]; every descriptor
//! goes under its own number, with CLOEXEC cleared for exactly these. What can be made again is
//! left out: the epoll set, cgroup handles, memory watches. Nothing of a process is lost in between:
//! its output waits in its pipes, its exit in its pidfd.
//!
//! | old keeper                          | new keeper                                     |
//! |-------------------------------------|------------------------------------------------|
//! | runs the program once as a child    | can it read this format of the state? 0 if so  |
//! | waits until no start is under way   |                                                |
//! | state to the memfd, execve          |                                                |
//! | on failure: CLOEXEC again, `failed` | adopts the descriptors, answers `done`, closes |

use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::{fcntl_setfd, FdFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::boot;
use super::connection::Connection;
use super::poll::{Flags, Part, Source, Watched};
use super::ports;
use super::protocol::Reply;
use super::record::{Asked, Confinement, Ended, Key, Phase, Record, Running, Status};
use super::resolver;
use super::stdio::{self, StdioState};
use super::supervisor::{failure, refusal, Cleanup, Deferred, Ending, Keeper};
use super::timers::{monotonic_ns, Due};
use crate::error::{Error, Result};
use crate::mount::sealed_program;
use crate::netns::Prepared;
use crate::process::ContainerHandle;
use crate::sys::supervise::{adopt, close_on_exec};

/// Holds the number of the memfd.
const VARIABLE: &str = "PROA_KEEPER_STATE";
/// Holds the format of the state that an older keeper would leave: can this program read it?
const QUESTION: &str = "PROA_KEEPER_CAN_READ";
/// Of the state's format; to be raised when an older keeper's state cannot be read any more.
const FORMAT: u32 = 1;
/// How long the new program may take to answer.
const ANSWER_NS: u64 = 20_000_000_000;

/// All that a new keeper cannot find out by itself. Descriptors by number.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    format: u32,
    lock: i32,
    listener: i32,
    /// Where the hand-over was asked for, and the request's number.
    asked: Option<(i32, u64)>,
    processes: Vec<ProcessState>,
    /// Key, namespace, the host's interface.
    prepared: Vec<(u64, i32, String)>,
    /// Cgroups to remove.
    cleanups: Vec<String>,
    /// Of the thread that answers for names; none of a keeper that had no such thread.
    #[serde(default)]
    resolver: resolver::State,
    /// Published ports; none of a keeper that held none.
    #[serde(default)]
    ports: ports::State,
}

#[derive(Debug, Serialize, Deserialize)]
struct ProcessState {
    number: u32,
    id: String,
    exec_id: Option<String>,
    phase: PhaseState,
    stdio: StdioState,
}

#[derive(Debug, Serialize, Deserialize)]
enum PhaseState {
    Waiting,
    Running {
        pid: i32,
        pidfd: i32,
        user_namespace: bool,
        started_at_ns: u64,
        deadline_ns: Option<u64>,
        timed_out: bool,
        /// Empty for an exec.
        group_path: String,
        shared_pids: bool,
        oom_kills: u64,
    },
    Draining {
        pid: u32,
        started_at_ns: u64,
        finished_at_ns: u64,
        status: Status,
        timed_out: bool,
        oom: bool,
    },
    Over,
}

/// Descriptors that are to survive the execve.
#[derive(Debug, Default)]
pub(super) struct Lent {
    numbers: Vec<i32>,
    failed: Option<Error>,
}

impl Lent {
    pub(super) fn lend(&mut self, fd: BorrowedFd<'_>) -> i32 {
        let number = fd.as_raw_fd();
        match fcntl_setfd(fd, FdFlags::empty()) {
            Ok(()) => self.numbers.push(number),
            Err(error) => self.failed = Some(Error::os("keep open", format!("fd {number}"), error)),
        }
        number
    }
}

/// The new program, asked whether it can take over. Dropping it ends it.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    exit: Watched,
    deadline_ns: u64,
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Ignored: it has ended already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True in a program that is only asked whether it could take over; an error says no.
pub fn answer_predecessor() -> Result<bool> {
    match std::env::var(QUESTION) {
        Err(_) => Ok(false),
        Ok(format) if format == FORMAT.to_string() => Ok(true),
        Ok(format) => Err(Error::Invalid(format!("state format {format} is not {FORMAT}"))),
    }
}

/// What an older keeper has left in this process, if one has.
pub fn inherited() -> Result<Option<State>> {
    let Ok(number) = std::env::var(VARIABLE) else { return Ok(None) };
    let invalid = |why: String| Error::Invalid(format!("{VARIABLE}={number}: {why}"));
    let fd = number.parse().ok().and_then(adopt).ok_or_else(|| invalid("no such descriptor".into()))?;
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| Error::os("read state from", format!("fd {number}"), error))?;
    let state: State = rmp_serde::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if state.format != FORMAT {
        return Err(invalid(format!("format {} is not {FORMAT}", state.format)));
    }
    Ok(Some(state))
}

impl Keeper {
    /// Ask the new program whether it can take over: once it has taken this one's place it is too late.
    pub(super) fn hand_over(&mut self, asked: Asked, argv: Vec<String>) {
        if !matches!(self.ending, Ending::No) {
            return self.refuse(asked, refusal("conflict", "the keeper is ending already"));
        }
        match self.ask_successor(&argv) {
            Ok(successor) => {
                self.timers.add(successor.deadline_ns, Due::Successor);
                self.ending = Ending::HandOver(asked, argv, successor);
            }
            Err(error) => self.refuse(asked, failure("hand_over", &error)),
        }
    }

    fn ask_successor(&mut self, argv: &[String]) -> Result<Successor> {
        let mut command = command(argv)?;
        command.env(QUESTION, FORMAT.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| Error::os("execute", command_name(argv), error))?;
        let pidfd = Pid::from_raw(child.id() as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = pidfd
            .unwrap_or(Err(rustix::io::Errno::SRCH))
            .map_err(|error| Error::os("open pidfd of", command_name(argv), error))?;
        let mut exit = self.poll.watch(pidfd, Source::Successor);
        exit.want(Some(Flags::IN));
        Ok(Successor { child, exit, deadline_ns: monotonic_ns() + ANSWER_NS })
    }

    pub(super) fn give_up_successor(&mut self) {
        if let Ending::HandOver(asked, argv, _) = std::mem::replace(&mut self.ending, Ending::No) {
            self.refuse(asked, refusal("hand_over", format!("{} does not answer", command_name(&argv))));
        }
    }

    /// Go on when the new program has said yes and no start is under way.
    pub(super) fn try_to_hand_over(&mut self) {
        let Ending::HandOver(asked, argv, successor) = &mut self.ending else { return };
        let refused = match successor.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) if status.success() => None,
            Ok(Some(status)) => Some(format!("{} says no: {status}", command_name(argv))),
            Err(error) => Some(error.to_string()),
        };
        // Ended, so it stays readable: not waited for any longer.
        successor.exit.want(None);
        let asked = *asked;
        if refused.is_some() || self.starting == 0 {
            self.timers.remove(successor.deadline_ns, Due::Successor);
        }
        if let Some(why) = refused {
            self.ending = Ending::No;
            self.refuse(asked, refusal("hand_over", why));
        } else if self.starting == 0 {
            self.hand_over_now();
        }
    }

    /// Execute the new keeper. Returns only when that failed, with everything as before.
    pub(super) fn hand_over_now(&mut self) {
        let Ending::HandOver(asked, argv, _) = std::mem::replace(&mut self.ending, Ending::No) else {
            return;
        };
        let mut lent = Lent::default();
        let names = self.resolver.stop();
        let resolver = resolver::State::of(&names, &mut lent);
        let held = self.stop_ports();
        let ports = ports::State::of(&held, &mut lent);
        let error = self.execute(&argv, asked, (resolver, ports), &mut lent);
        for number in lent.numbers {
            if let Err(error) = close_on_exec(number) {
                report!("close-on-exec of fd {number}: {error}");
            }
        }
        boot::set_up_process();
        self.resolver.resume(names);
        self.resume_ports(held);
        report!("hand over: {error}");
        self.refuse(asked, failure("hand_over", &error));
    }

    fn execute(
        &mut self,
        argv: &[String],
        asked: Asked,
        threads: (resolver::State, ports::State),
        lent: &mut Lent,
    ) -> Error {
        let state = self.state(asked, threads, lent);
        let memory = match to_memory(&state) {
            Ok(memory) => memory,
            Err(error) => return error,
        };
        let number = lent.lend(memory.as_fd());
        if let Some(error) = lent.failed.take() {
            return error;
        }
        let Some((program, arguments)) = argv.split_first() else {
            return Error::Invalid("no program".into());
        };
        let sealed = match sealed_program(program) {
            Ok(sealed) => sealed,
            Err(error) => return error,
        };
        let error = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
            .arg0(program)
            .args(arguments)
            .env(VARIABLE, number.to_string())
            .exec();
        // The memfd closes here; its number must not be touched by the caller any more.
        lent.numbers.retain(|lent| *lent != number);
        Error::os("execute", command_name(argv), error)
    }

    fn state(
        &mut self,
        asked: Asked,
        (resolver, ports): (resolver::State, ports::State),
        lent: &mut Lent,
    ) -> State {
        if let Some(connection) = &mut self.connection {
            connection.flush();
        }
        let connection = self.connection.as_ref().filter(|_| asked.connection == self.connections);
        let asked = connection.map(|connection| (lent.lend(connection.as_fd()), asked.seq));
        let cleanups = self.deferred.iter().filter_map(|work| match work {
            Deferred::Clean(cleanup) => Some(cleanup.path.clone()),
            _ => None,
        });
        let cleanups = cleanups.chain(self.cleanups.iter().map(|cleanup| cleanup.path.clone())).collect();
        let prepared = self
            .pool
            .iter()
            .map(|(key, net)| (key, lent.lend(net.netns.as_fd()), net.host_interface.clone()))
            .collect();
        State {
            format: FORMAT,
            lock: lent.lend(self.lock.as_fd()),
            listener: lent.lend(self.listener.as_fd()),
            asked,
            prepared,
            processes: self
                .table
                .iter_mut()
                .filter_map(|(number, record)| process(number, record, lent))
                .collect(),
            cleanups,
            resolver,
            ports,
        }
    }

    /// Go on where an older keeper has stopped.
    pub fn restore(exec_root: &Path, state: State) -> Result<Self> {
        let missing = |what: &str| Error::Invalid(format!("hand-over without {what}"));
        let lock = adopt(state.lock).ok_or_else(|| missing("lock"))?;
        let listener = adopt(state.listener).ok_or_else(|| missing("listener"))?;
        let mut keeper = Self::new(exec_root, lock, listener)?;
        for (key, fd, host_interface) in state.prepared {
            if let Some(netns) = adopt(fd) {
                keeper.pool.insert(key, Prepared { netns, host_interface });
            }
        }
        for process in state.processes {
            keeper.restore_process(process);
        }
        for path in state.cleanups {
            match keeper.hierarchies.open(&path) {
                Ok(group) => keeper.deferred.push_back(Deferred::Clean(Cleanup { group, path, tries: 0 })),
                Err(error) => report!("{error}"),
            }
        }
        keeper.resolver.resume(state.resolver.adopt());
        keeper.resume_ports(state.ports.adopt());
        if let Some((fd, seq)) = state.asked {
            if let Some(socket) = adopt(fd) {
                Connection::new(socket, &keeper.poll).send(&Reply::Done { seq });
            }
        }
        Ok(keeper)
    }

    fn restore_process(&mut self, process: ProcessState) {
        let ProcessState { number, id, exec_id, phase, stdio } = process;
        let stdio = stdio::Stdio::restore(&self.poll, number, stdio);
        let phase = self.restore_phase(number, phase);
        let ended = matches!(phase, Phase::Draining(_));
        self.table.insert(number, Record { key: Key { id, exec_id }, stdio, phase });
        if ended {
            self.after_output(number);
        }
        self.wake_for_log(number);
        self.after_client(number);
    }

    fn restore_phase(&mut self, number: u32, phase: PhaseState) -> Phase {
        match phase {
            PhaseState::Waiting => Phase::Waiting,
            PhaseState::Over => {
                self.timers.add(monotonic_ns(), Due::Linger(number));
                Phase::Over
            }
            PhaseState::Draining { pid, started_at_ns, finished_at_ns, status, timed_out, oom } => {
                let drain_until_ns = monotonic_ns();
                self.timers.add(drain_until_ns, Due::Drain(number));
                let ended =
                    Ended { pid, started_at_ns, finished_at_ns, status, timed_out, oom, drain_until_ns };
                Phase::Draining(Box::new(ended))
            }
            PhaseState::Running {
                pid,
                pidfd,
                user_namespace,
                started_at_ns,
                deadline_ns,
                timed_out,
                group_path,
                shared_pids,
                oom_kills,
            } => {
                let Some(pidfd) = adopt(pidfd) else {
                    report!("hand-over without the pidfd of {pid}");
                    return Phase::Over;
                };
                let mut exit = self.poll.registration(Source::Process(number, Part::Pidfd));
                exit.want(&pidfd, Some(Flags::IN));
                if let Some(deadline_ns) = deadline_ns {
                    self.timers.add(deadline_ns, Due::Timeout(number));
                }
                let confinement = self.restore_confinement(group_path, shared_pids);
                if confinement.group.is_some() {
                    self.deferred.push_back(Deferred::WatchMemory(number));
                }
                let handle = ContainerHandle { pid, pidfd, user_namespace };
                Phase::Running(Box::new(Running {
                    handle,
                    exit,
                    started_at_ns,
                    deadline_ns,
                    timed_out,
                    confinement,
                    oom: None,
                    oom_kills,
                }))
            }
        }
    }

    fn restore_confinement(&self, group_path: String, shared_pids: bool) -> Confinement {
        if group_path.is_empty() {
            return Confinement::default();
        }
        let group = self.hierarchies.open(&group_path);
        let group = group.map_err(|error| report!("{error}")).ok();
        Confinement { group, group_path, root: None, shared_pids }
    }
}

fn process(number: u32, record: &mut Record, lent: &mut Lent) -> Option<ProcessState> {
    let phase = match &record.phase {
        Phase::Waiting => PhaseState::Waiting,
        // Waited for before a hand-over begins.
        Phase::Starting(_) => return None,
        Phase::Running(running) => PhaseState::Running {
            pid: running.handle.pid,
            pidfd: lent.lend(running.handle.pidfd.as_fd()),
            user_namespace: running.handle.user_namespace,
            started_at_ns: running.started_at_ns,
            deadline_ns: running.deadline_ns,
            timed_out: running.timed_out,
            group_path: running.confinement.group_path.clone(),
            shared_pids: running.confinement.shared_pids,
            oom_kills: running.oom_kills,
        },
        Phase::Draining(ended) => PhaseState::Draining {
            pid: ended.pid,
            started_at_ns: ended.started_at_ns,
            finished_at_ns: ended.finished_at_ns,
            status: ended.status,
            timed_out: ended.timed_out,
            oom: ended.oom,
        },
        Phase::Over => PhaseState::Over,
    };
    let Key { id, exec_id } = record.key.clone();
    let stdio = record.stdio.state(&mut |fd| lent.lend(fd));
    Some(ProcessState { number, id, exec_id, phase, stdio })
}

fn command(argv: &[String]) -> Result<Command> {
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::Invalid("no command line".into()))?;
    let mut command = Command::new(program);
    // Of a hand-over that came before.
    command.args(arguments).env_remove(VARIABLE).env_remove(QUESTION);
    Ok(command)
}

fn command_name(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}

fn to_memory(state: &State) -> Result<std::fs::File> {
    let bytes = rmp_serde::to_vec_named(state).map_err(|error| Error::Invalid(error.to_string()))?;
    let fd = memfd_create("proa-keeper-state", MemfdFlags::CLOEXEC)
        .map_err(|error| Error::os("memfd_create", "proa-keeper-state", error))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&bytes).map_err(|error| Error::os("write", "proa-keeper-state", error))?;
    Ok(file)
}

//! Starting processes: a [`Plan`] (or an exec's [`Process`]) becomes a child of the caller.
//!
//! Owns the order of things on the start path. The parent prepares everything that needs no
//! namespace of the container (overlay, bind sources, /dev, C strings), clones, and goes on with
//! its own work; the child interprets a flat list of operations (`child.rs`) and execs. Nothing
//! here waits for the child: [`Spawning`] is driven by the caller's event loop.
//!
//! | parent                                  | child                                       |
//! |-----------------------------------------|---------------------------------------------|
//! | prepare, clone3                         |                                             |
//! | attach to cgroups, write id maps        | mounts, hostname, ...                       |
//! | one byte: go                            | waits for it before the cgroup namespace    |
//! |                                         | record `warning`: (operation, errno)        |
//! |                                         | record `terminal` with the pty master's fd  |
//! |                                         | record `ready`: all that is left is execve  |
//! |                                         | record `failed`: (operation, errno), exits  |
//! | end of file: the program runs           | execve closes the socket                    |

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error;
use crate::keeper::protocol::Failure;
use crate::plan::{Plan, Process};

/// What a start needs to know of a cgroup that the caller has made.
pub trait CgroupGroup {
    /// Moves `pid` into every hierarchy that it did not enter at birth.
    fn attach(&self, pid: i32) -> error::Result<()>;
    /// The v2 directory for `CLONE_INTO_CGROUP`, where there is one.
    fn clone_into_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A container that runs: what `exec_into` and namespace joins need of it.
#[derive(Debug)]
pub struct ContainerHandle {
    /// Its init, in the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// It has a user namespace of its own.
    pub user_namespace: bool,
}

/// What is the same for every start: probed and opened once per keeper.
#[derive(Debug)]
pub struct Host {
    _private: (),
}

impl Host {
    pub fn probe() -> error::Result<Self> {
        Ok(Self { _private: () })
    }
}

/// The child's ends of its standard streams; not looked at where the process has a tty.
/// They stay the caller's and may be closed as soon as `spawn` returns.
#[derive(Debug, Clone, Copy)]
pub struct Stdio<'a> {
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// What one start needs besides its plan.
#[allow(missing_debug_implementations)]
pub struct SpawnContext<'a> {
    pub host: &'a Host,
    pub stdio: Stdio<'a>,
    /// The namespace of `Network::Prepared`; with `Network::None`, one that has only `lo`, up.
    pub netns: Option<BorrowedFd<'a>>,
    /// The running container of an id, for namespaces that are another container's.
    pub container: &'a dyn Fn(&str) -> Option<&'a ContainerHandle>,
    /// Made already, limits written; `None` leaves the child in the caller's cgroups.
    pub group: Option<&'a dyn CgroupGroup>,
}

/// A child on its way to execve.
#[derive(Debug)]
pub struct Spawning {
    pub pid: i32,
    pub pidfd: OwnedFd,
    sync: OwnedFd,
}

/// How far a [`Spawning`] is.
#[derive(Debug)]
pub enum Progress {
    Pending,
    /// The program runs. Take `pidfd` out of the `Spawning` and drop the rest.
    Started {
        warnings: Vec<String>,
        pty_master: Option<OwnedFd>,
    },
    /// It does not, and the child is reaped.
    Failed(Failure),
}

impl Spawning {
    /// Call when the fd of [`AsFd`] is readable (level-triggered); never blocks.
    pub fn on_readable(&mut self) -> Progress {
        Progress::Pending
    }

    /// Kills and reaps the child: for a start that is given up. Dropping a `Spawning` does not.
    pub fn abandon(self) {}
}

impl AsFd for Spawning {
    /// The socket to watch for readability.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}

/// Starts the container of `plan`. Nothing is left behind on failure.
pub fn spawn(plan: &Plan, context: &SpawnContext<'_>) -> Result<Spawning, Failure> {
    let _ = (plan, context.host);
    Err(Failure { step: "invalid".into(), subject: "not yet".into(), errno: 0 })
}

/// Runs `process` in the namespaces (and the cgroup, where given) of the container of `init`.
pub fn exec_into(
    init: &ContainerHandle,
    process: &Process,
    host: &Host,
    stdio: Stdio<'_>,
    group: Option<&dyn CgroupGroup>,
) -> Result<Spawning, Failure> {
    let _ = (init, process, host, stdio, group.is_some());
    Err(Failure { step: "invalid".into(), subject: "not yet".into(), errno: 0 })
}

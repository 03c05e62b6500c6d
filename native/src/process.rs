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
//! | takes the other for its child, go again | exec, or a shared pid namespace: record     |
//! |                                         | `entered`: a sibling goes on, in there      |
//! |                                         | record `warning`: (operation, errno)        |
//! |                                         | record `terminal` with the pty master's fd  |
//! |                                         | record `ready`: all that is left is execve  |
//! |                                         | record `failed`: (operation, errno), exits  |
//! | end of file: the program runs           | execve closes the socket                    |

use std::cell::OnceCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
    SocketType,
};
use rustix::process::{
    kill_process, kill_process_group, pidfd_open, pidfd_send_signal, waitid, Pid, PidfdFlags, Signal, WaitId,
    WaitIdOptions,
};

use crate::bare::Bare;
use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::idmap::{self, IdMaps};
use crate::init::Kept;
use crate::keeper::protocol::Failure;
use crate::launch;
use crate::plan::{Plan, Process, UserNamespace};
use crate::prepare::{self, failure, Label, Prepared};
use crate::script::{Record, RecordKind, Script};
use crate::sys::{self, Stack};

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
    pub(crate) network_namespace: OwnedFd,
    /// What this process may pass on, bit n for capability n.
    pub(crate) capabilities: u64,
    pub(crate) last_capability: u32,
    /// The caller is not in a user namespace below the kernel's own.
    pub(crate) initial_user_namespace: bool,
    pub(crate) kept: Kept,
    /// What mount namespaces are copied from; `None`: the caller's own.
    pub(crate) bare: Option<Bare>,
    id_maps: IdMaps,
    ignored_signals: OnceCell<u64>,
    resists_oom: OnceCell<bool>,
}

impl Host {
    pub fn probe() -> Result<Self> {
        let (_, capabilities) = sys::capabilities().map_err(|e| Error::os("capget", "self", e))?;
        let last = read_text("/proc/sys/kernel/cap_last_cap")?;
        let uid_map = read_text("/proc/self/uid_map")?;
        Ok(Self {
            network_namespace: open_namespace("/proc/self/ns/net")?,
            capabilities,
            last_capability: last.trim().parse().unwrap_or(40),
            initial_user_namespace: uid_map.split_whitespace().eq(["0", "0", "4294967295"]),
            kept: Kept::probe().map_err(|e| Error::os("read", "/proc/self/maps", e))?,
            bare: None,
            id_maps: IdMaps::default(),
            ignored_signals: OnceCell::new(),
            resists_oom: OnceCell::new(),
        })
    }

    /// Containers' mount namespaces are no copies of the caller's from here on. It must have its working directory to
    /// itself (it is no other thread's).
    #[must_use]
    pub fn with_bare_mounts(mut self) -> Self {
        match Bare::make() {
            Ok(bare) => self.bare = Some(bare),
            Err(error) => report!("{error}: starts copy the host's mounts"),
        }
        self
    }

    /// Bit n - 1 for signal n, as it is at the first start: a clone has the handled ones reset by the kernel.
    pub(crate) fn ignored_signals(&self) -> u64 {
        *self.ignored_signals.get_or_init(sys::ignored_signals)
    }

    /// The caller has an `oom_score_adj` of its own, which a child must not inherit.
    pub(crate) fn resists_oom(&self) -> bool {
        let own = || read_text("/proc/self/oom_score_adj").is_ok_and(|text| text.trim() != "0");
        *self.resists_oom.get_or_init(own)
    }

    pub(crate) fn id_map(&self, user: &UserNamespace) -> Result<Arc<OwnedFd>> {
        self.id_maps.get(user)
    }
}

fn read_text(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::os("read", path, e))
}

pub(crate) fn open_namespace(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", path, e))
}

/// The child's ends of its standard streams; not looked at where the process has a tty.
/// They stay the caller's and may be closed as soon as `spawn` returns. Pipes belong to the process's user
/// already, who can then open /dev/stdout and its like again.
#[derive(Debug, Clone, Copy)]
pub struct Stdio<'a> {
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// What one start needs besides its plan.
#[allow(missing_debug_implementations)] // it holds a closure
pub struct SpawnContext<'a, 'c> {
    pub host: &'a Host,
    pub stdio: Stdio<'a>,
    /// The namespace of `Network::Prepared`; with `Network::None`, one that has only `lo`, up.
    pub netns: Option<BorrowedFd<'a>>,
    /// The running container of an id, for namespaces that are another container's.
    pub container: &'a dyn Fn(&str) -> Option<&'c ContainerHandle>,
    /// The mount namespace of proad: what it mounted after this process had its own is found there.
    pub caller: Option<BorrowedFd<'a>>,
    /// Made already, limits written; `None` leaves the child in the caller's cgroups.
    pub group: Option<&'a Group>,
}

/// A child on its way to execve.
#[derive(Debug)]
pub struct Spawning {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The mount of a container's root: whoever closes it last takes the file system down.
    pub root: Option<OwnedFd>,
    sync: OwnedFd,
    pty_master: Option<OwnedFd>,
    warnings: Vec<String>,
    labels: Vec<Label>,
    ready: bool,
    /// The process group of a child that makes a sibling which is not known yet.
    group: Option<Pid>,
    /// The child reads these until it has executed.
    _script: Box<Script>,
    _stack: Stack,
}

/// How far a [`Spawning`] is.
#[derive(Debug)]
pub enum Progress {
    Pending,
    /// The program runs. Take `pidfd` and `root` out of the `Spawning` and drop the rest.
    Started {
        warnings: Vec<String>,
        pty_master: Option<OwnedFd>,
    },
    /// It does not, and the child is reaped.
    Failed(Failure),
}

impl Spawning {
    /// Call when the fd of [`AsFd`] is readable (level-triggered); does not block while the child works.
    pub fn on_readable(&mut self) -> Progress {
        loop {
            match self.receive() {
                Ok(Some(record)) => {
                    if let Some(failure) = self.note(record) {
                        self.reap();
                        return Progress::Failed(failure);
                    }
                }
                Err(Errno::AGAIN) => return Progress::Pending,
                // ECONNRESET comes once, where the child is gone with a byte of ours unread, and before what it has
                // told last.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Ok(None) | Err(_) => return self.ended(),
            }
        }
    }

    /// Kills and reaps the child: for a start that is given up. Dropping a `Spawning` does neither.
    pub fn abandon(self) {
        self.reap();
    }

    fn reap(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let wait = |which: WaitId<'_>, options| rustix::io::retry_on_intr(|| waitid(which.clone(), options));
        let Some(group) = self.group else {
            let _ = wait(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
            return;
        };
        // It may have left a sibling behind, and was killed before it could tell of it. That one is in the same
        // process group, and would hold up the end of its pid namespace for ever.
        let _ = wait(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = kill_process_group(group, Signal::KILL);
        while wait(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED).is_ok() {}
    }

    fn receive(&mut self) -> rustix::io::Result<Option<Record>> {
        let mut bytes = [0; Record::SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.sync,
            &mut [std::io::IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.pty_master = fds.last();
            }
        }
        match received.bytes {
            0 => Ok(None),
            _ => Record::from_bytes(&bytes).map(Some).ok_or(Errno::PROTO),
        }
    }

    /// Takes in a record; some failure where it is one.
    fn note(&mut self, record: Record) -> Option<Failure> {
        let label = self.labels.get(record.operation as usize);
        let (step, subject) = label.map_or(("sync", ""), |label| (label.step, label.subject.as_str()));
        match record.kind {
            RecordKind::Ready => self.ready = true,
            RecordKind::Terminal => {}
            RecordKind::Entered => return self.entered(record.operation as i32),
            RecordKind::Warning => {
                let reason = Errno::from_raw_os_error(record.errno);
                self.warnings.push(format!("{step} {subject}: {reason}; as far as the host allows"));
            }
            RecordKind::Failed => {
                return Some(Failure { step: step.into(), subject: subject.into(), errno: record.errno });
            }
        }
        None
    }

    /// Another process, our child as well, does the rest: follow that one, and let it go on.
    fn entered(&mut self, pid: i32) -> Option<Failure> {
        let found = Pid::from_raw(pid).ok_or(Errno::SRCH);
        let opened = found.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Ok(pidfd) => {
                let first = std::mem::replace(&mut self.pidfd, pidfd);
                self.pid = pid;
                self.group = None;
                // It has nothing left to do but to exit.
                let wait = || waitid(WaitId::PidFd(first.as_fd()), WaitIdOptions::EXITED);
                let _ = rustix::io::retry_on_intr(wait);
                // A child that is gone already shows as the end of the socket.
                let _ = rustix::io::write(&self.sync, b"g");
                None
            }
            Err(errno) => {
                if let Ok(pid) = found {
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
                }
                Some(failure("clone", &Error::os("open a pidfd of", "the child", errno)))
            }
        }
    }

    /// The socket is closed: by execve, or because the child died on its way.
    fn ended(&mut self) -> Progress {
        if self.ready {
            let warnings = std::mem::take(&mut self.warnings);
            return Progress::Started { warnings, pty_master: self.pty_master.take() };
        }
        self.reap();
        let subject = "the process was killed before it ran (memory limit too low?)".into();
        Progress::Failed(Failure { step: "init".into(), subject, errno: 0 })
    }
}

impl AsFd for Spawning {
    /// The socket to watch for readability.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}

/// Starts the container of `plan`. Nothing is left behind on failure.
pub fn spawn(plan: &Plan, context: &SpawnContext<'_, '_>) -> std::result::Result<Spawning, Failure> {
    let prepared = prepare::start(plan, context)?;
    launch_in(prepared, context.host, context.group, plan.namespaces.user.as_ref())
}

/// Runs `process` in the namespaces (and the cgroup, where given) of the container of `init`.
pub fn exec_into(
    init: &ContainerHandle,
    process: &Process,
    host: &Host,
    stdio: Stdio<'_>,
    group: Option<&Group>,
) -> std::result::Result<Spawning, Failure> {
    let prepared = prepare::exec(init, process, host, stdio)?;
    launch_in(prepared, host, group, None)
}

/// Clones the child, does the parent's part beside it, and lets it go on.
fn launch_in(
    mut prepared: Prepared,
    host: &Host,
    group: Option<&Group>,
    user: Option<&UserNamespace>,
) -> std::result::Result<Spawning, Failure> {
    let fail = |what: &'static str| move |e: Errno| failure("clone", &Error::os(what, "the child", e));
    let flags = SocketFlags::CLOEXEC;
    let (sync, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(fail("make a socket for"))?;
    rustix::io::ioctl_fionbio(&sync, true).map_err(fail("make a socket for"))?;
    let stack = Stack::new().map_err(|e| failure("clone", &Error::os("map a stack for", "the child", e)))?;
    prepared.script.sync = theirs.as_raw_fd();
    prepared.script.kept = host.kept.with(stack.range(), sys::thread_pages());
    let script = Box::new(prepared.script);
    let into = group.and_then(Group::clone_into_fd);
    let namespaces = prepared.namespaces;
    let (pid, pidfd) = launch::clone_child(&script, &stack, namespaces, &prepared.borrowed, into, host)
        .map_err(fail("clone"))?;
    drop(theirs);
    let spawning = Spawning {
        pid,
        pidfd,
        root: prepared.root,
        sync,
        pty_master: prepared.pty_master,
        warnings: prepared.warnings,
        labels: prepared.labels,
        ready: false,
        group: if prepared.enters { Pid::from_raw(pid) } else { None },
        _script: script,
        _stack: stack,
    };
    if prepared.resets_oom_score {
        // Upwards, which needs no privilege; a child that is gone already has no need.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
    if prepared.awaits {
        if let Err(failed) = accompany(&spawning, group, into.is_some(), user) {
            return Err(blame(spawning, failed));
        }
    }
    Ok(spawning)
}

/// Ends a child that cannot be accompanied; where it had failed before, its own word counts.
fn blame(mut spawning: Spawning, failed: Failure) -> Failure {
    if let Progress::Failed(own) = spawning.on_readable() {
        return own;
    }
    spawning.abandon();
    failed
}

/// What the parent does while the child works, and the byte that tells it so.
fn accompany(
    spawning: &Spawning,
    group: Option<&Group>,
    born_in_group: bool,
    user: Option<&UserNamespace>,
) -> std::result::Result<(), Failure> {
    if let Some(user) = user {
        idmap::write_maps(spawning.pid, user).map_err(|e| failure("user", &e))?;
    }
    if let (Some(group), Some(pid)) = (group, Pid::from_raw(spawning.pid)) {
        let attached = if born_in_group { group.attach_v1(pid) } else { group.attach(pid) };
        attached.map_err(|e| failure("cgroup", &e))?;
    }
    match rustix::io::write(&spawning.sync, b"g") {
        // The child failed already; its record says why.
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(e) => Err(failure("sync", &Error::os("write to", "the child", e))),
    }
}

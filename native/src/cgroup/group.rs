//! One group: its path in every hierarchy, from birth to removal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{mkdirat, openat, unlinkat, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};

use super::hierarchy::{subdirectories, Hierarchy, Place};
use super::parent::{inherit_cpuset, read_at, write_at, Parent};
use super::{devices, limits};
use crate::error::{Error, Result};
use crate::plan::Resources;

/// Longest wait for a group to freeze.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same before its processes are killed, which must not wait for one that the disk holds.
const MOMENT: Duration = Duration::from_millis(100);

/// Longest wait for a group to empty of who must not wait for long.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// v1 has nothing to wait on; the freezer settles, and an exited task leaves its group, within a few turns of
/// the scheduler, where no other programs have the processors.
const TURNS: usize = 1000;

/// How long to leave them to those between two looks then.
const TURN: Duration = Duration::from_millis(1);

/// A cgroup, the same path in all hierarchies. Dropping it removes nothing.
#[derive(Debug)]
pub struct Group {
    pub(super) parent: Arc<Parent>,
    pub(super) name: String,
    /// Its cgroup2 directory.
    unified: Option<OwnedFd>,
    warnings: Vec<String>,
}

/// A group in one hierarchy.
#[derive(Debug)]
pub struct Directory<'a> {
    pub place: Place,
    pub unified: bool,
    pub parent: BorrowedFd<'a>,
    /// Below `parent`.
    pub name: &'a str,
}

impl Group {
    pub(super) fn create(parent: Arc<Parent>, name: &str, resources: &Resources) -> Result<Self> {
        let mut group = Self { parent, name: name.to_string(), unified: None, warnings: Vec::new() };
        for index in 0..group.parent.host.hierarchies.len() {
            if let Err(error) = group.make(index) {
                group.unmake(index);
                return Err(error);
            }
        }
        if let Err(error) = group.fill(resources) {
            group.unmake(group.parent.host.hierarchies.len());
            return Err(error);
        }
        Ok(group)
    }

    pub(super) fn open(parent: Arc<Parent>, name: &str) -> Result<Self> {
        let mut group = Self { parent, name: name.to_string(), unified: None, warnings: Vec::new() };
        group.unified = match group.open_unified() {
            Err(error) if error.errno() == Errno::NOENT.raw_os_error() => None,
            other => other?,
        };
        Ok(group)
    }

    /// What the kernel could not do, in Docker's words.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The cgroup2 directory for `CLONE_INTO_CGROUP`: a child is born in the group. In a hybrid it is then in
    /// the cgroup2 hierarchy only: go on with [`Self::attach_v1`].
    #[must_use]
    pub fn clone_into_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The group's directory in every hierarchy, for the mounts that show a container its own groups.
    pub fn directories(&self) -> Result<Vec<Directory<'_>>> {
        let hierarchies = self.parent.host.hierarchies.iter().enumerate();
        let directory = |(index, hierarchy): (usize, &Hierarchy)| {
            let parent = self.parent.directory(index)?;
            Ok(Directory { place: hierarchy.place(), unified: hierarchy.unified, parent, name: &self.name })
        };
        hierarchies.map(directory).collect()
    }

    /// Move a process (all its threads) into the group, in every hierarchy.
    pub fn attach(&self, pid: Pid) -> Result<()> {
        (0..self.parent.host.hierarchies.len()).try_for_each(|index| self.attach_in(index, pid))
    }

    /// Move a process that was born in the cgroup2 group into the others. Nothing to do on v2.
    pub fn attach_v1(&self, pid: Pid) -> Result<()> {
        let hierarchies = self.parent.host.hierarchies.iter().enumerate();
        hierarchies.filter(|(_, h)| !h.unified).try_for_each(|(index, _)| self.attach_in(index, pid))
    }

    fn attach_in(&self, index: usize, pid: Pid) -> Result<()> {
        self.write(index, "cgroup.procs", &pid.as_raw_nonzero().to_string())
    }

    /// Change limits: all of them or none. Answers warnings in Docker's words.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>> {
        self.require()?;
        let warnings = limits::update_all(&self.parent, &self.name, resources)?;
        devices::restrict(&self.parent, &self.name, self.clone_into_fd(), &resources.devices)?;
        Ok(warnings)
    }

    /// Processes of the group and of those below it, ascending, as numbered in the caller's pid namespace. A
    /// missing group has none.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(Path::new(&self.shown(self.main())), &mut pids)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Freeze or thaw, and wait until it is so. `ETIMEDOUT` (thawed again) where a task does not stop.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.freeze_within(PATIENCE, frozen)
    }

    fn freeze_within(&self, patience: Duration, frozen: bool) -> Result<()> {
        self.require()?;
        let host = &self.parent.host;
        let done = if let Some(index) = host.unified() {
            self.write(index, "cgroup.freeze", if frozen { "1" } else { "0" })?;
            self.wait_for_event(index, if frozen { "frozen 1" } else { "frozen 0" }, patience)?
        } else if let Some((index, _)) = host.find("freezer") {
            self.freeze_v1(index, if frozen { "FROZEN" } else { "THAWED" }, patience)?
        } else {
            return Err(Error::Invalid("no cgroup hierarchy here can freeze".into()));
        };
        if done {
            return Ok(());
        }
        if frozen {
            let _ = self.freeze(false);
        }
        let operation = if frozen { "freeze" } else { "thaw" };
        Err(Error::os(operation, self.shown(self.main()), Errno::TIMEDOUT))
    }

    /// Reading `freezer.state` is what makes a v1 kernel look again, and its only interface for that.
    fn freeze_v1(&self, index: usize, state: &str, patience: Duration) -> Result<bool> {
        self.write(index, "freezer.state", state)?;
        settles(patience, || Ok(self.read(index, "freezer.state")?.trim() == state))
    }

    /// SIGKILL every process, the frozen ones too. Does not wait for them to go. Missing group: nothing to do.
    pub fn kill(&self) -> Result<()> {
        let result = match self.parent.host.unified() {
            // cgroup.kill: kernel 5.14 and newer.
            Some(index) => self.write(index, "cgroup.kill", "1"),
            None => self.kill_v1(),
        };
        match result {
            // ENODEV: removed since its file was opened.
            Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Frozen, nothing can fork away from the signal.
    fn kill_v1(&self) -> Result<()> {
        let frozen = self.freeze_within(MOMENT, true);
        for pid in self.pids()? {
            if let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        // A task that would not stop is no reason to spare the rest; thaw in any case.
        frozen.or_else(|e| if e.errno() == Errno::TIMEDOUT.raw_os_error() { Ok(()) } else { Err(e) })?;
        self.freeze(false)
    }

    /// Remove the group and those below it from every hierarchy, without waiting: false where a process is still
    /// in it, even one that has just been reaped (the kernel lets go of it a moment later). Missing: true.
    pub fn try_remove(&self) -> Result<bool> {
        for index in (0..self.parent.host.hierarchies.len()).rev() {
            if !self.remove_in(index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same for a caller that may block: waits so long for processes that are about to exit. `EBUSY` where one
    /// lives on.
    pub fn remove(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        if self.try_remove()? {
            return Ok(());
        }
        let main = self.main();
        self.wait_until_empty(main, until)?;
        if settles(until.saturating_duration_since(Instant::now()), || self.try_remove())? {
            return Ok(());
        }
        Err(Error::os("rmdir", self.shown(main), Errno::BUSY))
    }

    fn remove_in(&self, index: usize) -> Result<bool> {
        let Ok(directory) = self.parent.directory(index) else {
            return Ok(true);
        };
        let remove = || unlinkat(directory, self.name.as_str(), AtFlags::REMOVEDIR);
        let mut result = remove();
        if matches!(result, Err(Errno::BUSY | Errno::NOTEMPTY)) {
            remove_below(Path::new(&self.shown(index)))?;
            result = remove();
        }
        match result {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(Error::os("rmdir", self.shown(index), error)),
        }
    }

    /// Until the processes have exited: cgroup2 tells, elsewhere their pidfds do.
    fn wait_until_empty(&self, index: usize, until: Instant) -> Result<()> {
        let left = || until.saturating_duration_since(Instant::now());
        if self.parent.host.hierarchies[index].unified {
            return self.wait_for_event(index, "populated 0", left()).map(drop);
        }
        let mut pids = Vec::new();
        collect_pids(Path::new(&self.shown(index)), &mut pids)?;
        for pid in pids {
            if let Some(fd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
                wait_readable(&fd, PollFlags::IN, left());
            }
        }
        Ok(())
    }

    /// Wait until `cgroup.events` has this line; false where it does not come. A missing group is empty.
    fn wait_for_event(&self, index: usize, line: &str, patience: Duration) -> Result<bool> {
        let file = format!("{}/cgroup.events", self.name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match openat(self.parent.directory(index)?, file.as_str(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(true),
            other => other.map_err(|e| Error::os("open", self.parent.shown(index, &file), e))?,
        };
        loop {
            let mut buffer = [0u8; 256];
            let length = match rustix::io::pread(&fd, &mut buffer, 0) {
                Err(Errno::NODEV) => return Ok(true),
                other => other.map_err(|e| Error::os("read", self.parent.shown(index, &file), e))?,
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|l| l == line) {
                return Ok(true);
            }
            if !wait_readable(&fd, PollFlags::PRI, patience) {
                return Ok(false);
            }
        }
    }

    /// Make the directory, in place of an empty leftover.
    fn make(&self, index: usize) -> Result<()> {
        let directory = self.parent.directory(index)?;
        let bits = Mode::from_raw_mode(0o755);
        let made = match mkdirat(directory, self.name.as_str(), bits) {
            Err(Errno::EXIST) => unlinkat(directory, self.name.as_str(), AtFlags::REMOVEDIR)
                .and_then(|()| mkdirat(directory, self.name.as_str(), bits))
                .map_err(|_| Errno::EXIST),
            other => other,
        };
        made.map_err(|e| Error::os("mkdir", self.shown(index), e))
    }

    fn fill(&mut self, resources: &Resources) -> Result<()> {
        if let Some(index) = self.parent.copy_cpuset {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = self.parent.directory(index)?;
            let own = openat(parent, self.name.as_str(), flags, Mode::empty())
                .map_err(|e| Error::os("open", self.shown(index), e))?;
            inherit_cpuset(parent, own.as_fd(), &self.shown(index))?;
        }
        self.unified = self.open_unified()?;
        self.warnings = limits::write_all(&self.parent, &self.name, resources)?;
        devices::restrict(&self.parent, &self.name, self.clone_into_fd(), &resources.devices)
    }

    fn open_unified(&self) -> Result<Option<OwnedFd>> {
        let Some(index) = self.parent.host.unified() else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(self.parent.directory(index)?, self.name.as_str(), flags, Mode::empty())
            .map(Some)
            .map_err(|e| Error::os("open", self.shown(index), e))
    }

    /// Remove what a failed `create` has made in the first `count` hierarchies.
    fn unmake(&self, count: usize) {
        for index in (0..count).rev() {
            if let Ok(directory) = self.parent.directory(index) {
                let _ = unlinkat(directory, self.name.as_str(), AtFlags::REMOVEDIR);
            }
        }
    }

    /// The hierarchy that is asked where any would do.
    pub(super) fn main(&self) -> usize {
        let host = &self.parent.host;
        host.unified().or_else(|| host.find("freezer").map(|(index, _)| index)).unwrap_or(0)
    }

    pub(super) fn exists(&self) -> bool {
        self.require().is_ok()
    }

    /// ENOENT where the group does not exist.
    fn require(&self) -> Result<()> {
        let index = self.main();
        rustix::fs::statat(self.parent.directory(index)?, self.name.as_str(), AtFlags::empty())
            .map(drop)
            .map_err(|e| Error::os("open", self.shown(index), e))
    }

    pub(super) fn shown(&self, index: usize) -> String {
        self.parent.shown(index, &self.name)
    }

    pub(super) fn read(&self, index: usize, file: &str) -> Result<String> {
        let relative = format!("{}/{file}", self.name);
        read_at(self.parent.directory(index)?, &relative)
            .map_err(|e| Error::os("read", self.parent.shown(index, &relative), e))
    }

    fn write(&self, index: usize, file: &str, value: &str) -> Result<()> {
        let relative = format!("{}/{file}", self.name);
        write_at(self.parent.directory(index)?, &relative, value)
            .map_err(|e| Error::os(format!("write {value} to"), self.parent.shown(index, &relative), e))
    }
}

/// Whether `done` becomes true in time. It is asked between turns of the scheduler first: mostly that is all it takes.
fn settles(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    for _ in 0..TURNS {
        if done()? {
            return Ok(true);
        }
        rustix::thread::sched_yield();
    }
    let until = Instant::now() + patience;
    while Instant::now() < until {
        std::thread::sleep(TURN);
        if done()? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn wait_readable(fd: &OwnedFd, events: PollFlags, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    matches!(poll(&mut [PollFd::new(fd, events)], Some(&timeout)), Ok(1..) | Err(Errno::INTR))
}

fn collect_pids(directory: &Path, out: &mut Vec<i32>) -> Result<()> {
    let file = directory.join("cgroup.procs");
    match std::fs::read_to_string(&file) {
        Ok(text) => out.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Gone meanwhile; or a threaded v2 group, whose processes are listed above it.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(Error::os("read", file.display().to_string(), error)),
    }
    subdirectories(directory)?.iter().try_for_each(|child| collect_pids(&directory.join(child), out))
}

/// Remove the groups below `directory`, deepest first: what a container made in its own view.
fn remove_below(directory: &Path) -> Result<()> {
    for child in subdirectories(directory)? {
        let path = directory.join(child);
        remove_below(&path)?;
        match rustix::fs::rmdir(&path) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(error) => return Err(Error::os("rmdir", path.display().to_string(), error)),
        }
    }
    Ok(())
}

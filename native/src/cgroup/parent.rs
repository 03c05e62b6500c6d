//! The directory that the engine's groups are made in, in every hierarchy, and how its files are read and written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{mkdirat, openat, Mode, OFlags, CWD};
use rustix::io::Errno;

use super::hierarchy::{Hierarchy, Host};
use crate::error::{Error, Result};

/// Controllers that are enabled for the engine's groups on v2 where the kernel offers them.
const ENABLED_ON_V2: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// Where the processes go that were in the root of a container that the engine runs in.
const BESIDE: &str = "init";
const TURNS_OUT: usize = 16;

/// The directory that holds groups, in every hierarchy.
#[derive(Debug)]
pub(super) struct Parent {
    pub host: Arc<Host>,
    /// Relative to the hierarchies' roots, no slash at either end.
    path: String,
    /// In the order of `host.hierarchies`; `None` where it does not exist.
    directories: Vec<Option<OwnedFd>>,
    /// Index of the v1 cpuset hierarchy, where the kernel does not copy CPUs into a new group by itself.
    pub copy_cpuset: Option<usize>,
}

impl Parent {
    /// Open it, or make it where it is missing.
    pub fn open(host: Arc<Host>, path: &str, make: bool) -> Result<Self> {
        let mut directories = Vec::with_capacity(host.hierarchies.len());
        for hierarchy in &host.hierarchies {
            directories.push(open_parent(hierarchy, path, make)?);
        }
        let mut parent = Self { host, path: path.to_string(), directories, copy_cpuset: None };
        if let Some((index, false)) = parent.host.find("cpuset") {
            let cloned = parent
                .directory(index)
                .is_ok_and(|fd| read_at(fd, "cgroup.clone_children").is_ok_and(|text| text.trim() == "1"));
            parent.copy_cpuset = (!cloned).then_some(index);
        }
        Ok(parent)
    }

    /// Whether this is the parent of that path.
    pub fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// Whether it exists in every hierarchy.
    pub fn is_everywhere(&self) -> bool {
        self.directories.iter().all(Option::is_some)
    }

    /// The parent's directory in hierarchy `index`.
    pub fn directory(&self, index: usize) -> Result<BorrowedFd<'_>> {
        let fd = self.directories[index].as_ref();
        fd.map(AsFd::as_fd).ok_or_else(|| Error::os("open", self.shown(index, ""), Errno::NOENT))
    }

    /// The absolute path of `relative`, for messages.
    pub fn shown(&self, index: usize, relative: &str) -> String {
        let root = &self.host.hierarchies[index].mount_point;
        let path = format!("{root}/{}/{relative}", self.path);
        path.replace("//", "/").trim_end_matches('/').to_string()
    }
}

/// Open (or make, level by level) `path` below one hierarchy's root.
fn open_parent(hierarchy: &Hierarchy, path: &str, make: bool) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut shown = hierarchy.mount_point.clone();
    let mut fd = openat(CWD, &shown, flags, Mode::empty()).map_err(|e| Error::os("open", &shown, e))?;
    prepare_parent(hierarchy, fd.as_fd(), &shown, make)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        shown = format!("{shown}/{name}");
        let fresh = match make.then(|| mkdirat(&fd, name, Mode::from_raw_mode(0o755))) {
            None | Some(Err(Errno::EXIST)) => false,
            Some(result) => result.map(|()| true).map_err(|e| Error::os("mkdir", &shown, e))?,
        };
        let child = match openat(&fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if !make => return Ok(None),
            other => other.map_err(|e| Error::os("open", &shown, e))?,
        };
        if fresh && !hierarchy.unified && hierarchy.controllers.iter().any(|c| c == "cpuset") {
            inherit_cpuset(fd.as_fd(), child.as_fd(), &shown)?;
        }
        fd = child;
        prepare_parent(hierarchy, fd.as_fd(), &shown, make)?;
    }
    Ok(Some(fd))
}

/// On v2, let the groups below have the controllers.
fn prepare_parent(hierarchy: &Hierarchy, fd: BorrowedFd<'_>, shown: &str, make: bool) -> Result<()> {
    if !make || !hierarchy.unified {
        return Ok(());
    }
    let has = |wanted: &&str| hierarchy.controllers.iter().any(|c| c == wanted);
    let enabled = read_at(fd, "cgroup.subtree_control").unwrap_or_default();
    let missing: Vec<String> = ENABLED_ON_V2
        .iter()
        .filter(|c| has(c) && !enabled.split_whitespace().any(|e| e == **c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all = missing.join(" ");
    let enable = |value: &str| write_at(fd, "cgroup.subtree_control", value);
    let mut done = enable(&all);
    if done == Err(Errno::BUSY) && shown == hierarchy.mount_point {
        make_room(fd, shown)?;
        done = enable(&all);
    }
    // The kernel takes all or none. One that cannot be had here (the CPU, while realtime tasks run) is no reason
    // to lose the others: its limits become warnings.
    if matches!(done, Err(Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP)) {
        for one in &missing {
            let _ = enable(one);
        }
        return Ok(());
    }
    done.map_err(|e| Error::os(format!("write {all} to"), format!("{shown}/cgroup.subtree_control"), e))
}

/// Where the engine runs in a container itself, the root of what it sees has processes, the engine's own among
/// them; such a group gives its controllers to none below. They move into a group beside the engine's.
fn make_room(root: BorrowedFd<'_>, shown: &str) -> Result<()> {
    let failed = |operation: String| {
        let shown = format!("{shown}/{BESIDE}");
        move |error| Error::os(operation, shown, error)
    };
    match mkdirat(root, BESIDE, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("mkdir".into())(error)),
    }
    // A few times: what forks meanwhile leaves children.
    for _ in 0..TURNS_OUT {
        let processes = read_at(root, "cgroup.procs").map_err(|e| Error::os("read", shown, e))?;
        if processes.is_empty() {
            break;
        }
        // 0: one that our pid namespace does not see.
        for pid in processes.lines().filter(|pid| *pid != "0") {
            match write_at(root, &format!("{BESIDE}/cgroup.procs"), pid) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(failed(format!("move process {pid} to"))(error)),
            }
        }
    }
    Ok(())
}

/// Copy CPUs and memory nodes into a new v1 cpuset, which has none and would take no process.
///
/// With `clone_children` the kernel does it at every mkdir below, so that a group costs nothing extra.
pub(super) fn inherit_cpuset(parent: BorrowedFd<'_>, child: BorrowedFd<'_>, shown: &str) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = read_at(parent, file).map_err(|e| Error::os("read", format!("{shown}/../{file}"), e))?;
        let value = value.trim();
        write_at(child, file, value)
            .map_err(|e| Error::os(format!("write {value} to"), format!("{shown}/{file}"), e))?;
    }
    let file = "cgroup.clone_children";
    write_at(child, file, "1").map_err(|e| Error::os("write 1 to", format!("{shown}/{file}"), e))
}

/// Write a whole value in one call, as the kernel's files want it.
pub(super) fn write_at(directory: BorrowedFd<'_>, file: &str, value: &str) -> rustix::io::Result<()> {
    rustix::io::write(open_at(directory, file)?, value.as_bytes()).map(drop)
}

/// Open a file to write to; a write is a whole value each, wherever the one before ended.
pub(super) fn open_at(directory: BorrowedFd<'_>, file: &str) -> rustix::io::Result<OwnedFd> {
    openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Read a whole file; the kernel's are short.
pub(super) fn read_at(directory: BorrowedFd<'_>, file: &str) -> rustix::io::Result<String> {
    let fd = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(4096);
    while rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut text))? > 0 {
        text.reserve(4096);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

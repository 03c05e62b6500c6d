//! Detached mounts: everything of a container's tree that the parent can make before the clone.
//!
//! Each function returns the fd of a mount that is attached nowhere yet; dropping the fd unmounts it,
//! so that nothing is left behind when a start fails half-way. What depends on the container's own
//! namespaces (proc, sysfs, mqueue) is made by the child.
//!
//! Source: `Documentation/filesystems/mount_api.rst`, <https://man7.org/linux/man-pages/man2/fsopen.2.html>.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    fstat, fstatfs, open, statat, AtFlags, FileType, Mode, OFlags, ResolveFlags, CWD, PROC_SUPER_MAGIC,
};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags,
};

use crate::error::{Error, Result};
use crate::plan::{Mount, Propagation};
use crate::sys::{self, MountAttributes, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};

/// A mount of the filesystem that `fs` has configured.
pub(crate) fn attach_later(fs: &OwnedFd, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of what is at `path` on the host.
pub(crate) fn clone_tree(path: &str, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(|e| Error::os("bind source", path, e))
}

/// A detached copy of what is at `path` below the directory `source`. No link, no `..` and no rename meanwhile leads
/// out of it: EXDEV.
fn clone_beneath(source: &str, path: &str, recursive: bool) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::os("volume subpath", path, e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = open(source, flags, Mode::empty()).map_err(|e| Error::os("bind source", source, e))?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = sys::open_resolved(&base, path, OFlags::PATH, how).map_err(fail)?;
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(found, c"", flags).map_err(fail)
}

/// Shows a bind through id maps, where its file system has them.
fn map_ids(fd: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match sys::mount_idmap(fd, user_namespace) {
        Err(Errno::INVAL) => Ok(()), // it has none, or is mapped already
        other => other,
    }
}

/// A program of the host as it may be executed where a container can look at it (CVE-2019-5736): /proc/PID/exe then
/// leads to a read-only mount that is attached nowhere, so that not even root of a container can change the file.
pub fn sealed_program(path: &str) -> Result<OwnedFd> {
    let fd = clone_tree(path, false)?;
    let change = MountAttributes::new(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), false, &change).map_err(|e| Error::os("seal", path, e))?;
    Ok(fd)
}

/// A detached copy of another container's /dev/shm, whose IPC namespace is joined. No symbolic link that the
/// container may have put there is followed.
pub fn shared_memory_of(init: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::os("share", "/dev/shm", e);
    let copy = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = sys::open_resolved(CWD, c"/dev/shm", flags, ResolveFlags::NO_SYMLINKS)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(fd, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
    };
    visiting(init, copy).map_err(fail)?.map_err(fail)
}

/// A procfs of the pid namespace that the container of `pid` and `init` has, made from outside of it: who is to have
/// it need not be seen in there yet. `pid` is not reaped, so that the number is its own.
pub fn processes_of(pid: i32, init: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::os("mount", "proc", e);
    let namespace = open(format!("/proc/{pid}/ns/pid"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let namespace = namespace.map_err(|e| Error::os("open", format!("/proc/{pid}/ns/pid"), e))?;
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
    match fsconfig_set_fd(&fs, "pidns", namespace.as_fd()) {
        Ok(()) => {}
        // EINVAL: a kernel before 6.17 has no such option.
        Err(Errno::INVAL) => return processes_shared_by(namespace.as_fd(), init).map_err(fail),
        Err(error) => return Err(fail(error)),
    }
    fsconfig_create(&fs).map_err(fail)?;
    attach_later(&fs, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC).map_err(fail)
}

/// A copy of what the container itself has at /proc, if it is a procfs of its own pid namespace.
fn processes_shared_by(namespace: BorrowedFd<'_>, init: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let copy = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = sys::open_resolved(CWD, c"/proc", flags, ResolveFlags::NO_SYMLINKS)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(fd, c"", flags | OpenTreeFlags::AT_EMPTY_PATH)
    };
    let fd = visiting(init, copy)??;
    if fstatfs(&fd)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::NOTDIR);
    }
    let shown = statat(&fd, c"1/ns/pid", AtFlags::empty())?;
    let wanted = fstat(namespace)?;
    if (shown.st_dev, shown.st_ino) != (wanted.st_dev, wanted.st_ino) {
        return Err(Errno::XDEV);
    }
    let change = MountAttributes::new(ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), false, &change)?;
    Ok(fd)
}

/// Runs `work` in another mount namespace: a mount can be copied only from within its own.
///
/// The caller, which must have its working directory to itself (it is no other thread's), goes there and comes back.
pub fn visiting<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T) -> rustix::io::Result<T> {
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::setns(namespace, libc::CLONE_NEWNS)?;
    let result = work();
    let back = sys::setns(own.as_fd(), libc::CLONE_NEWNS);
    assert!(back.is_ok(), "cannot return to the mount namespace of the keeper: {back:?}");
    Ok(result)
}

/// A bind source whose mounts are to be seen on the host as well: the caller's own namespace may be
/// downstream of the host's, so the copy is taken there.
fn clone_shared_tree(path: &str, recursive: bool) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = |name: &str| rustix::fs::open(name, flags, Mode::empty());
    let (Ok(own), Ok(host)) = (open("/proc/self/ns/mnt"), open("/proc/1/ns/mnt")) else {
        return clone_tree(path, recursive);
    };
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
    if inode(&own) == inode(&host) {
        return clone_tree(path, recursive);
    }
    visiting(host.as_fd(), || clone_tree(path, recursive)).map_err(|e| Error::os("bind source", path, e))?
}

/// What a mount covers: a target of the other kind is refused by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// The kind of what `fd` refers to.
pub fn kind_of(fd: BorrowedFd<'_>) -> rustix::io::Result<Kind> {
    let stat = rustix::fs::fstat(fd)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

/// What a bind source depends on beside its plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindContext<'a> {
    /// The user namespace of the container, for binds that are id-mapped.
    pub idmap: Option<BorrowedFd<'a>>,
    /// proad's mount namespace, for what was mounted late.
    pub caller: Option<BorrowedFd<'a>>,
}

/// A bind source with its attributes, from a [`Mount::Bind`].
pub fn bind(mount: &Mount, context: BindContext<'_>) -> Result<(OwnedFd, Kind)> {
    let Mount::Bind {
        source,
        readonly,
        recursive,
        recursive_readonly,
        recursive_readonly_forced,
        nosuid,
        nodev,
        noexec,
        propagation,
        subpath,
        idmap,
        late,
        ..
    } = mount
    else {
        return Err(Error::Invalid("not a bind".into()));
    };
    let source_tree = || match subpath.as_str() {
        "" => clone_tree(source, *recursive),
        path => clone_beneath(source, path, *recursive),
    };
    let fd = match (propagation, context.caller) {
        (_, Some(caller)) if *late => {
            visiting(caller, source_tree).map_err(|e| Error::os("bind source", source.as_str(), e))??
        }
        (Propagation::Shared | Propagation::Rshared, _) if subpath.is_empty() => {
            clone_shared_tree(source, *recursive)?
        }
        _ => source_tree()?,
    };
    if let (true, Some(user_namespace)) = (*idmap, context.idmap) {
        map_ids(fd.as_fd(), user_namespace).map_err(|e| Error::os("id-map", source.as_str(), e))?;
    }
    let fail = |e: Errno| Error::os("bind attributes", source.as_str(), e);
    let kind = kind_of(fd.as_fd()).map_err(fail)?;
    let (kinds, everywhere) = propagation_bits(*propagation);
    let with_propagation = MountAttributes::new(0, kinds);
    sys::mount_setattr(fd.as_fd(), everywhere, &with_propagation).map_err(fail)?;
    let flags = attributes([*readonly, *nosuid, *nodev, *noexec]);
    if *readonly && *recursive_readonly {
        let everywhere = MountAttributes::new(ATTR_RDONLY, 0);
        match sys::mount_setattr(fd.as_fd(), true, &everywhere) {
            Err(e) if *recursive_readonly_forced => return Err(fail(e)),
            // Where the plan allows it, the plain one below is the fallback.
            Ok(()) | Err(_) => {}
        }
    }
    if flags != 0 {
        sys::mount_setattr(fd.as_fd(), false, &MountAttributes::new(flags, 0)).map_err(fail)?;
    }
    Ok((fd, kind))
}

/// A detached bind of a directory of the engine's own choice, with `attributes` on it and below.
pub fn bind_plain(source: &str, recursive: bool, attributes: u64) -> Result<OwnedFd> {
    let fd = clone_tree(source, recursive)?;
    let change = MountAttributes::new(attributes, libc::MS_PRIVATE);
    sys::mount_setattr(fd.as_fd(), recursive, &change)
        .map_err(|e| Error::os("bind attributes", source, e))?;
    Ok(fd)
}

/// `MOUNT_ATTR_*` of the switches read-only, nosuid, nodev, noexec.
#[must_use]
pub fn attributes(switches: [bool; 4]) -> u64 {
    let bits = [ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC];
    switches.iter().zip(bits).filter(|(on, _)| **on).map(|(_, bit)| bit).sum()
}

/// `MS_*` of a propagation, and whether it goes for the mounts below, too.
#[must_use]
pub fn propagation_bits(propagation: Propagation) -> (u64, bool) {
    match propagation {
        Propagation::Private => (libc::MS_PRIVATE, false),
        Propagation::Rprivate => (libc::MS_PRIVATE, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        Propagation::Rslave => (libc::MS_SLAVE, true),
        Propagation::Shared => (libc::MS_SHARED, false),
        Propagation::Rshared => (libc::MS_SHARED, true),
    }
}

/// A filesystem of its own with `key=value` (or bare) options.
pub fn filesystem<'o>(
    kind: &str,
    options: impl IntoIterator<Item = &'o str>,
    attributes: u64,
) -> Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| Error::os("open filesystem", kind, e))?;
    fsconfig_set_string(&fs, "source", kind).map_err(|e| Error::os("mount", kind, e))?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value),
            None => fsconfig_set_flag(&fs, option),
        }
        .map_err(|e| Error::os(format!("{kind} option"), option, e))?;
    }
    fsconfig_create(&fs).map_err(|e| Error::os("mount", kind, e))?;
    attach_later(&fs, attributes).map_err(|e| Error::os("mount", kind, e))
}

/// Levels of a tree that are copied: each costs stack and descriptors of a process that all containers depend on.
const COPIED_LEVELS: usize = 256;

/// Copies what `source` has into the empty directory `target`: for a tmpfs with copy-up.
///
/// Regular files, directories, symlinks and special files with owner and mode; fd-relative throughout.
/// ENAMETOOLONG where it is nested more than 256 directories deep.
pub fn copy_tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    copy_levels(source, target, COPIED_LEVELS)
}

fn copy_levels(source: BorrowedFd<'_>, target: BorrowedFd<'_>, levels: usize) -> rustix::io::Result<()> {
    use rustix::fs::{openat, Dir};
    let below = levels.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let directory = openat(source, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        copy_entry(directory.as_fd(), target, entry.file_name(), below)?;
    }
    Ok(())
}

fn copy_entry(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    levels: usize,
) -> rustix::io::Result<()> {
    use rustix::fs::{chownat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, Gid, Uid};
    let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(target, name, mode)?;
            let from = openat(source, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let to = openat(target, name, read | OFlags::DIRECTORY, Mode::empty())?;
            copy_levels(from.as_fd(), to.as_fd(), levels)?;
        }
        FileType::RegularFile => {
            let from = openat(source, name, read, Mode::empty())?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = openat(target, name, create, mode)?;
            while rustix::fs::sendfile(&to, &from, None, 1 << 30)? > 0 {}
        }
        FileType::Symlink => symlinkat(&readlinkat(source, name, Vec::new())?, target, name)?,
        _ => mknodat(target, name, kind, mode, stat.st_rdev)?,
    }
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    chownat(target, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // After the owner, whose change clears set-id bits; the umask is out of it, too.
        rustix::fs::chmodat(target, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that is the first of a pid namespace of its own, and has its procfs at /proc.
    fn first_of_its_own() -> Option<(Child, i32)> {
        let script = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "echo; read line"];
        let (input, output) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("unshare").args(script).stdin(input).stdout(output).spawn().ok()?;
        std::io::Read::read_exact(child.stdout.as_mut()?, &mut [0]).ok()?;
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let pid = std::fs::read_to_string(children).ok()?.trim().parse().ok()?;
        Some((child, pid))
    }

    #[test]
    fn the_procfs_of_another_pid_namespace_shows_what_is_in_there() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for namespaces");
            return;
        }
        let Some((mut child, pid)) = first_of_its_own() else {
            eprintln!("skipped: needs unshare(1)");
            return;
        };
        let check = move || {
            sys::supervise::own_working_directory().expect("a working directory of the thread's own");
            let raw = rustix::process::Pid::from_raw(pid).expect("a pid");
            let init = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).expect("pidfd");
            let path = format!("/proc/{pid}/ns/pid");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let namespace = open(path, flags, Mode::empty()).expect("its namespace");
            let own = open("/proc/self/ns/pid", flags, Mode::empty()).expect("ours");
            let made = processes_of(pid, init.as_fd()).expect("made");
            let shared = processes_shared_by(namespace.as_fd(), init.as_fd()).expect("shared");
            for proc in [made, shared] {
                let shown = statat(&proc, c"1/ns/pid", AtFlags::empty()).expect("its first process");
                assert_eq!(shown.st_ino, fstat(&namespace).expect("stat").st_ino);
            }
            assert_eq!(processes_shared_by(own.as_fd(), init.as_fd()).err(), Some(Errno::XDEV));
        };
        std::thread::spawn(check).join().expect("no panic");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}

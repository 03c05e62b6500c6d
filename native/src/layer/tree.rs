//! Directory trees that nobody can be trusted to have left sane: size them, remove them, find things in them.
//!
//! Everything is resolved beneath a directory fd, never through a symlink that leaves it, never across a mount.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys;

/// Levels below a tree's top at which `remove` flattens it: bounds the open fds.
const FLATTEN_AT: usize = 64;

/// What the kernel says of an entry of a tree that changes meanwhile: it is gone, or something else by now. A directory
/// that was opened in time and is removed since cannot be listed (ENOENT).
const CHANGED: [Errno; 5] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO, Errno::STALE];

/// `None` in place of an error that says so.
pub(crate) fn unless_changed<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(errno) if CHANGED.contains(&errno) => Ok(None),
        other => other.map(Some),
    }
}

/// An error about an untrusted name.
pub(crate) fn failed(operation: &str, name: &[u8], errno: Errno) -> Error {
    Error::os(operation, String::from_utf8_lossy(name), errno)
}

/// Open a directory of the host itself, whose path is trusted.
pub(crate) fn open_root(directory: &str) -> Result<OwnedFd> {
    rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os("open", directory, errno))
}

/// Open `path` as a process with `root` as its root would, symlinks included; never across a mount.
pub(crate) fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    open_with(root, path, flags, resolve)
}

/// Open `path` below `root`, any symlink in it being an error (ELOOP).
pub(crate) fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    open_with(root, path, flags, resolve)
}

/// Open `path` below `root`, `root` itself where it is empty.
pub(crate) fn open_with(
    root: impl AsFd,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    sys::open_resolved(root, path, flags, resolve)
}

/// Names and types of a directory's entries, `.` and `..` left out, in no order.
pub(crate) fn list(directory: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = Vec::new();
    let mut reader = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// (apparent bytes, inodes) below `directory`, hardlinks counted once. What vanishes meanwhile is not
/// counted; mounts are not entered.
pub fn disk_usage(directory: &str) -> Result<(u64, u64)> {
    usage_below(&open_root(directory)?)
}

pub(super) fn usage_below(root: &OwnedFd) -> Result<(u64, u64)> {
    let mut seen = HashSet::new();
    let (mut bytes, mut inodes) = (0, 0);
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let opened = open_beneath(root, &path, OFlags::RDONLY | OFlags::DIRECTORY);
        let fd = match opened {
            Ok(fd) => fd,
            // Gone, replaced, a mount, or deeper than a path can say.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => continue,
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        let listed = unless_changed(list(&fd)).map_err(|errno| failed("read", &path, errno))?;
        for (name, kind) in listed.unwrap_or_default() {
            let Ok(stat) = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let directory = kind == FileType::Directory;
            if directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                inodes += 1;
                if !directory {
                    bytes += stat.st_size.unsigned_abs();
                }
            }
            if directory {
                pending.push(join(&path, &name));
            }
        }
    }
    Ok((bytes, inodes))
}

/// `path/name`, without a slash where the path is empty.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

/// Give directories of a layer the owner, mode and times that they have in the layers below (top first): overlayfs
/// shows the uppermost layer's, and a layer that only puts a file into /tmp must not take its sticky bit. What no
/// lower layer has as a directory stays as it is.
pub fn inherit_directories(directory: &str, lower: &[String], paths: &[Vec<u8>]) -> Result<()> {
    let root = open_root(directory)?;
    let layers = lower.iter().map(|layer| open_root(layer)).collect::<Result<Vec<_>>>()?;
    for path in paths {
        let Some(stat) = layers.iter().find_map(|layer| stat_beneath(layer, path)) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        let Ok(fd) = open_beneath(&root, path, OFlags::RDONLY | OFlags::DIRECTORY) else { continue };
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        rustix::fs::fchown(&fd, owner.0, owner.1).map_err(|errno| failed("chown", path, errno))?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::fchmod(&fd, mode).map_err(|errno| failed("chmod", path, errno))?;
        let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&fd, &times).map_err(|errno| failed("set times of", path, errno))?;
    }
    Ok(())
}

fn stat_beneath(root: &OwnedFd, path: &[u8]) -> Option<Stat> {
    let fd = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
    rustix::fs::fstat(&fd).ok()
}

/// Let everything that was written to the file system that `directory` is on reach the disk.
pub fn sync_file_system(directory: &str) -> Result<()> {
    let root = open_root(directory)?;
    rustix::fs::syncfs(&root).map_err(|errno| Error::os("sync the file system of", directory, errno))
}

/// Remove a directory tree. Missing: nothing to do; nor is it an error where another removes the same meanwhile. A
/// mount inside is an error (EBUSY), never entered.
pub fn remove_tree(directory: &str) -> Result<()> {
    let path = std::path::Path::new(directory);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid(format!("cannot remove {directory}")));
    };
    let parent = if parent.as_os_str().is_empty() { std::path::Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove_at(&parent, name.as_encoded_bytes()),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::os("open", parent.display().to_string(), errno)),
    }
}

/// Remove what `name` in `parent` is, a tree or anything else; missing: nothing to do.
pub(crate) fn remove_at(parent: impl AsFd, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EPERM is POSIX's answer for a directory, EISDIR Linux's.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed("remove", name, errno)),
    }
    let top = match open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("open", name, errno)),
    };
    empty(&top)?;
    remove_directory(&parent, name)
}

fn remove_directory(parent: impl AsFd, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("remove", name, errno)),
    }
}

/// A directory on the way down: its subdirectories not yet done.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    subdirectories: Vec<Vec<u8>>,
}

/// Remove everything in `top`. A container may nest directories deeper than any path or fd table goes, so
/// past `FLATTEN_AT` levels a subtree is moved up to `top` and comes up there again.
fn empty(top: &OwnedFd) -> Result<()> {
    let mut moved: u64 = 0;
    loop {
        let before = moved;
        rustix::fs::seek(top, rustix::fs::SeekFrom::Start(0))
            .map_err(|errno| failed("rewind", b"directory", errno))?;
        let subdirectories = remove_files(top)?;
        for name in subdirectories {
            let mut levels = vec![];
            if let Some(fd) = open_subdirectory(top, &name)? {
                push(fd, name, &mut levels)?;
            }
            while let Some(level) = levels.last_mut() {
                if let Some(next) = level.subdirectories.pop() {
                    if levels.len() >= FLATTEN_AT {
                        let aside = format!(".proa-aside-{moved}");
                        let from = &levels[levels.len() - 1].fd;
                        rustix::fs::renameat_with(
                            from,
                            &next,
                            top,
                            &aside,
                            rustix::fs::RenameFlags::NOREPLACE,
                        )
                        .or_else(|errno| match errno {
                            Errno::EXIST | Errno::NOENT => Ok(()),
                            errno => Err(errno),
                        })
                        .map_err(|errno| failed("move", &next, errno))?;
                        moved += 1;
                        continue;
                    }
                    if let Some(fd) = open_subdirectory(&levels[levels.len() - 1].fd, &next)? {
                        push(fd, next, &mut levels)?;
                    }
                } else if let Some(done) = levels.pop() {
                    let parent = levels.last().map_or(top, |level| &level.fd);
                    match rustix::fs::unlinkat(parent, &done.name, AtFlags::REMOVEDIR) {
                        // What could not be moved aside under a taken name is still there: next round.
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTEMPTY) if moved != before => {}
                        Err(errno) => return Err(failed("remove", &done.name, errno)),
                    }
                }
            }
        }
        if moved == before {
            return Ok(());
        }
    }
}

fn open_subdirectory(parent: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    match open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some).map_err(|errno| failed("open", name, errno)),
    }
}

fn push(fd: OwnedFd, name: Vec<u8>, levels: &mut Vec<Level>) -> Result<()> {
    let subdirectories = remove_files(&fd)?;
    levels.push(Level { fd, name, subdirectories });
    Ok(())
}

/// Unlink all that is no directory; the directories' names are returned.
fn remove_files(directory: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut subdirectories = Vec::new();
    let listed = unless_changed(list(directory)).map_err(|errno| failed("read", b"directory", errno))?;
    for (name, kind) in listed.unwrap_or_default() {
        if kind == FileType::Directory {
            subdirectories.push(name);
            continue;
        }
        match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => subdirectories.push(name),
            Err(errno) => return Err(failed("remove", &name, errno)),
        }
    }
    Ok(subdirectories)
}

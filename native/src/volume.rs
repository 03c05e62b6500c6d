//! Mounts of proad's own: the file systems that volumes with options are on, and tmpfs for writable layers.
//!
//! Unlike a container's they are attached, in the mount namespace of the caller, and outlive it. The target is
//! a directory that the engine made: it is opened once, without following a link at its end, and mounted over by descriptor.
//!
//! Source: `Documentation/filesystems/mount_api.rst`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{openat, statx, AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen, move_mount, unmount, FsOpenFlags,
    MoveMountFlags, UnmountFlags,
};

use crate::error::{Error, Result};
use crate::mount::{attach_later, clone_tree};
use crate::sys::{self, loop_device, quota, MountAttributes};

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Longest word of the kernel's about a mount that failed.
const MESSAGE_LIMIT: usize = 1024;

/// Mounts a file system over the directory `target`. `options` are the file system's, and `ro`, `sync` and their like
/// of the superblock; `attributes` are `MOUNT_ATTR_*`. A regular file as `source` gets a loop device.
pub fn mount_filesystem(
    target: &str,
    kind: &str,
    source: &str,
    options: &[String],
    attributes: u64,
) -> Result<()> {
    let place = open_target(target)?;
    let read_only = options.iter().any(|option| option == "ro");
    let device = device_of(source, read_only)?;
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| Error::os("mount", kind, e))?;
    let fail = |e: Errno| Error::os("mount", described(kind, source, &fs), e);
    let name = device.as_ref().map_or(source, |(_, path)| path);
    fsconfig_set_string(&fs, "source", name).map_err(fail)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value),
            None => fsconfig_set_flag(&fs, option.as_str()),
        }
        .map_err(|e| Error::os(format!("mount option {option}"), described(kind, source, &fs), e))?;
    }
    fsconfig_create(&fs).map_err(fail)?;
    let mount = attach_later(&fs, attributes).map_err(fail)?;
    attach(&mount, &place, target)
}

/// Binds what is at `source` over the directory `target`.
pub fn mount_bind(target: &str, source: &str, recursive: bool, attributes: u64) -> Result<()> {
    let place = open_target(target)?;
    let mount = clone_tree(source, recursive)?;
    let change = MountAttributes::new(attributes, libc::MS_PRIVATE);
    sys::mount_setattr(mount.as_fd(), recursive, &change)
        .map_err(|e| Error::os("mount attributes", source, e))?;
    attach(&mount, &place, target)
}

/// Unmounts what is mounted on the directory `target`, at once or, where something still uses it, with its last
/// user. False where nothing is.
pub fn unmount_at(target: &str) -> Result<bool> {
    let (parent, name) = target.rsplit_once('/').unwrap_or((".", target));
    let fail = |e: Errno| Error::os("unmount", target, e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        other => other.map_err(fail)?,
    };
    // By its parent's descriptor: one into the mount would keep it busy.
    let path = format!("/proc/self/fd/{}/{name}", parent.as_raw_fd());
    let mut any = false;
    while is_mount(parent.as_fd(), name).map_err(fail)? {
        match unmount(path.as_str(), UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => unmount(path.as_str(), UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            other => other,
        }
        .map_err(fail)?;
        any = true;
    }
    Ok(any)
}

/// Whether something is mounted on the directory `target`.
pub fn is_mounted(target: &str) -> Result<bool> {
    is_mount(CWD, target).map_err(|e| Error::os("stat", target, e))
}

/// Whether the file system of `directory` can bound directories.
pub fn has_project_quota(directory: &str) -> Result<bool> {
    Ok(quota::enforces_projects(open_directory(directory)?.as_fd()))
}

/// Bounds what `directory`, empty yet, will hold, in bytes; 0 lifts the limit again.
pub fn limit_directory(directory: &str, bytes: u64) -> Result<()> {
    /// Above what administrators give out.
    const OURS: u32 = 1 << 31;
    let fd = open_directory(directory)?;
    let fail = |e: Errno| Error::os("limit", directory, e);
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    // One project a directory, as unique as its inode while it lasts.
    let project = OURS | (stat.st_ino as u32);
    if bytes > 0 {
        quota::set_project(fd.as_fd(), project).map_err(fail)?;
    }
    quota::limit_project(fd.as_fd(), project, bytes).map_err(fail)
}

fn open_directory(directory: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty()).map_err(|e| Error::os("open", directory, e))
}

fn open_target(target: &str) -> Result<OwnedFd> {
    openat(CWD, target, DIRECTORY, Mode::empty()).map_err(|e| Error::os("open", target, e))
}

fn attach(mount: &OwnedFd, place: &OwnedFd, target: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags).map_err(|e| Error::os("mount at", target, e))
}

fn is_mount(at: BorrowedFd<'_>, name: &str) -> rustix::io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(at, name, flags, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The loop device of a source that is a file with an image in it.
fn device_of(source: &str, read_only: bool) -> Result<Option<(OwnedFd, String)>> {
    if !source.starts_with('/') {
        return Ok(None);
    }
    let fail = |e: Errno| Error::os("loop device of", source, e);
    let found = match openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None), // the mount says so, if it needs one
        other => other.map_err(fail)?,
    };
    let stat = rustix::fs::fstat(&found).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = openat(CWD, path.as_str(), access | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    loop_device::attach(file.as_fd(), read_only).map(Some).map_err(fail)
}

/// What a failure is about, with what the kernel has to say of it.
fn described(kind: &str, source: &str, fs: &OwnedFd) -> String {
    let mut message = [0; MESSAGE_LIMIT];
    match rustix::io::read(fs, &mut message) {
        Ok(length) if length > 2 => {
            let text = String::from_utf8_lossy(&message[2..length]);
            format!("{source} as {kind} ({})", text.trim_end())
        }
        _ => format!("{source} as {kind}"),
    }
}

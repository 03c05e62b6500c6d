//! A container's /dev: a fresh tmpfs that is complete before it is attached anywhere.
//!
//! What the image has at /dev is never looked at, so it cannot redirect anything (CVE-2026-41579). Source: the OCI runtime
//! specification, config-linux.md, "Default Devices" and runtime-linux.md, "Dev symbolic links".

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mount::{self, filesystem};
use crate::plan::{Device, DeviceKind};
use crate::sys::{open_resolved, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID};

/// Name and minor number of the nodes that every container has; all of major 1 but tty.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The ids that root and the tty group of the container have outside of it.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    pub uid: u32,
    pub gid: u32,
    /// `None` where group 5 is not mapped.
    pub tty: Option<u32>,
}

/// The mounts of a /dev, detached. `binds` are host nodes to attach by name, where none may be made.
#[derive(Debug)]
pub struct Dev {
    pub root: OwnedFd,
    pub pts: OwnedFd,
    /// None: the container has no /dev/shm.
    pub shm: Option<OwnedFd>,
    pub binds: Vec<(OwnedFd, String)>,
}

/// What [`Dev::new`] needs to know.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub devices: &'a [Device],
    /// Bytes; 0 for no /dev/shm.
    pub shm_size: u64,
    /// A host directory to bind at /dev/shm instead of a new tmpfs.
    pub shm_source: Option<&'a str>,
    /// Make an empty /dev/console to attach a terminal to.
    pub console: bool,
    pub owners: Owners,
    /// mknod is allowed; without it (a user namespace) the host's nodes are bound.
    pub can_mknod: bool,
}

impl Dev {
    pub fn new(wanted: &Wanted<'_>) -> Result<Self> {
        let owners = wanted.owners;
        let owner = [format!("uid={}", owners.uid), format!("gid={}", owners.gid)];
        let common = ["mode=755", "size=65536k", &owner[0], &owner[1]];
        let mapped = owners.uid != 0 || owners.gid != 0;
        let options = if mapped { &common[..] } else { &common[..2] };
        let root = filesystem("tmpfs", options.iter().copied(), ATTR_NOSUID)?;
        let before = rustix::process::umask(Mode::empty());
        let populated = populate(&root, wanted);
        rustix::process::umask(before);
        Ok(Self { binds: populated?, pts: devpts(owners)?, shm: shm(wanted, &owner)?, root })
    }
}

fn devpts(owners: Owners) -> Result<OwnedFd> {
    let gid = owners.tty.map(|gid| format!("gid={gid}"));
    let options = ["newinstance", "ptmxmode=0666", "mode=0620"].into_iter().chain(gid.as_deref());
    filesystem("devpts", options, ATTR_NOSUID | ATTR_NOEXEC)
}

fn shm(wanted: &Wanted<'_>, owner: &[String; 2]) -> Result<Option<OwnedFd>> {
    let attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    if let Some(source) = wanted.shm_source {
        return mount::bind_plain(source, false, attributes).map(Some);
    }
    if wanted.shm_size == 0 {
        return Ok(None);
    }
    let size = format!("size={}", wanted.shm_size);
    filesystem("tmpfs", ["mode=1777", &size, &owner[0], &owner[1]], attributes).map(Some)
}

fn populate(root: &OwnedFd, wanted: &Wanted<'_>) -> Result<Vec<(OwnedFd, String)>> {
    use rustix::fs::{mkdirat, openat, symlinkat};
    let fail = |name: &str, e: Errno| Error::os("make", format!("/dev/{name}"), e);
    for (target, name) in LINKS {
        symlinkat(target, root, name).map_err(|e| fail(name, e))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(root, name, Mode::from_raw_mode(0o755)).map_err(|e| fail(name, e))?;
        chown(root, name, wanted.owners.uid, wanted.owners.gid).map_err(|e| fail(name, e))?;
    }
    if wanted.console {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(root, "console", flags, Mode::from_raw_mode(0o600)).map_err(|e| fail("console", e))?;
    }
    let mut binds = Vec::new();
    for (name, major, minor) in NODES {
        let node = Node { kind: FileType::CharacterDevice, major, minor, mode: 0o666 };
        let (uid, gid) = (wanted.owners.uid, wanted.owners.gid);
        make_or_bind(root, name, node, (uid, gid), wanted.can_mknod, &mut binds)?;
    }
    for device in wanted.devices {
        let Some(name) = device.path.strip_prefix("/dev/") else { continue };
        let owner = (device.uid, device.gid);
        make_or_bind(root, name, Node::from(device), owner, wanted.can_mknod, &mut binds)?;
    }
    Ok(binds)
}

/// Makes the devices of a plan that lie elsewhere than in /dev, in the root filesystem.
pub fn make_elsewhere(root: BorrowedFd<'_>, devices: &[Device]) -> Result<()> {
    let elsewhere = |device: &&Device| !device.path.starts_with("/dev/");
    for device in devices.iter().filter(elsewhere) {
        let name = device.path.trim_start_matches('/');
        make_node(root, name, Node::from(device), (device.uid, device.gid))
            .map_err(|e| Error::os("make device", device.path.as_str(), e))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
}

impl From<&Device> for Node {
    fn from(device: &Device) -> Self {
        let kind = match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        Self { kind, major: device.major, minor: device.minor, mode: device.mode }
    }
}

fn make_or_bind(
    root: &OwnedFd,
    name: &str,
    node: Node,
    owner: (u32, u32),
    can_mknod: bool,
    binds: &mut Vec<(OwnedFd, String)>,
) -> Result<()> {
    let path = || format!("/dev/{name}");
    if can_mknod {
        return make_node(root.as_fd(), name, node, owner).map_err(|e| Error::os("make device", path(), e));
    }
    let place = Node { kind: FileType::RegularFile, mode: 0o644, ..node };
    make_node(root.as_fd(), name, place, owner).map_err(|e| Error::os("make", path(), e))?;
    binds.push((mount::bind_plain(&path(), false, 0)?, name.to_owned()));
    Ok(())
}

/// One node at a path below `root`, resolved in it; replaces none but an equal one.
fn make_node(root: BorrowedFd<'_>, name: &str, node: Node, owner: (u32, u32)) -> rustix::io::Result<()> {
    let (parent, name) = match name.rsplit_once('/') {
        Some((directory, name)) => (Some(make_directories(root, directory)?), name),
        None => (None, name),
    };
    let parent = parent.as_ref().map_or(root, OwnedFd::as_fd);
    let device = rustix::fs::makedev(node.major, node.minor);
    match rustix::fs::mknodat(parent, name, node.kind, Mode::from_raw_mode(node.mode), device) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == node.kind && stat.st_rdev == device;
            return if same { Ok(()) } else { Err(Errno::EXIST) };
        }
        Err(errno) => return Err(errno),
    }
    if owner != (0, 0) {
        chown(parent, name, owner.0, owner.1)?;
    }
    Ok(())
}

fn chown(below: impl AsFd, name: &str, uid: u32, gid: u32) -> rustix::io::Result<()> {
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(below, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
}

fn make_directories(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |at: BorrowedFd<'_>, name: &str| open_resolved(at, name, flags, how);
    let mut current = open(root, ".")?;
    let mut end = 0;
    for component in path.split('/') {
        end += component.len() + usize::from(end > 0);
        let prefix = &path[..end];
        current = match open(root, prefix) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&current, component, Mode::from_raw_mode(0o755))?;
                open(root, prefix)?
            }
            other => other?,
        };
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: mounts need root");
        }
        root
    }

    #[test]
    fn nodes_get_their_directories_and_are_made_once() {
        if !is_root() {
            return;
        }
        let root = filesystem("tmpfs", ["mode=755"], 0).expect("tmpfs");
        let node = Node { kind: FileType::CharacterDevice, major: 10, minor: 200, mode: 0o660 };
        for _ in 0..2 {
            make_node(root.as_fd(), "net/tun", node, (0, 0)).expect("node");
        }
        let stat = rustix::fs::statat(&root, "net/tun", AtFlags::SYMLINK_NOFOLLOW).expect("stat");
        assert_eq!(stat.st_rdev, rustix::fs::makedev(10, 200));
        let other = Node { minor: 201, ..node };
        assert_eq!(make_node(root.as_fd(), "net/tun", other, (0, 0)), Err(Errno::EXIST));
    }

    #[test]
    fn a_directory_link_cannot_lead_out() {
        if !is_root() {
            return;
        }
        let root = filesystem("tmpfs", ["mode=755"], 0).expect("tmpfs");
        rustix::fs::symlinkat("/proc", &root, "out").expect("symlink");
        let node = Node { kind: FileType::Fifo, major: 0, minor: 0, mode: 0o600 };
        assert_eq!(make_node(root.as_fd(), "out/x", node, (0, 0)), Err(Errno::EXIST));
    }
}

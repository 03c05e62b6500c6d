//! A client's tree on disk: every name is made by descriptor, in a directory that was reached without a symlink.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::packet::Stat;
use super::split;
use crate::error::Result;
use crate::layer::is_kept_xattr;
use crate::layer::tree::{failed, open_beneath, open_root, remove_at, remove_tree};

const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const CHARACTER: u32 = 1 << 21;
/// Go's bits, and the kernel's.
const SPECIAL: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Pipe,
    Socket,
    Character,
    Block,
}

/// Of Go's mode.
pub fn kind_of(mode: u32) -> Kind {
    match mode {
        _ if mode & DEVICE != 0 && mode & CHARACTER != 0 => Kind::Character,
        _ if mode & DEVICE != 0 => Kind::Block,
        _ if mode & DIRECTORY != 0 => Kind::Directory,
        _ if mode & SYMLINK != 0 => Kind::Symlink,
        _ if mode & PIPE != 0 => Kind::Pipe,
        _ if mode & SOCKET != 0 => Kind::Socket,
        _ => Kind::Regular,
    }
}

fn permissions(mode: u32) -> Mode {
    let special: u32 = SPECIAL.iter().filter(|(go, _)| mode & go != 0).map(|(_, bit)| bit).sum();
    Mode::from_raw_mode((mode & 0o777) | special)
}

fn times(nanoseconds: i64) -> Timestamps {
    let second = 1_000_000_000;
    let time =
        Timespec { tv_sec: nanoseconds.div_euclid(second), tv_nsec: nanoseconds.rem_euclid(second) as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// The ids as the client has them; the kernel's word for "leave it" is none.
fn owner(stat: &Stat<'_>) -> rustix::io::Result<(Option<Uid>, Option<Gid>)> {
    if stat.uid == u32::MAX || stat.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid))))
}

/// A tree.
#[derive(Debug)]
pub struct Disk {
    root: OwnedFd,
    /// The directory that something was made in last: the next thing mostly is, too.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories in which something was made or removed: their times have changed, and their modes were.
    touched: HashSet<Vec<u8>>,
}

impl Disk {
    /// `target` is made where it is not there, and emptied unless `keep`.
    pub fn open(target: &str, keep: bool) -> Result<Self> {
        if !keep {
            remove_tree(target)?;
        }
        match rustix::fs::mkdir(target, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("mkdir", target.as_bytes(), errno)),
        }
        Ok(Self { root: open_root(target)?, last: None, touched: HashSet::new() })
    }

    /// Whether something was made or removed in it.
    pub fn touched(&self, directory: &[u8]) -> bool {
        self.touched.contains(directory)
    }

    /// The directory of a path, in which something changes; and the path's name in it.
    fn parent<'a>(&mut self, path: &'a [u8]) -> rustix::io::Result<(&OwnedFd, &'a [u8])> {
        let (parent, name) = split(path);
        if !self.last.as_ref().is_some_and(|(last, _)| last == parent) {
            let opened = open_beneath(&self.root, parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            if self.touched.insert(parent.to_vec()) && !parent.is_empty() {
                // Its own mode may forbid it, or hand on its group.
                rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o700))?;
            }
            self.last = Some((parent.to_vec(), opened));
        }
        Ok((self.last.as_ref().map_or(&self.root, |(_, opened)| opened), name))
    }

    /// A new regular file.
    pub fn create(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.parent(path)
            .and_then(|(parent, name)| rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)))
            .map_err(|errno| failed("create", path, errno))
    }

    pub fn make_directory(&mut self, path: &[u8]) -> Result<()> {
        self.parent(path)
            .and_then(|(parent, name)| rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)))
            .map_err(|errno| failed("mkdir", path, errno))
    }

    /// A symlink or a node with all that it has; sockets are nothing that a context could have.
    pub fn make(&mut self, kind: Kind, stat: &Stat<'_>) -> Result<()> {
        if kind == Kind::Socket {
            return Ok(());
        }
        self.make_node(kind, stat).map_err(|errno| failed("create", stat.path, errno))
    }

    fn make_node(&mut self, kind: Kind, stat: &Stat<'_>) -> rustix::io::Result<()> {
        let (parent, name) = self.parent(stat.path)?;
        let file_type = match kind {
            Kind::Symlink => {
                rustix::fs::symlinkat(stat.link, parent, name)?;
                return own(parent, name, stat);
            }
            Kind::Pipe => FileType::Fifo,
            Kind::Character => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        let device = rustix::fs::makedev(stat.major as u32, stat.minor as u32);
        rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device)?;
        own(parent, name, stat)?;
        rustix::fs::chmodat(parent, name, permissions(stat.mode), AtFlags::empty())?;
        rustix::fs::utimensat(parent, name, &times(stat.modified), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A second name of a file.
    pub fn link(&mut self, source: &[u8], path: &[u8]) -> Result<()> {
        let (directory, name) = split(source);
        open_beneath(&self.root, directory, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|from| {
                let (parent, own) = self.parent(path)?;
                rustix::fs::linkat(from, name, parent, own, AtFlags::empty())
            })
            .map_err(|errno| failed("link", path, errno))
    }

    /// Whatever it is; missing: nothing to do.
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        match self.parent(path) {
            Ok((parent, name)) => remove_at(parent, name)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(failed("remove", path, errno)),
        }
        if self.last.as_ref().is_some_and(|(last, _)| last.starts_with(path)) {
            self.last = None; // it may have been in there
        }
        Ok(())
    }

    /// Everything that was to be in a directory is.
    pub fn finish_directory(&mut self, stat: &Stat<'_>) -> Result<()> {
        let finish = || {
            let opened = open_beneath(&self.root, stat.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            finish_all(&opened, stat, true)
        };
        finish().map_err(|errno| failed("finish", stat.path, errno))
    }
}

fn own(parent: &OwnedFd, name: &[u8], stat: &Stat<'_>) -> rustix::io::Result<()> {
    let (uid, gid) = owner(stat)?;
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(parent, name, &times(stat.modified), AtFlags::SYMLINK_NOFOLLOW)
}

/// A file's content is whole.
pub fn finish_file(file: &OwnedFd, stat: &Stat<'_>) -> Result<()> {
    // What was just made is root's.
    let foreign = (stat.uid, stat.gid) != (0, 0);
    finish_all(file, stat, foreign).map_err(|errno| failed("finish", stat.path, errno))
}

fn finish_all(file: &OwnedFd, stat: &Stat<'_>, chown: bool) -> rustix::io::Result<()> {
    if chown {
        let (uid, gid) = owner(stat)?;
        rustix::fs::fchown(file, uid, gid)?;
    }
    rustix::fs::fchmod(file, permissions(stat.mode))?;
    for (name, value) in stat.attributes.iter().filter(|(name, _)| is_kept_xattr(name)) {
        // What this file system has no room for is left out.
        let _ = rustix::fs::fsetxattr(file, *name, value, XattrFlags::empty());
    }
    rustix::fs::futimens(file, &times(stat.modified))
}

/// Some bytes of a file.
pub fn write(file: &OwnedFd, mut data: &[u8], path: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(file, data) {
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("write", path, errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_of_the_kernel_s_own_is_not_a_client_s_to_set() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let attributes: [(&[u8], &[u8]); 3] =
            [(b"user.a", b"1"), (b"trusted.overlay.opaque", b"y"), (b"security.ima", b"x")];
        let stat = Stat { path: b"a", mode: 0o644, attributes: attributes.to_vec(), ..Stat::default() };
        let fd = OwnedFd::from(file.reopen().expect("opened"));
        finish_file(&fd, &stat).expect("finished");
        let mut names = [0; 256];
        let length = rustix::fs::flistxattr(&fd, &mut names).expect("listed");
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        assert!(!names.contains("overlay") && !names.contains("ima"), "{names}");
    }
}

//! A tar into a directory of a container, as `docker cp` wants it.
//!
//! The directory is held by its descriptor; entries are created below it, their parents resolved without symbolic
//! links, or, where the container has some in the way, in the container's root. What is in the way of an entry is
//! replaced; a directory is merged with. Whiteouts mean nothing here: they are files with odd names.
//!
//! Source: moby pkg/archive, `Unpack`, for what replaces what and for the words.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::find::is_kernels;
use super::Files;
use crate::error::{Error, Result};
use crate::layer::limits::Limits;
use crate::layer::source::Input;
use crate::layer::stream::{self, Stream};
use crate::layer::tar::{malformed, Entry, Kind, Reader};
use crate::layer::tree::{failed, join, open_with, remove_at};
use crate::layer::unpack::{kept_xattrs, owner, raw, split, times, tolerate};
use crate::tree::without_links;

const OPEN_PARENTS: usize = 64;

/// How an archive is to be taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// An entry that is no directory must not replace one, nor the reverse.
    pub keep_kinds: bool,
    /// Everything belongs to this user and group of the container, whatever the archive says.
    pub owner: Option<(u32, u32)>,
}

impl Files {
    /// Unpack the archive from `source` (gzip, zstd or plain), read to its end, into the directory `path`.
    ///
    /// Invalid for a bad archive or a forbidden replacement; what came before stays, as with any copy.
    pub fn receive(&self, path: &[u8], source: impl AsFd, wish: Wish) -> Result<()> {
        let descriptors = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os("open", "/proc/self/fd", errno))?;
        let source = source.as_fd();
        self.inside(|| {
            let base = self.directory(path).map_err(|errno| failed("open", path, errno))?;
            let shown =
                std::str::from_utf8(path).ok().and_then(|text| without_links(self.root.as_fd(), text));
            let mut receiver = Receiver {
                files: self,
                descriptors,
                base,
                path: shown.map_or_else(|| path.to_vec(), String::into_bytes),
                wish,
                parents: HashMap::new(),
                directories: BTreeMap::new(),
            };
            let limits = Limits::DEFAULT;
            stream::run_unhashed(Input::Fd(source), &limits, |stream| receiver.archive(stream, &limits))
                .map(drop)
        })
    }
}

/// What a directory gets once all is in it, if it is still the one that was made.
#[derive(Debug, Clone, Copy)]
struct Finish {
    identity: (u64, u64),
    owner: (u32, u32),
    mode: u32,
    mtime: (i64, u32),
}

struct Receiver<'a> {
    files: &'a Files,
    /// The host's /proc/self/fd: what cannot be changed by its descriptor is by that name.
    descriptors: OwnedFd,
    base: OwnedFd,
    /// Of the base, as the container has it.
    path: Vec<u8>,
    wish: Wish,
    parents: HashMap<Vec<u8>, Rc<OwnedFd>>,
    directories: BTreeMap<Vec<u8>, Finish>,
}

impl Receiver<'_> {
    fn archive(&mut self, stream: &mut Stream, limits: &Limits) -> Result<()> {
        let mut reader = Reader::new(stream, limits);
        let mut remembered = 0;
        while let Some(entry) = reader.next()? {
            let path = self.clean(&entry.path)?;
            if path.is_empty() {
                reader.stream.skip(entry.stored)?;
                continue; // the directory itself, which stays as it is
            }
            remembered += if entry.kind == Kind::Directory { path.len() + size_of::<Finish>() } else { 0 };
            if remembered > limits.directories {
                return Err(malformed("the directories' names are too long to keep"));
            }
            self.entry(&entry, &path, reader.stream)?;
        }
        self.finish()
    }

    /// A name relative to the base; one that climbs out of it is refused.
    fn clean(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut cleaned: Vec<&[u8]> = Vec::new();
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    // Above the root of all there is the root.
                    if cleaned.pop().is_none() && self.path != b"/" {
                        let told = format!("{} is outside of {}", quoted(name), quoted(&self.path));
                        return Err(Error::Invalid(told));
                    }
                }
                _ => cleaned.push(component),
            }
        }
        Ok(cleaned.join(&b'/'))
    }

    fn shown(&self, path: &[u8]) -> Vec<u8> {
        join(if self.path == b"/" { b"" } else { &self.path }, path)
    }

    fn entry(&mut self, entry: &Entry, path: &[u8], stream: &mut Stream) -> Result<()> {
        let (parent, name) = split(path);
        let dir = self.parent(parent)?;
        let merged = self.make_way(entry, path, &dir, name)?;
        match entry.kind {
            Kind::Directory => self.directory(entry, path, &dir, name, merged),
            Kind::File => self.file(entry, path, &dir, name, stream),
            Kind::Hardlink => self.hardlink(entry, path, &dir, name),
            Kind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_slice(), &*dir, name)
                    .map_err(|errno| failed("symlink", path, errno))?;
                self.special(entry, path, &dir, name)
            }
            Kind::CharDevice => self.node(entry, path, &dir, name, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(entry, path, &dir, name, FileType::BlockDevice),
            Kind::Fifo => self.node(entry, path, &dir, name, FileType::Fifo),
        }
    }

    /// Remove what an entry replaces; true where it is a directory to merge with.
    fn make_way(&mut self, entry: &Entry, path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<bool> {
        let there = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed("lstat", path, errno)),
        };
        let directory = entry.kind == Kind::Directory;
        if there && directory {
            return Ok(true);
        }
        if self.wish.keep_kinds && there != directory {
            let (old, new) = if there { ("", "non-") } else { ("non-", "") };
            return Err(Error::Invalid(format!(
                "cannot overwrite {old}directory {} with {new}directory {}",
                quoted(&self.shown(path)),
                quoted(&self.path)
            )));
        }
        if there {
            self.parents.clear();
        }
        remove_at(dir, name)?;
        Ok(false)
    }

    // ---- where ----------------------------------------------------------------------------------

    /// A directory below the base, in it no link; or where the container's links lead, in its root.
    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = match open_with(&self.base, path, flags, resolve) {
            Err(Errno::LOOP) => self.files.open(&self.shown(path), flags)?,
            other => other?,
        };
        if is_kernels(&fd)? {
            return Err(Errno::PERM);
        }
        Ok(fd)
    }

    /// The directory that an entry is made in; missing ones are made (0755, root's).
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some(fd) = self.parents.get(path) {
            return Ok(Rc::clone(fd));
        }
        let opened = match self.open(path) {
            Err(Errno::NOENT) => {
                self.make_parents(path)?;
                self.open(path)
            }
            other => other,
        };
        let fd = Rc::new(opened.map_err(|errno| failed("open", &self.shown(path), errno))?);
        if self.parents.len() >= OPEN_PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    fn make_parents(&self, path: &[u8]) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let (above, name) = split(&path[..end]);
            let fail = |errno| failed("mkdir", &self.shown(&path[..end]), errno);
            let dir = self.open(above).map_err(fail)?;
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let (uid, gid) = owner_pair(self.ids(0, 0)?);
                    rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(())
    }

    // ---- what -----------------------------------------------------------------------------------

    fn ids(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        let (uid, gid) = self.wish.owner.unwrap_or((uid, gid));
        self.files
            .owner_outside(uid, gid)
            .ok_or_else(|| Error::Invalid(format!("container ID {uid}:{gid} cannot be mapped to a host ID")))
    }

    fn directory(
        &mut self,
        entry: &Entry,
        path: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        merged: bool,
    ) -> Result<()> {
        let fail = |errno| failed("mkdir", path, errno);
        if !merged {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)).map_err(fail)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail)?;
        for (key, value) in kept_xattrs(entry) {
            tolerate(rustix::fs::fsetxattr(&fd, key, value, XattrFlags::empty())).map_err(fail)?;
        }
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        let finish = Finish {
            identity: (stat.st_dev, stat.st_ino),
            owner: self.ids(entry.uid, entry.gid)?,
            mode: entry.mode,
            mtime: entry.mtime,
        };
        self.directories.insert(path.to_vec(), finish);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        path: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        stream: &mut Stream,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("open", path, errno))?;
        match &entry.sparse {
            None => stream.write_to(&fd, 0, entry.stored, path)?,
            Some(sparse) => {
                for extent in &sparse.extents {
                    stream.write_to(&fd, extent.offset, extent.length, path)?;
                }
                rustix::fs::ftruncate(&fd, sparse.size).map_err(|errno| failed("truncate", path, errno))?;
            }
        }
        let (uid, gid) = owner_pair(self.ids(entry.uid, entry.gid)?);
        rustix::fs::fchown(&fd, uid, gid).map_err(|errno| failed("chown", path, errno))?;
        // After the owner, whose change clears set-id bits.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))
            .map_err(|errno| failed("chmod", path, errno))?;
        for (key, value) in kept_xattrs(entry) {
            tolerate(rustix::fs::fsetxattr(&fd, key, value, XattrFlags::empty()))
                .map_err(|errno| failed("set xattr of", path, errno))?;
        }
        rustix::fs::futimens(&fd, &times(entry.mtime)).map_err(|errno| failed("set times of", path, errno))
    }

    /// Another name of something that lies below the base.
    fn hardlink(&mut self, entry: &Entry, path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let invalid =
            || Error::Invalid(format!("invalid hardlink {} -> {}", quoted(path), quoted(&entry.link)));
        let target = self.clean(&entry.link).map_err(|_| invalid())?;
        let (parent, old) = split(&target);
        let from = self.open(parent).map_err(|errno| failed("link", path, errno))?;
        let stat = rustix::fs::statat(&from, old, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("link", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(invalid());
        }
        rustix::fs::linkat(&from, old, dir, name, AtFlags::empty())
            .map_err(|errno| failed("link", path, errno))
    }

    /// Devices are not made for a container with a user namespace: it could not make them itself.
    fn node(&mut self, entry: &Entry, path: &[u8], dir: &OwnedFd, name: &[u8], kind: FileType) -> Result<()> {
        if kind != FileType::Fifo && self.files.user.is_some() {
            return Ok(());
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)
            .map_err(|errno| failed("mknod", path, errno))?;
        self.special(entry, path, dir, name)
    }

    /// Owner, mode and times of what cannot be opened: symlinks, devices, fifos.
    fn special(&mut self, entry: &Entry, path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |errno| failed("set attributes of", path, errno);
        let (uid, gid) = owner_pair(self.ids(entry.uid, entry.gid)?);
        // One descriptor for all of it: the name may be something else by now.
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail)?;
        rustix::fs::chownat(&fd, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(fail)?;
        if entry.kind != Kind::Symlink {
            let own = raw(&fd).to_string();
            rustix::fs::chmodat(&self.descriptors, own, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(fail)?;
        }
        rustix::fs::utimensat(&fd, c"", &times(entry.mtime), AtFlags::EMPTY_PATH)
            .or_else(|_| rustix::fs::utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(fail)
    }

    /// Directories' owners, modes and times, when nothing will be made in them any more.
    fn finish(&mut self) -> Result<()> {
        self.parents.clear();
        for (path, finish) in std::mem::take(&mut self.directories) {
            let (parent, name) = split(&path);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) =
                self.open(parent).and_then(|dir| rustix::fs::openat(&dir, name, flags, Mode::empty()))
            else {
                continue; // the container, or a later entry, has replaced it
            };
            let fail = |errno| failed("set attributes of", &path, errno);
            let stat = rustix::fs::fstat(&fd).map_err(fail)?;
            if (stat.st_dev, stat.st_ino) != finish.identity {
                continue;
            }
            let (uid, gid) = owner_pair(finish.owner);
            rustix::fs::fchown(&fd, uid, gid).map_err(fail)?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(finish.mode)).map_err(fail)?;
            rustix::fs::futimens(&fd, &times(finish.mtime)).map_err(fail)?;
        }
        Ok(())
    }
}

fn owner_pair((uid, gid): (u32, u32)) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    owner(uid, gid)
}

fn quoted(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

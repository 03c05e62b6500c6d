//! Creates what a layer's entries say, beneath one directory fd.
//!
//! Safety: a name is cleaned by its text first (absolute ones are taken from the root, one that climbs above the
//! root is refused, as Docker does); its parent is then opened with `RESOLVE_IN_ROOT`, so that symlinks
//! in it lead where they would inside the container; the last component is only ever used with calls that
//! do not follow it. The root directory's fd is the only way in: no absolute path is used, ever.
//!
//! Speed: a file costs open, write, utimens and close. Owner and mode are set only where they differ
//! from what the kernel gave; parents stay open in a small cache; directories get their mode and times at
//! the end, in one go, since files made in them would change them again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::limits::Limits;
use super::recipe::Recorder;
use super::stream::Stream;
use super::tar::{malformed, Entry, Kind, Reader};
use super::tree::{self, failed, join, open_in_root};
use super::whiteout::{self, Name};
use crate::error::{Error, Result};

/// Parents kept open. Archives are written directory by directory, so a few go a long way.
const OPEN_PARENTS: usize = 64;

/// What a directory gets once all is in it.
#[derive(Debug, Clone, Copy)]
struct Finish {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
}

/// The consuming half of the pipeline.
#[derive(Debug)]
pub struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    overlay: bool,
    umask: u32,
    owner: (u32, u32),
    parents: HashMap<Vec<u8>, Rc<OwnedFd>>,
    directories: BTreeMap<Vec<u8>, Finish>,
    directories_bytes: usize,
    /// Directories that are there only because something in them is.
    implied: BTreeSet<Vec<u8>>,
    /// Without `overlay`: what this layer made, which its opaque directories keep.
    made: HashSet<Vec<u8>>,
    pub entries: u64,
    /// Bytes and inodes made; not what there is once something was replaced.
    bytes: u64,
    inodes: u64,
    replaced: bool,
    recorder: Option<Rc<RefCell<Recorder>>>,
}

impl Unpacker {
    /// Unpack below `root`. With `overlay` whiteouts take overlayfs's form, else they are applied.
    pub fn new(
        root: OwnedFd,
        limits: &Limits,
        overlay: bool,
        recorder: Option<Rc<RefCell<Recorder>>>,
    ) -> Self {
        Self {
            root,
            limits: *limits,
            overlay,
            umask: umask(),
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            parents: HashMap::new(),
            directories: BTreeMap::new(),
            directories_bytes: 0,
            implied: BTreeSet::from([Vec::new()]),
            made: HashSet::new(),
            entries: 0,
            bytes: 0,
            inodes: 0,
            replaced: false,
            recorder,
        }
    }

    /// (apparent bytes, inodes) below the root, as [`tree::disk_usage`] counts them: known without looking where
    /// each name came once, as it does in nearly every layer.
    pub fn usage(&self) -> Result<(u64, u64)> {
        if self.replaced {
            return tree::usage_below(&self.root);
        }
        Ok((self.bytes, self.inodes))
    }

    fn count(&mut self, bytes: u64) {
        self.inodes += 1;
        self.bytes += bytes;
    }

    /// Directories, the root among them, that the archive put things into without saying what they are:
    /// their owner and mode are the lower layers' to say.
    pub fn implied(self) -> Vec<Vec<u8>> {
        self.implied.into_iter().collect()
    }

    /// Take a whole archive.
    pub fn archive(&mut self, stream: &mut Stream) -> Result<()> {
        let limits = self.limits;
        let mut reader = Reader::new(stream, &limits);
        while let Some(entry) = reader.next()? {
            self.entries += 1;
            let path = clean(&entry.path)?;
            self.entry(&entry, &path, reader.stream).map_err(|error| name_too_long(error, &path))?;
        }
        self.finish()
    }

    fn entry(&mut self, entry: &Entry, path: &[u8], stream: &mut Stream) -> Result<()> {
        let (parent, name) = split(path);
        if name.is_empty() {
            return match entry.kind {
                Kind::Directory => self.directory(entry, path),
                _ => Err(malformed(format_args!("entry {} is no directory", show(&entry.path)))),
            };
        }
        match whiteout::classify(name)? {
            Name::Plain => {}
            other => {
                stream.skip(entry.stored)?;
                return match other {
                    Name::Opaque => self.opaque(parent),
                    Name::Whiteout(hidden) => self.whiteout(parent, hidden),
                    Name::Ignored | Name::Plain => Ok(()),
                };
            }
        }
        if !self.overlay {
            self.made.insert(path.to_vec());
        }
        match entry.kind {
            Kind::Directory => self.directory(entry, path),
            Kind::File => self.file(entry, path, stream),
            Kind::Hardlink => self.hardlink(entry, path),
            Kind::Symlink => {
                self.create(path, |dir, name| rustix::fs::symlinkat(entry.link.as_slice(), dir, name))?;
                self.count(entry.link.len() as u64);
                self.special(entry, path)
            }
            Kind::CharDevice => self.node(entry, path, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(entry, path, FileType::BlockDevice),
            Kind::Fifo => self.node(entry, path, FileType::Fifo),
        }
    }

    // ---- where ----------------------------------------------------------------------------------

    /// The directory `path`, opened for use as a parent; missing ones are made (0755, root's).
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some(fd) = self.parents.get(path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match open_in_root(&self.root, path, flags) {
            Err(Errno::NOENT) => {
                self.make_parents(path)?;
                open_in_root(&self.root, path, flags)
            }
            other => other,
        };
        let fd = Rc::new(opened.map_err(|errno| unresolvable(path, errno))?);
        if self.parents.len() >= OPEN_PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    /// Make what is missing of a directory path, from the top.
    fn make_parents(&mut self, path: &[u8]) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]).collect::<Vec<_>>() {
            let (above, name) = split(&path[..end]);
            let dir = open_in_root(&self.root, above, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|errno| unresolvable(above, errno))?;
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.count(0);
                    self.remember(end)?;
                    self.implied.insert(path[..end].to_vec());
                    if !self.overlay {
                        self.made.insert(path[..end].to_vec());
                    }
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("create directory", &path[..end], errno)),
            }
        }
        Ok(())
    }

    /// Create something that replaces whatever an earlier entry left at `path`.
    fn create<T>(
        &mut self,
        path: &[u8],
        call: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<(Rc<OwnedFd>, T)> {
        let (parent, name) = split(path);
        let dir = self.parent(parent)?;
        let made = match call(&dir, name) {
            Err(Errno::EXIST) => {
                self.remove(&dir, path)?;
                call(&dir, name)
            }
            other => other,
        };
        made.map(|made| (dir, made)).map_err(|errno| failed("create", path, errno))
    }

    /// Remove what is at `path`, forgetting what is remembered about it.
    fn remove(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<()> {
        let (_, name) = split(path);
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().losing()?;
        }
        self.replaced = true;
        self.parents.clear();
        self.directories.remove(path);
        let below = join(path, b"");
        let stale: Vec<_> = self
            .directories
            .range(below.clone()..)
            .map(|(key, _)| key.clone())
            .take_while(|key| key.starts_with(&below))
            .collect();
        for key in stale {
            self.directories.remove(&key);
        }
        tree::remove_at(dir, name)
    }

    // ---- what -----------------------------------------------------------------------------------

    fn file(&mut self, entry: &Entry, path: &[u8], stream: &mut Stream) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let (_, fd) = self.create(path, |dir, name| rustix::fs::openat(dir, name, flags, mode))?;
        self.count(entry.sparse.as_ref().map_or(entry.stored, |sparse| sparse.size));
        match &entry.sparse {
            None => {
                if let Some(recorder) = &self.recorder {
                    recorder.borrow_mut().content(path, entry.stored)?;
                }
                stream.write_to(&fd, 0, entry.stored, path)?;
            }
            Some(sparse) => {
                for extent in &sparse.extents {
                    stream.write_to(&fd, extent.offset, extent.length, path)?;
                }
                rustix::fs::ftruncate(&fd, sparse.size).map_err(|errno| failed("truncate", path, errno))?;
            }
        }
        if self.owner != (entry.uid, entry.gid) {
            let (uid, gid) = owner(entry.uid, entry.gid);
            rustix::fs::fchown(&fd, uid, gid).map_err(|errno| failed("chown", path, errno))?;
        }
        // Set-id bits fall at write and chown; the umask took some at open.
        if entry.mode & (0o7000 | self.umask) != 0 {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::fchmod(&fd, mode).map_err(|errno| failed("chmod", path, errno))?;
        }
        for (name, value) in kept_xattrs(entry) {
            let set = rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty());
            tolerate(set).map_err(|errno| failed("set xattr of", path, errno))?;
        }
        rustix::fs::futimens(&fd, &times(entry.mtime)).map_err(|errno| failed("set times of", path, errno))
    }

    fn directory(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        if !name.is_empty() {
            let dir = self.parent(parent)?;
            // Its own mode comes last: a set-gid directory would hand its group to what is made in it.
            let mode = Mode::from_raw_mode(0o700);
            match rustix::fs::mkdirat(&dir, name, mode) {
                Ok(()) => self.count(0),
                Err(Errno::EXIST) => self.directory_over(&dir, path)?,
                Err(errno) => return Err(failed("create directory", path, errno)),
            }
        }
        self.remember(path.len())?;
        self.implied.remove(path);
        let finish = Finish { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime };
        self.directories.insert(path.to_vec(), finish);
        if kept_xattrs(entry).next().is_some() {
            let fd = self.open_directory(path)?;
            for (name, value) in kept_xattrs(entry) {
                let set = rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty());
                tolerate(set).map_err(|errno| failed("set xattr of", path, errno))?;
            }
        }
        Ok(())
    }

    /// Account for a path that is kept until the end.
    fn remember(&mut self, length: usize) -> Result<()> {
        self.directories_bytes += length + size_of::<Finish>();
        if self.directories_bytes > self.limits.directories {
            return Err(malformed("the directories' names are too long to keep"));
        }
        Ok(())
    }

    /// Something is there: a directory stays and is merged with, anything else goes. Where the layer
    /// itself had whited it out before, nothing of the lower directory must show.
    fn directory_over(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<()> {
        let (_, name) = split(path);
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("stat", path, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Ok(());
        }
        self.remove(dir, path)?;
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
            .map_err(|errno| failed("create directory", path, errno))?;
        if self.overlay && kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            self.set_opaque(path)?;
        }
        Ok(())
    }

    /// The target is looked up as its parent's fd and a name, so that a link to a symlink is a link to that
    /// symlink, wherever it points.
    fn hardlink(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let target = clean(&entry.link)?;
        if target == path {
            return Err(malformed(format_args!("{} is a hard link to itself", show(path))));
        }
        let (parent, name) = split(&target);
        let missing = |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::PERM | Errno::XDEV => {
                malformed(format_args!("hard link {} to missing {}", show(path), show(&target)))
            }
            errno => failed("link", path, errno),
        };
        let from = open_in_root(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY).map_err(missing)?;
        if name.is_empty() || whiteout::classify(name)? != Name::Plain {
            return Err(missing(Errno::NOENT));
        }
        let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(missing(Errno::PERM));
        }
        self.create(path, |dir, new| rustix::fs::linkat(&from, name, dir, new, AtFlags::empty())).map(drop)
    }

    fn node(&mut self, entry: &Entry, path: &[u8], kind: FileType) -> Result<()> {
        let (major, minor) = entry.device;
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.create(path, |dir, name| rustix::fs::mknodat(dir, name, kind, mode, device))?;
        self.count(0);
        self.special(entry, path)
    }

    /// Owner, mode, xattrs and times of what cannot be opened: symlinks, devices, fifos.
    fn special(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let dir = self.parent(parent)?;
        if self.owner != (entry.uid, entry.gid) {
            let (uid, gid) = owner(entry.uid, entry.gid);
            rustix::fs::chownat(&*dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("chown", path, errno))?;
        }
        if entry.kind != Kind::Symlink && entry.mode & (0o7000 | self.umask) != 0 {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(&*dir, name, mode, AtFlags::empty())
                .map_err(|errno| failed("chmod", path, errno))?;
        }
        for (key, value) in kept_xattrs(entry) {
            // No *xattrat before Linux 6.13: the magic link names the parent's fd, and lsetxattr
            // does not follow the last component.
            let proc = [format!("/proc/self/fd/{}/", raw(&dir)).as_bytes(), name].concat();
            let set = rustix::fs::lsetxattr(proc, key, value, XattrFlags::empty());
            tolerate(set).map_err(|errno| failed("set xattr of", path, errno))?;
        }
        rustix::fs::utimensat(&*dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("set times of", path, errno))
    }

    // ---- whiteouts ------------------------------------------------------------------------------

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<()> {
        let path = join(parent, hidden);
        let dir = self.parent(parent)?;
        if !self.overlay {
            return if self.made.contains(&path) { Ok(()) } else { self.remove(&dir, &path) };
        }
        match rustix::fs::mknodat(&*dir, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.count(0);
                Ok(())
            }
            // A whiteout hides lower layers only: what this layer has there stays, the lower one's goes.
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&*dir, hidden, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| failed("stat", &path, errno))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => self.set_opaque(&path),
                    _ => Ok(()),
                }
            }
            Err(errno) => Err(failed("white out", &path, errno)),
        }
    }

    fn opaque(&mut self, parent: &[u8]) -> Result<()> {
        let dir = self.parent(parent)?;
        if self.overlay {
            return self.set_opaque(parent);
        }
        let fd = self.open_directory(parent)?;
        for (name, _) in tree::list(&fd).map_err(|errno| failed("read", parent, errno))? {
            let path = join(parent, &name);
            if !self.made.contains(&path) {
                self.remove(&dir, &path)?;
            }
        }
        Ok(())
    }

    fn set_opaque(&self, path: &[u8]) -> Result<()> {
        let fd = self.open_directory(path)?;
        rustix::fs::fsetxattr(&fd, whiteout::OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(|errno| failed("set trusted.overlay.opaque of", path, errno))
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        open_in_root(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| unresolvable(path, errno))
    }

    /// Directories' owners, modes and times, when nothing will be made in them any more.
    fn finish(&mut self) -> Result<()> {
        self.parents.clear();
        for (path, finish) in std::mem::take(&mut self.directories) {
            let fd = match open_in_root(&self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(fd) => fd,
                // Replaced by way of another name (a symlink in its path).
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(unresolvable(&path, errno)),
            };
            if self.owner != (finish.uid, finish.gid) {
                let (uid, gid) = owner(finish.uid, finish.gid);
                rustix::fs::fchown(&fd, uid, gid).map_err(|errno| failed("chown", &path, errno))?;
            }
            let mode = Mode::from_raw_mode(finish.mode);
            rustix::fs::fchmod(&fd, mode).map_err(|errno| failed("chmod", &path, errno))?;
            rustix::fs::futimens(&fd, &times(finish.mtime))
                .map_err(|errno| failed("set times of", &path, errno))?;
        }
        Ok(())
    }
}

/// A path without `.`, `..` and doubled slashes, relative to the root; climbing above it is refused.
fn clean(path: &[u8]) -> Result<Vec<u8>> {
    let mut cleaned: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if cleaned.pop().is_none() {
                    return Err(malformed(format_args!("{} is outside of the root", show(path))));
                }
            }
            _ if component.len() > 255 => return Err(malformed("a name of more than 255 bytes")),
            _ => cleaned.push(component),
        }
    }
    Ok(cleaned.join(&b'/'))
}

/// Parent and last component of a cleaned path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// A parent that cannot be: a file in the way, a symlink loop, a dangling symlink.
fn unresolvable(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::EXIST | Errno::XDEV => {
            malformed(format_args!("{} is no directory that can be reached", show(path)))
        }
        errno => failed("open", path, errno),
    }
}

/// The name is the archive's, so its length is the archive's fault.
fn name_too_long(error: Error, path: &[u8]) -> Error {
    if error.errno() == Errno::NAMETOOLONG.raw_os_error() {
        return malformed(format_args!("the name {} is too long", show(path)));
    }
    error
}

/// Whether a layer or a client may set this xattr: file capabilities, users', and trusted ones but for overlayfs's
/// own, with which a layer could show what other layers hide.
pub(crate) fn is_kept_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
}

/// The xattrs that an entry of a layer may set.
pub(super) fn kept_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    all.filter(|(name, _)| is_kept_xattr(name))
}

/// File systems without xattrs, and user xattrs on what cannot carry them, are passed over as Docker does.
pub(super) fn tolerate(set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match set {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

pub(super) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Access time is the modification time: layers carry no other that is worth a difference.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd as _;
    fd.as_raw_fd()
}

/// The process's umask, read rather than set, since setting it would show in other threads. Unknown: all bits,
/// which costs a chmod for each file.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_or_refused() {
        for (path, cleaned) in [
            (&b"./a//b/"[..], &b"a/b"[..]),
            (b"/etc/passwd", b"etc/passwd"),
            (b"a/../b", b"b"),
            (b"./", b""),
            (b"/", b""),
            (b"a/./b/../../c", b"c"),
        ] {
            assert_eq!(clean(path).expect("inside"), cleaned);
        }
        for bad in [&b".."[..], b"../x", b"a/../../x", b"/../x"] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
        assert!(clean(&[b'x'; 256]).is_err());
    }

    #[test]
    fn overlayfs_keeps_its_xattrs_for_itself() {
        let names =
            ["user.a", "trusted.a", "trusted.overlay.redirect", "user.overlay.opaque", "security.selinux"];
        let xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), vec![])).collect();
        let entry = Entry {
            kind: Kind::File,
            path: vec![],
            link: vec![],
            mode: 0,
            uid: 0,
            gid: 0,
            stored: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs,
            sparse: None,
        };
        let kept: Vec<_> = kept_xattrs(&entry).map(|(name, _)| name).collect();
        assert_eq!(kept, [&b"user.a"[..], b"trusted.a"]);
    }
}

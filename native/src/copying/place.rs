//! COPY: entries of a tree into a layer.
//!
//! The layer is an overlay, mounted detached; its root is a descriptor and everything is resolved beneath it. What a
//! copy makes anew lies in the upper directory alone: inside such a directory files are written there directly, on
//! all processors, since nothing of the layers below can be meant.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::file::{again, chown, copy_xattrs, create, transfer};
use super::mode::{change_mode, directory_mode};
use super::patterns::Patterns;
use super::scan::{kept, left_out, Entry, Tree};
use crate::error::{Error, Result};
use crate::layer::tree::{failed, join, open_beneath, open_in_root, open_root};

/// The layer that is written.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    upper: OwnedFd,
}

impl Target {
    /// `root` is the overlay's mount, `upper` its upper directory.
    pub fn new(root: OwnedFd, upper: &str) -> Result<Self> {
        Ok(Self { root, upper: open_root(upper)? })
    }
}

/// What a copy does beside copying.
#[derive(Debug)]
pub struct Copy {
    /// Absolute; a slash at its end says that it is a directory.
    pub target: String,
    /// None keeps the source's.
    pub owner: Option<(u32, u32)>,
    /// Octal or symbolic; empty keeps the source's.
    pub mode: String,
    /// Keep the directories above a source (`--parents`).
    pub parents: bool,
    pub exclude: Patterns,
    /// Seconds since 1970 that no time may pass.
    pub epoch: Option<i64>,
}

/// Where files come from.
#[derive(Debug)]
pub enum Source<'a> {
    Files { tree: &'a Tree, paths: &'a [String] },
    Inline { name: &'a str, data: &'a [u8], mode: u32, modified: i64 },
}

/// An entry that a source of the copy means; `name` is its name beneath the target, `above` what `/./` cut off.
struct Chosen<'a> {
    tree: &'a Tree,
    above: Vec<u8>,
    name: Vec<u8>,
    index: usize,
}

/// One directory's files on their way.
struct Group<'a> {
    tree: &'a Tree,
    from: Vec<u8>,
    to: Vec<u8>,
    files: Vec<&'a Entry>,
}

/// The first of a file's names: it, and its path.
struct First {
    file: OwnedFd,
    path: Vec<u8>,
}

struct Placer<'a> {
    target: &'a Target,
    copy: &'a Copy,
    /// Directories that this copy made: paths beneath the root without symlinks.
    made: HashSet<Vec<u8>>,
    /// Their metadata, set when they are full.
    directories: Vec<(Vec<u8>, &'a Entry, bool)>,
    /// By (device, inode), where a file has several names.
    links: Mutex<HashMap<(u64, u64), First>>,
}

/// Copy files into a layer.
pub fn copy(target: &Target, copy: &Copy, sources: &[Source<'_>]) -> Result<()> {
    let mut placer = Placer {
        target,
        copy,
        made: HashSet::new(),
        directories: Vec::new(),
        links: Mutex::new(HashMap::new()),
    };
    placer.all(sources)
}

/// A directory with those above it, where missing, owned by `owner`.
pub fn make_directory(target: &Target, path: &str, owner: (u32, u32)) -> Result<()> {
    let copy = Copy {
        target: path.to_owned(),
        owner: Some(owner),
        mode: String::new(),
        parents: false,
        exclude: Patterns::default(),
        epoch: None,
    };
    let mut placer = Placer {
        target,
        copy: &copy,
        made: HashSet::new(),
        directories: Vec::new(),
        links: Mutex::new(HashMap::new()),
    };
    placer.directory(path.as_bytes()).map(drop)
}

impl<'a> Placer<'a> {
    fn all(&mut self, sources: &'a [Source<'a>]) -> Result<()> {
        let mut chosen = Vec::new();
        for source in sources {
            if let Source::Files { tree, paths } = source {
                for path in *paths {
                    chosen.extend(self.chosen(tree, path)?);
                }
            }
        }
        let inline = sources.iter().filter(|source| matches!(source, Source::Inline { .. })).count();
        let several = chosen.len() + inline > 1;
        let is_directory = self.copy.target.ends_with('/') || self.copy.parents;
        if several && !is_directory && !self.exists_as_directory() {
            return Err(Error::Invalid(
                "When using COPY with more than one source file, the destination must be a directory and end with a /"
                    .into(),
            ));
        }
        if self.copy.parents {
            // It is there whatever was found.
            self.directory(self.copy.target.as_bytes())?;
        }
        for found in chosen {
            self.one(&found, is_directory)?;
        }
        for source in sources {
            if let Source::Inline { name, data, mode, modified } = source {
                self.inline(name, data, *mode, *modified, is_directory)?;
            }
        }
        self.finish()
    }

    /// What one path means.
    fn chosen(&self, tree: &'a Tree, path: &str) -> Result<Vec<Chosen<'a>>> {
        let pivot = if self.copy.parents { path.find("/./").map(|at| &path[..at]) } else { None };
        let above = pivot.map(super::patterns::clean).unwrap_or_default();
        let found = tree.select(path)?;
        Ok(found
            .into_iter()
            .map(|(name, index)| {
                let inner = name.strip_prefix(above.as_bytes()).unwrap_or(&name);
                let name = inner.strip_prefix(b"/").unwrap_or(inner).to_vec();
                Chosen { tree, above: above.clone().into_bytes(), name, index }
            })
            .filter(|found| {
                // A directory's content is what is copied, and looked at by its names below it.
                let whole = !self.copy.parents && tree.entry(found.index).kind == FileType::Directory;
                whole || self.copy.exclude.is_empty() || !left_out(&self.copy.exclude, &found.name)
            })
            .collect())
    }

    fn exists_as_directory(&self) -> bool {
        let path = self.copy.target.as_bytes();
        open_in_root(&self.target.root, path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    fn one(&mut self, found: &Chosen<'a>, into_directory: bool) -> Result<()> {
        let Chosen { tree, name, index, .. } = found;
        let entry = tree.entry(*index);
        let target = self.copy.target.as_bytes().to_vec();
        if entry.kind == FileType::Directory {
            if !self.copy.parents {
                // Its content alone is copied: the target is none of the source's.
                let real = self.directory(&target)?;
                return self.contents(tree, *index, name, &real);
            }
            let place = join(&self.above(found, &target)?, base(name));
            let there = open_in_root(&self.target.root, &place, OFlags::PATH | OFlags::DIRECTORY).is_ok();
            let real = self.directory(&place)?;
            if !there {
                self.directories.push((real.clone(), entry, false));
            }
            return self.contents(tree, *index, name, &real);
        }
        let (directory, file) = if self.copy.parents {
            (self.above(found, &target)?, base(name).to_vec())
        } else if into_directory || self.exists_as_directory() {
            (target, base(name).to_vec())
        } else {
            (parent(&target).to_vec(), base(&target).to_vec())
        };
        let real = self.directory(&directory)?;
        let group = Group { tree, from: parent(&entry.path).to_vec(), to: real, files: vec![entry] };
        self.group(&group, &[file])
    }

    /// With `--parents`: the directories of the source above it, with their metadata; where it goes.
    fn above(&mut self, found: &Chosen<'a>, target: &[u8]) -> Result<Vec<u8>> {
        let mut place = target.to_vec();
        while place.last() == Some(&b'/') && place.len() > 1 {
            place.pop();
        }
        let parts: Vec<&[u8]> =
            parent(&found.name).split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let mut source = found.above.clone();
        for part in parts {
            source = join(&source, part);
            place = join(&place, part);
            let there = open_in_root(&self.target.root, &place, OFlags::PATH | OFlags::DIRECTORY).is_ok();
            let real = self.directory(&place)?;
            if let (false, Some(index)) = (there, found.tree.find(&source)) {
                self.directories.push((real, found.tree.entry(index), false));
            }
        }
        Ok(place)
    }

    /// Everything below a directory of the tree, into the directory `to`.
    fn contents(&mut self, tree: &'a Tree, index: usize, name: &[u8], to: &[u8]) -> Result<()> {
        let entries = tree.below(index);
        let top = entries[0].path.len();
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut place: HashMap<Vec<u8>, usize> = HashMap::new();
        let is_out = |entry: &Entry| {
            let inner = below(&entry.path, top);
            let named = if self.copy.parents { join(name, inner) } else { inner.to_vec() };
            !self.copy.exclude.is_empty() && left_out(&self.copy.exclude, &named)
        };
        for entry in kept(&entries[1..], is_out) {
            let whole = join(to, below(&entry.path, top));
            if entry.kind == FileType::Directory {
                self.inner_directory(&whole)?;
                self.directories.push((whole, entry, true));
                continue;
            }
            let above = parent(&whole).to_vec();
            let group = *place.entry(above.clone()).or_insert_with(|| {
                groups.push(Group { tree, from: parent(&entry.path).to_vec(), to: above, files: Vec::new() });
                groups.len() - 1
            });
            groups[group].files.push(entry);
        }
        self.groups(&groups)
    }

    fn groups(&self, groups: &[Group<'a>]) -> Result<()> {
        let (alone, shared): (Vec<&Group<'_>>, Vec<&Group<'_>>) =
            groups.iter().partition(|group| self.made.contains(&group.to));
        for group in shared {
            self.group(group, &[])?;
        }
        let files: usize = alone.iter().map(|group| group.files.len()).sum();
        let threads =
            std::thread::available_parallelism().map_or(1, usize::from).min(alone.len()).min(files / 32 + 1);
        let next = AtomicUsize::new(0);
        let work = || loop {
            let Some(group) = alone.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            self.group(group, &[])?;
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            others
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(Error::Invalid("a thread that copies failed".into())))
                })
                .fold(mine, Result::and)
        })
    }

    /// The files of one directory; `names` stand for theirs where they are given.
    fn group(&self, group: &Group<'_>, names: &[Vec<u8>]) -> Result<()> {
        let to = self.open(&group.to)?;
        let from = open_beneath(&group.tree.root, &group.from, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| failed("open", &group.from, errno))?;
        for (index, entry) in group.files.iter().enumerate() {
            let name = names.get(index).map_or_else(|| base(&entry.path), Vec::as_slice);
            self.file(group, from.as_fd(), entry, to.as_fd(), name)
                .map_err(|errno| failed("copy", &entry.path, errno))?;
        }
        Ok(())
    }

    // ---- directories ------------------------------------------------------------------------------

    /// Where a directory of the layer is opened: in the upper one if this copy made it.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        open_beneath(self.view(path), path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| failed("open", path, errno))
    }

    fn view(&self, directory: &[u8]) -> &OwnedFd {
        if self.made.contains(directory) {
            &self.target.upper
        } else {
            &self.target.root
        }
    }

    /// A directory as the image means it, symlinks followed in its root, made where missing; its real path.
    fn directory(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let mut whole = Vec::new();
        let mut opened = open_in_root(&self.target.root, b"", OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| failed("open", b"/", errno))?;
        for part in parts {
            let next = join(&whole, part);
            opened = match open_in_root(&self.target.root, &next, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    let bits = Mode::from_raw_mode(directory_mode(&self.copy.mode));
                    rustix::fs::mkdirat(&opened, part, bits)
                        .and_then(|()| rustix::fs::chmodat(&opened, part, bits, AtFlags::empty()))
                        .map_err(|errno| failed("mkdir", &next, errno))?;
                    let made = open_in_root(&self.target.root, &next, OFlags::PATH | OFlags::DIRECTORY)
                        .map_err(|errno| failed("open", &next, errno))?;
                    let (uid, gid) = self.copy.owner.unwrap_or((0, 0));
                    chown(made.as_fd(), b"", uid, gid).map_err(|errno| failed("chown", &next, errno))?;
                    let real = real_path(made.as_fd()).map_err(|errno| failed("open", &next, errno))?;
                    self.made.insert(real);
                    made
                }
                Err(errno) => return Err(failed("open", &next, errno)),
            };
            whole = next;
        }
        real_path(opened.as_fd()).map_err(|errno| failed("open", path, errno))
    }

    /// A directory below one whose real path is known.
    fn inner_directory(&mut self, path: &[u8]) -> Result<()> {
        let above = self.open(parent(path))?;
        match rustix::fs::mkdirat(&above, base(path), Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.made.insert(path.to_vec());
                Ok(())
            }
            Err(Errno::EXIST) => {
                let found = rustix::fs::statat(&above, base(path), AtFlags::SYMLINK_NOFOLLOW);
                match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                    Ok(FileType::Directory) => Ok(()),
                    _ => Err(Error::Invalid(format!(
                        "cannot copy to non-directory: /{}",
                        String::from_utf8_lossy(path)
                    ))),
                }
            }
            Err(errno) => Err(failed("mkdir", path, errno)),
        }
    }

    /// Directories get their metadata when nothing is written into them any more.
    fn finish(&mut self) -> Result<()> {
        for (path, entry, inner) in std::mem::take(&mut self.directories).iter().rev() {
            let set = || {
                let opened = open_beneath(self.view(path), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                if *inner || self.copy.owner.is_none() {
                    self.attributes(opened.as_fd(), entry)?;
                } else {
                    let mode = self.mode(entry);
                    rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode))?;
                    rustix::fs::futimens(&opened, &self.times(entry))?;
                }
                Ok(())
            };
            set().map_err(|errno| failed("set attributes of", path, errno))?;
        }
        Ok(())
    }

    // ---- files ------------------------------------------------------------------------------------

    fn file(
        &self,
        group: &Group<'_>,
        from: BorrowedFd<'_>,
        entry: &Entry,
        to: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        match entry.kind {
            FileType::RegularFile if entry.stat.st_nlink > 1 => self.linked(group, from, entry, to, name),
            FileType::RegularFile => self.regular(group.tree, from, entry, to, name).map(drop),
            FileType::Symlink => {
                self.by_name(entry, to, name, || rustix::fs::symlinkat(entry.link.as_slice(), to, name))
            }
            FileType::Socket => Ok(()),
            // A working directory has no business with these.
            _ if group.tree.of_host => Err(Errno::NOTSUP),
            kind => {
                let mode = Mode::from_raw_mode(self.mode(entry));
                self.by_name(entry, to, name, || {
                    rustix::fs::mknodat(to, name, kind, mode, entry.stat.st_rdev)
                })
            }
        }
    }

    /// What opening would follow or start is made, and given its metadata, by its name.
    fn by_name(
        &self,
        entry: &Entry,
        to: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        again(to, name, make)?;
        let (uid, gid) = self.owner(entry);
        chown(to, name, uid, gid)?;
        if entry.kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(self.mode(entry)), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, name, &self.times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A file with several names: the ones after the first are links to it.
    fn linked(
        &self,
        group: &Group<'_>,
        from: BorrowedFd<'_>,
        entry: &Entry,
        to: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<()> {
        let key = (entry.stat.st_dev, entry.stat.st_ino);
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(First { file, path }) = links.get(&key) {
            let link = |file: BorrowedFd<'_>| {
                again(to, name, || rustix::fs::linkat(file, "", to, name, AtFlags::EMPTY_PATH))
            };
            return match link(file.as_fd()) {
                // One is seen through the overlay, the other in the upper directory.
                Err(Errno::XDEV) => link(open_beneath(self.view(&group.to), path, OFlags::PATH)?.as_fd()),
                other => other,
            };
        }
        let made = self.regular(group.tree, from, entry, to, name)?;
        links.insert(key, First { file: made, path: join(&group.to, name) });
        Ok(())
    }

    fn regular(
        &self,
        tree: &Tree,
        from: BorrowedFd<'_>,
        entry: &Entry,
        to: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, base(&entry.path), flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode) != FileType::RegularFile {
            return Err(Errno::AGAIN);
        }
        let made = create(to, name)?;
        transfer(source.as_fd(), made.as_fd(), entry.stat.st_size as u64, entry.stat.st_blocks as u64)?;
        if !tree.of_host {
            copy_xattrs(source.as_fd(), made.as_fd())?;
        }
        self.attributes(made.as_fd(), entry)?;
        Ok(made)
    }

    fn inline(
        &mut self,
        name: &str,
        data: &[u8],
        mode: u32,
        modified: i64,
        into_directory: bool,
    ) -> Result<()> {
        let target = self.copy.target.as_bytes().to_vec();
        let (directory, file) = if into_directory || self.exists_as_directory() {
            (target, name.as_bytes().to_vec())
        } else {
            (parent(&target).to_vec(), base(&target).to_vec())
        };
        let real = self.directory(&directory)?;
        let to = self.open(&real)?;
        let write = || -> std::io::Result<()> {
            let mut writer = File::from(create(to.as_fd(), &file)?);
            writer.write_all(data)?;
            let (uid, gid) = self.copy.owner.unwrap_or((0, 0));
            chown(writer.as_fd(), b"", uid, gid)?;
            let bits = change_mode(mode, &self.copy.mode, false);
            rustix::fs::fchmod(&writer, Mode::from_raw_mode(bits))?;
            rustix::fs::futimens(&writer, &self.clamped(modified, 0))?;
            Ok(())
        };
        write().map_err(|error| Error::os("write", String::from_utf8_lossy(&file), error))
    }

    // ---- attributes -------------------------------------------------------------------------------

    fn attributes(&self, fd: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner(entry);
        // What root makes is root's.
        if (uid, gid) != (0, 0) || entry.kind == FileType::Directory {
            chown(fd, b"", uid, gid)?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode(entry)))?;
        rustix::fs::futimens(fd, &self.times(entry))
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        self.copy.owner.unwrap_or((entry.stat.st_uid, entry.stat.st_gid))
    }

    fn mode(&self, entry: &Entry) -> u32 {
        change_mode(entry.stat.st_mode & 0o7777, &self.copy.mode, entry.kind == FileType::Directory)
    }

    fn times(&self, entry: &Entry) -> Timestamps {
        self.clamped(entry.stat.st_mtime, entry.stat.st_mtime_nsec as i64)
    }

    fn clamped(&self, seconds: i64, nanoseconds: i64) -> Timestamps {
        let (seconds, nanoseconds) = match self.copy.epoch {
            Some(epoch) if seconds >= epoch => (epoch, 0),
            _ => (seconds, nanoseconds),
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
        Timestamps { last_access: time, last_modification: time }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

fn base(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..])
}

/// Where a directory lies beneath the root of its mount.
/// A path without the `top` bytes of the directory that it is below.
fn below(path: &[u8], top: usize) -> &[u8] {
    path[top..].strip_prefix(b"/").unwrap_or(&path[top..])
}

fn real_path(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?.into_bytes();
    Ok(path.strip_prefix(b"/").unwrap_or(&path).to_vec())
}

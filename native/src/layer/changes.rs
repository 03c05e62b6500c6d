//! What a container has changed: its overlay upper directory against the layers below.
//!
//! | in the upper directory             | below      | is                                       |
//! |------------------------------------|------------|------------------------------------------|
//! | whiteout                           | something  | deleted                                  |
//! | anything                           | nothing    | added, and all in it                     |
//! | another type, mode, owner, device; | something  | modified                                 |
//! | of files also size, time, capability |          |                                          |
//! | a directory with changes in it     | directory  | modified, whatever its own attributes    |
//! | opaque directory                   | directory  | what it does not have itself: deleted    |
//! Anything else was only copied up and is no change. Order: by name, a directory before what is in it. The container
//! goes on meanwhile: what is gone from the upper directory when its turn comes is not there.
//!
//! Source: moby pkg/archive `changes.go`, whose comparison of two whole trees this equals.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::tree::{failed, join, list, open_beneath, open_root, unless_changed};
use super::whiteout::OPAQUE_XATTR;
use crate::error::Result;

/// Numbers of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// One changed path, with its leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub path: Vec<u8>,
}

/// The changes that `upper` makes to `lower`, directories of layers, top first.
pub fn changes(upper: &str, lower: &[String]) -> Result<Vec<Change>> {
    let upper = open_root(upper)?;
    let layers = lower.iter().map(|layer| open_root(layer)).collect::<Result<Vec<_>>>()?;
    let all = (0..layers.len()).collect();
    let mut walk = Walk { upper, layers, found: Vec::new() };
    let mut frames = vec![walk.frame(Vec::new(), all, true)?];
    while let Some(frame) = frames.last_mut() {
        let Some(name) = frame.names.pop() else {
            if let Some(done) = frames.pop() {
                walk.close(&done);
            }
            continue;
        };
        let path = join(&frame.path, &name);
        let below = frame.layers.clone();
        if let Some(frame) = walk.entry(path, &below)? {
            frames.push(frame);
        }
    }
    Ok(walk.found)
}

/// A directory of the upper one whose entries are under way.
struct Frame {
    path: Vec<u8>,
    /// Layers that have a part in the merged directory below it, by number.
    layers: Vec<usize>,
    /// Left to look at, the last one first.
    names: Vec<Vec<u8>>,
    /// How many changes were known before it.
    start: usize,
    /// It has been told of already (or is the root, which never is).
    told: bool,
}

/// What a path is in the layers below.
enum Below {
    Missing,
    Directory(Stat, Vec<usize>),
    Other(Stat, usize),
}

struct Walk {
    upper: OwnedFd,
    layers: Vec<OwnedFd>,
    found: Vec<Change>,
}

impl Walk {
    fn tell(&mut self, kind: ChangeKind, path: &[u8]) {
        self.found.push(Change { kind, path: [b"/", path].concat() });
    }

    /// Begin with a directory: its names, and those of an opaque one that hides what is below.
    fn frame(&mut self, path: Vec<u8>, layers: Vec<usize>, told: bool) -> Result<Frame> {
        let fail = |errno| failed("read", &path, errno);
        let opened = open_beneath(&self.upper, &path, OFlags::RDONLY | OFlags::DIRECTORY);
        let upper = unless_changed(opened).map_err(fail)?;
        let listed = upper.as_ref().map_or(Ok(None), |fd| unless_changed(list(fd))).map_err(fail)?;
        let mut names: Vec<_> = listed.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        if upper.is_some_and(|fd| is_opaque(&fd)) {
            for number in &layers {
                let Ok(below) =
                    open_beneath(&self.layers[*number], &path, OFlags::RDONLY | OFlags::DIRECTORY)
                else {
                    continue;
                };
                names.extend(list(&below).map_err(fail)?.into_iter().map(|(name, _)| name));
            }
        }
        names.sort_unstable_by(|left, right| right.cmp(left));
        names.dedup();
        Ok(Frame { path, layers, names, start: self.found.len(), told })
    }

    /// A directory with changes in it is one; it comes before them.
    fn close(&mut self, frame: &Frame) {
        if !frame.told && self.found.len() > frame.start {
            let path = [b"/", frame.path.as_slice()].concat();
            self.found.insert(frame.start, Change { kind: ChangeKind::Modified, path });
        }
    }

    /// Compare one entry; a frame where there is a directory to go into.
    fn entry(&mut self, path: Vec<u8>, layers: &[usize]) -> Result<Option<Frame>> {
        let below = self.below(&path, layers)?;
        let upper = match stat(&self.upper, &path) {
            Ok(stat) if !is_whiteout(&stat) => stat,
            // Whited out, or not in an opaque directory.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                if !matches!(below, Below::Missing) {
                    self.tell(ChangeKind::Deleted, &path);
                }
                return Ok(None);
            }
            Err(errno) => return Err(failed("lstat", &path, errno)),
        };
        let (kind, parts) = match &below {
            Below::Missing => (Some(ChangeKind::Added), Vec::new()),
            Below::Directory(old, parts) => {
                (differs(old, &upper).then_some(ChangeKind::Modified), parts.clone())
            }
            Below::Other(old, layer) => {
                let changed = differs(old, &upper) || self.capability_differs(&path, *layer);
                (changed.then_some(ChangeKind::Modified), Vec::new())
            }
        };
        if let Some(kind) = kind {
            self.tell(kind, &path);
        }
        if FileType::from_raw_mode(upper.st_mode) != FileType::Directory {
            return Ok(None);
        }
        self.frame(path, parts, kind.is_some()).map(Some)
    }

    /// The topmost layer that has the name decides what it is; directories go on down until one is opaque.
    fn below(&self, path: &[u8], layers: &[usize]) -> Result<Below> {
        let mut top: Option<Stat> = None;
        let mut parts = Vec::new();
        for number in layers {
            let found = match stat(&self.layers[*number], path) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(errno) => return Err(failed("lstat", path, errno)),
            };
            if is_whiteout(&found) {
                break;
            }
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                if top.is_none() {
                    return Ok(Below::Other(found, *number));
                }
                break;
            }
            top.get_or_insert(found);
            parts.push(*number);
            let opened = open_beneath(&self.layers[*number], path, OFlags::RDONLY | OFlags::DIRECTORY);
            if opened.is_ok_and(|fd| is_opaque(&fd)) {
                break;
            }
        }
        Ok(top.map_or(Below::Missing, |stat| Below::Directory(stat, parts)))
    }

    fn capability_differs(&self, path: &[u8], layer: usize) -> bool {
        capability(&self.upper, path) != capability(&self.layers[layer], path)
    }
}

fn stat(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::fstat(open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW)?)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(fd: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(fd, OPAQUE_XATTR, &mut value[..]), Ok(1)) && value == *b"y"
}

/// Size and time are not looked at for directories: what is in them says more.
fn differs(old: &Stat, new: &Stat) -> bool {
    let same_time = old.st_mtime == new.st_mtime
        && (old.st_mtime_nsec == new.st_mtime_nsec || old.st_mtime_nsec == 0 || new.st_mtime_nsec == 0);
    (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev)
        || (FileType::from_raw_mode(new.st_mode) != FileType::Directory
            && (!same_time || old.st_size != new.st_size))
}

/// File capabilities, read through a descriptor that opens nothing.
fn capability(root: &OwnedFd, path: &[u8]) -> Option<Vec<u8>> {
    let fd = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut value = vec![0; 64];
    let length = rustix::fs::getxattr(name, "security.capability", &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

//! A tree of files, looked at once: names and metadata, without those that are ignored.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::digests::FileDigests;
use super::patterns::{clean, Fit, Pattern, Patterns};
use crate::error::{Error, Result};
use crate::layer::tree::{failed, join, list, open_beneath, open_root, unless_changed};
use crate::overlay::Overlay;

/// Symlinks followed before a path counts as a loop, as the kernel has it.
const MAX_LINKS: usize = 40;

/// One file, directory or other thing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the tree's root; empty for the root itself.
    pub path: Vec<u8>,
    pub kind: FileType,
    pub stat: Stat,
    /// Where a symlink leads.
    pub link: Vec<u8>,
}

/// A directory and everything in it that counts.
#[derive(Debug)]
pub struct Tree {
    pub root: OwnedFd,
    /// By path; a directory comes before what lies in it.
    entries: Vec<Entry>,
    /// It is somebody's working directory: owners do not count there, they become root.
    pub of_host: bool,
}

impl Tree {
    /// Look at a directory of the host, whose path is trusted, without what `ignore` leaves out.
    pub fn scan(directory: &str, ignore: &Patterns) -> Result<Self> {
        Self::of(open_root(directory)?, ignore, true)
    }

    /// Look at a root that is a layer's or an image's.
    pub fn of(root: OwnedFd, ignore: &Patterns, of_host: bool) -> Result<Self> {
        let mut entries = Vec::new();
        let stat = rustix::fs::fstat(&root).map_err(|errno| failed("stat", b"/", errno))?;
        entries.push(Entry { path: Vec::new(), kind: FileType::Directory, stat, link: Vec::new() });
        read(&root, &[], ignore, &Fit::default(), &mut entries)?;
        entries.sort_unstable_by(|one, other| by_component(&one.path, &other.path));
        Ok(Self { root, entries, of_host })
    }

    /// What a path leads to, symlinks followed inside the tree; the index of its entry.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        let mut links = 0;
        let mut done: Vec<u8> = Vec::new();
        let mut rest: Vec<Vec<u8>> = components(path);
        rest.reverse();
        while let Some(part) = rest.pop() {
            if part == b".." {
                done.truncate(done.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            let whole = join(&done, &part);
            let entry = &self.entries[self.index(&whole)?];
            if entry.kind == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if entry.link.starts_with(b"/") {
                    done.clear();
                }
                let mut more = components(&entry.link);
                more.reverse();
                rest.append(&mut more);
            } else {
                done = whole;
            }
        }
        self.index(&done)
    }

    fn index(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| by_component(&entry.path, path)).ok()
    }

    #[must_use]
    pub fn entry(&self, index: usize) -> &Entry {
        &self.entries[index]
    }

    /// An entry and all below it, in order.
    #[must_use]
    pub fn below(&self, index: usize) -> &[Entry] {
        let top = &self.entries[index].path;
        let length = self.entries[index..].iter().take_while(|entry| within(&entry.path, top)).count();
        &self.entries[index..index + length]
    }

    /// The entries that a source of COPY means, by the path that was found (not where symlinks lead).
    ///
    /// An error where a path without wildcards is not there; a wildcard may find nothing.
    pub fn select(&self, source: &str) -> Result<Vec<(Vec<u8>, usize)>> {
        let cleaned = clean(source);
        let pattern = Pattern::new(&cleaned)?;
        let found: Vec<(Vec<u8>, usize)> = match pattern.literal() {
            Some(path) => self.find(path).map(|index| (path.to_vec(), index)).into_iter().collect(),
            None => self
                .entries
                .iter()
                .filter(|entry| !entry.path.is_empty() && pattern.matches(&entry.path))
                .filter_map(|entry| self.find(&entry.path).map(|index| (entry.path.clone(), index)))
                .collect(),
        };
        if found.is_empty() && pattern.literal().is_some() {
            let path = format!("/{cleaned}");
            return Err(Error::os("lookup", path, Errno::NOENT));
        }
        Ok(found)
    }

    /// A digest of everything that a copy of these sources would take over; times have no part in it.
    ///
    /// With `parents`, what is excluded is named from the tree's root, else what is in a source from there.
    pub fn digest(
        &self,
        sources: &[String],
        exclude: &Patterns,
        parents: bool,
        known: &FileDigests,
    ) -> Result<String> {
        let mut chosen: Vec<(Vec<u8>, &Entry)> = Vec::new();
        for source in sources {
            for (path, index) in self.select(source)? {
                let top = self.entries[index].path.len();
                let whole = |entry: &Entry| [&path, entry.path.get(top..).unwrap_or_default()].concat();
                let is_out = |entry: &Entry| {
                    let inner = entry.path.get(top..).unwrap_or_default();
                    let below = inner.strip_prefix(b"/").unwrap_or(inner);
                    let top_directory = below.is_empty() && entry.kind == FileType::Directory;
                    if exclude.is_empty() || (top_directory && !parents) {
                        return false;
                    }
                    let named = if parents || below.is_empty() { whole(entry) } else { below.to_vec() };
                    left_out(exclude, &named)
                };
                chosen.extend(kept(self.below(index), is_out).into_iter().map(|entry| (whole(entry), entry)));
            }
        }
        let files: Vec<&Entry> = chosen
            .iter()
            .map(|(_, entry)| *entry)
            .filter(|entry| entry.kind == FileType::RegularFile)
            .collect();
        let mut contents = known.of(self.root.as_fd(), &files)?.into_iter();
        let mut hasher = Sha256::new();
        for (path, entry) in &chosen {
            hasher.update((path.len() as u64).to_le_bytes());
            hasher.update(path);
            hasher.update(entry.stat.st_mode.to_le_bytes());
            if !self.of_host {
                hasher.update(entry.stat.st_uid.to_le_bytes());
                hasher.update(entry.stat.st_gid.to_le_bytes());
            }
            match entry.kind {
                FileType::RegularFile => hasher.update(contents.next().unwrap_or_default()),
                FileType::Symlink => hasher.update(&entry.link),
                FileType::CharacterDevice | FileType::BlockDevice => {
                    hasher.update(entry.stat.st_rdev.to_le_bytes());
                }
                _ => {}
            }
            hasher.update(b"\0");
        }
        Ok(hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

/// The entries of `below` that are not left out, and the directories above these, in order.
pub fn kept(entries: &[Entry], left_out: impl Fn(&Entry) -> bool) -> Vec<&Entry> {
    let mut kept = Vec::new();
    let mut passed: Vec<&Entry> = Vec::new();
    for entry in entries {
        passed.retain(|directory| within(&entry.path, &directory.path));
        if !left_out(entry) {
            kept.append(&mut passed);
            kept.push(entry);
        } else if entry.kind == FileType::Directory {
            passed.push(entry);
        }
    }
    kept
}

/// Whether a path or one above it is left out.
pub fn left_out(patterns: &Patterns, path: &[u8]) -> bool {
    let mut fit = Fit::default();
    let mut out = false;
    for end in
        path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()])
    {
        (out, fit) = patterns.fit(&path[..end], &fit);
    }
    out
}

/// The layers of a stage or an image (top first) as one tree.
pub fn merged(lower: &[String]) -> Result<OwnedFd> {
    match lower {
        [] => Err(Error::Invalid("there are no files in scratch".into())),
        [only] => open_root(only),
        _ => Overlay { lower, writable: None, volatile: false, idmap: None, userxattr: false }.mount(),
    }
}

/// (path, first bytes) of each regular file that a source means.
pub fn heads(tree: &Tree, source: &str, length: usize) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    for (path, index) in tree.select(source)? {
        if tree.entry(index).kind == FileType::RegularFile {
            let mut head = Vec::with_capacity(length);
            let path = PathBuf::from(OsString::from_vec(path));
            let read = File::from(open_file(tree, &path)?).take(length as u64).read_to_end(&mut head);
            read.map_err(|error| Error::os("read", path.display().to_string(), error))?;
            found.push((path, head));
        }
    }
    Ok(found)
}

/// A regular file of a tree, by a path that `select` gave.
pub fn open_file(tree: &Tree, path: &Path) -> Result<OwnedFd> {
    let name = path.as_os_str().as_bytes();
    let index = tree.find(name).ok_or_else(|| failed("open", name, Errno::NOENT))?;
    let entry = tree.entry(index);
    if entry.kind != FileType::RegularFile {
        return Err(failed("open", name, Errno::INVAL));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    open_beneath(&tree.root, &entry.path, flags).map_err(|errno| failed("open", name, errno))
}

fn read(root: &OwnedFd, path: &[u8], ignore: &Patterns, above: &Fit, entries: &mut Vec<Entry>) -> Result<()> {
    let opened = open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY);
    let Some(directory) = unless_changed(opened).map_err(|errno| failed("open", path, errno))? else {
        return Ok(());
    };
    let listed = unless_changed(list(&directory)).map_err(|errno| failed("read", path, errno))?;
    for (name, _) in listed.unwrap_or_default() {
        let whole = join(path, &name);
        let (left_out, fit) =
            if ignore.is_empty() { (false, Fit::default()) } else { ignore.fit(&whole, above) };
        if left_out && !ignore.may_take_back(&whole) {
            continue;
        }
        let stat = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Gone meanwhile.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed("stat", &whole, errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut link = Vec::new();
        if kind == FileType::Symlink {
            link = match rustix::fs::readlinkat(&directory, &name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => continue, // gone, or no link any more
                other => other.map_err(|errno| failed("readlink", &whole, errno))?.into_bytes(),
            };
        }
        let before = entries.len();
        entries.push(Entry { path: whole.clone(), kind, stat, link });
        if kind == FileType::Directory {
            read(root, &whole, ignore, &fit, entries)?;
        }
        // A directory that is left out is there all the same where something in it is not.
        if left_out && entries.len() == before + 1 {
            entries.pop();
        }
    }
    Ok(())
}

/// By name, a directory's content right after it.
fn by_component(one: &[u8], other: &[u8]) -> std::cmp::Ordering {
    // A slash sorts before every other byte.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    one.iter().map(key).cmp(other.iter().map(key))
}

fn within(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || (path.starts_with(top) && matches!(path.get(top.len()), None | Some(b'/')))
}

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

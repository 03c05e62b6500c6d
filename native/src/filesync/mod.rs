//! A directory of a client's, received as fsutil sends it: what it has and what is wanted of it, and files as they come.
//!
//! ```text
//! client  STAT  STAT  STAT ...  STAT (empty: that was all)      in the order of a walk, numbered from 0
//! here           REQ 1    REQ 2 ...                             of regular files that are to be sent
//! client               DATA 1  DATA 1 (empty: its end)  DATA 2 ...
//! here    FIN     client  FIN
//! ```
//!
//! What the tree has already, from the last time, is not asked for again: what was told of it then is compared to what
//! is told now, byte by byte. A name is only ever made in a directory that was told of before, and nothing is
//! followed: a client that sends a symlink and then something below it is refused.
//!
//! Source: tonistiigi/fsutil send.go, receive.go, diskwriter.go.

mod disk;
mod packet;
mod records;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use disk::{kind_of, Disk, Kind};
use packet::{Packet, Stat};
use records::Records;

use crate::error::{Error, Result};

/// Bytes of one message, as `BuildKit` has it.
const MESSAGE: usize = 16 << 20;
/// Bytes of everything that is told, and how much that may be: what is known of each takes more than its packet.
const TOLD: usize = 256 << 20;
const ENTRIES: u32 = 4_000_000;
/// Files that may be on their way at once; fsutil sends a few.
const OPEN: usize = 128;
/// Nanoseconds before a tree was asked for, within which a file's time does not tell whether it has changed.
const SETTLED: i64 = 20_000_000;

#[derive(Debug)]
struct Told {
    kind: Kind,
    /// In what is told now.
    place: Range<usize>,
}

/// A file that was asked for.
#[derive(Debug)]
struct Wanted {
    place: Range<usize>,
    open: Option<std::os::fd::OwnedFd>,
    size: u64,
}

/// One directory on its way.
#[derive(Debug)]
pub struct Tree {
    disk: Disk,
    records_at: PathBuf,
    settled_before: i64,
    buffer: Vec<u8>,
    /// What it had, and where each of it is by path.
    had: Records,
    old: HashMap<Vec<u8>, Range<usize>>,
    /// What is told now, in its order and by path.
    told: Records,
    new: HashMap<Vec<u8>, Told>,
    count: u32,
    directories: Vec<(Vec<u8>, bool)>,
    links: Vec<(Range<usize>, bool)>,
    wanted: HashMap<u32, Wanted>,
    open: usize,
    walked: bool,
    finishing: bool,
    replaced: HashSet<Vec<u8>>,
    unsettled: HashSet<usize>,
    /// Of files that came.
    pub bytes: u64,
    /// Of all regular files that there are: what came, and what had come before; whatever is told of it.
    pub size: u64,
    /// What the client says that went wrong at its end.
    pub failure: Option<String>,
}

impl Tree {
    /// `target` is the tree, made where it is not there; `records` the file that says what it has, which is away while
    /// this goes on. A tree without is emptied.
    pub fn open(target: &str, records: &Path) -> Result<Self> {
        let had = Records::take(records);
        let disk = Disk::open(target, had.is_some())?;
        let had = had.unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        Ok(Self {
            disk,
            records_at: records.to_owned(),
            settled_before: now - SETTLED,
            buffer: vec![],
            old: had.by_path()?,
            had,
            told: Records::default(),
            new: HashMap::new(),
            count: 0,
            directories: vec![],
            links: vec![],
            wanted: HashMap::new(),
            open: 0,
            walked: false,
            finishing: false,
            replaced: HashSet::new(),
            unsettled: HashSet::new(),
            bytes: 0,
            size: 0,
            failure: None,
        })
    }

    /// Everything was told, and every file that was asked for has come.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.walked && self.wanted.is_empty()
    }

    /// Some bytes of the call, messages of gRPC: those to send for them.
    pub fn take(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend(data);
        let mut answer = vec![];
        let mut rest = &buffer[..];
        while let Some((head, body)) = rest.split_at_checked(5) {
            let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if size > MESSAGE || head[0] != 0 {
                return Err(Error::Invalid("a message is too large, or compressed".into()));
            }
            let Some((message, after)) = body.split_at_checked(size) else { break };
            self.packet(message, &mut answer)?;
            rest = after;
        }
        let taken = buffer.len() - rest.len();
        buffer.drain(..taken);
        self.buffer = buffer;
        if self.whole() && !self.finishing {
            self.finishing = true;
            packet::finished(&mut answer);
        }
        Ok(answer)
    }

    fn packet(&mut self, message: &[u8], answer: &mut Vec<u8>) -> Result<()> {
        match Packet::parse(message)? {
            Packet::Stat(None) => self.walked = true,
            Packet::Stat(Some(stat)) => {
                if self.entry(stat)? {
                    packet::request(answer, self.count);
                }
                self.count += 1;
            }
            Packet::Data(number, data) => self.data(number, data)?,
            Packet::Failed(text) => self.failure = Some(String::from_utf8_lossy(text).into_owned()),
            Packet::Other => {}
        }
        Ok(())
    }

    /// Make what is not a file's content; whether that is wanted.
    fn entry(&mut self, message: &[u8]) -> Result<bool> {
        if self.walked || self.count >= ENTRIES || self.told.len() + message.len() > TOLD {
            return Err(Error::Invalid("the build context has too many files".into()));
        }
        let stat = Stat::parse(message)?;
        let path = stat.path;
        self.check(path)?;
        let kind = kind_of(stat.mode);
        let place = self.told.add(message);
        let before = self.old.remove(path);
        let same = before.as_ref().is_some_and(|before| self.had.get(before) == message);
        self.new.insert(path.to_vec(), Told { kind, place: place.clone() });
        if kind == Kind::Directory {
            return self.directory(&stat, before.as_ref(), same);
        }
        if kind == Kind::Regular && !stat.link.is_empty() {
            let (parent, _) = split(stat.link);
            if !self.is_directory(parent) {
                return Err(invalid("link", stat.link));
            }
            self.links.push((place, same));
            return Ok(false);
        }
        if same {
            if kind == Kind::Regular {
                self.size = self.size.saturating_add(stat.size.unsigned_abs());
            }
            return Ok(false);
        }
        if before.is_some() {
            self.disk.remove(path)?;
        }
        self.replaced.insert(path.to_vec());
        if kind == Kind::Regular {
            if stat.modified >= self.settled_before {
                self.unsettled.insert(place.start);
            }
            if stat.size != 0 {
                self.wanted.insert(self.count, Wanted { place, open: None, size: 0 });
                return Ok(true);
            }
            let file = self.disk.create(path)?;
            disk::finish_file(&file, &stat)?;
        } else {
            self.disk.make(kind, &stat)?;
        }
        Ok(false)
    }

    fn directory(&mut self, stat: &Stat<'_>, before: Option<&Range<usize>>, same: bool) -> Result<bool> {
        let was_one = match before {
            Some(before) => kind_of(Stat::parse(self.had.get(before))?.mode) == Kind::Directory,
            None => false,
        };
        if !was_one {
            if before.is_some() {
                self.disk.remove(stat.path)?;
            }
            self.disk.make_directory(stat.path)?;
        }
        self.directories.push((stat.path.to_vec(), !same));
        Ok(false)
    }

    /// Raises `Invalid` for a path that leads out of the tree, or that was told already.
    fn check(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let sane = !matches!(name, b"" | b"." | b"..") && !path.contains(&0) && !path.starts_with(b"/");
        if sane && self.is_directory(parent) && !self.new.contains_key(path) {
            return Ok(());
        }
        Err(invalid("path", path))
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        path.is_empty() || self.new.get(path).is_some_and(|told| told.kind == Kind::Directory)
    }

    fn data(&mut self, number: u32, data: &[u8]) -> Result<()> {
        let Some(wanted) = self.wanted.get_mut(&number) else {
            return Err(Error::Invalid("the client has sent a file that was not asked for".into()));
        };
        let stat = Stat::parse(self.told.get(&wanted.place))?;
        if wanted.open.is_none() {
            if self.open >= OPEN {
                return Err(Error::Invalid("the client sends too many files at once".into()));
            }
            wanted.open = Some(self.disk.create(stat.path)?);
            self.open += 1;
        }
        let Some(file) = &wanted.open else { return Ok(()) };
        if !data.is_empty() {
            self.bytes += data.len() as u64;
            self.size = self.size.saturating_add(data.len() as u64);
            wanted.size += data.len() as u64;
            return disk::write(file, data, stat.path);
        }
        disk::finish_file(file, &stat)?;
        if wanted.size != stat.size as u64 {
            self.unsettled.insert(wanted.place.start); // it has grown meanwhile
        }
        self.wanted.remove(&number);
        self.open -= 1;
        Ok(())
    }

    /// Make hardlinks, remove what is there no more; directories get their modes and times, the deepest first. The tree
    /// is as the client's from now on, and recorded so.
    pub fn finish(&mut self) -> Result<()> {
        let gone: Vec<&Vec<u8>> = self
            .old
            .keys()
            .filter(|path| self.is_directory(split(path).0)) // else it went with what it was in
            .collect();
        for path in gone {
            self.disk.remove(path)?;
        }
        for (place, same) in &self.links {
            let stat = Stat::parse(self.told.get(place))?;
            if *same && !self.replaced.contains(stat.link) {
                continue;
            }
            self.disk.remove(stat.path)?;
            self.disk.link(stat.link, stat.path)?;
        }
        for (path, changed) in self.directories.iter().rev() {
            if *changed || self.disk.touched(path) {
                let told = &self.new[path];
                self.disk.finish_directory(&Stat::parse(self.told.get(&told.place))?)?;
            }
        }
        self.record()
    }

    fn record(&self) -> Result<()> {
        if self.unsettled.is_empty() {
            return self.told.write(&self.records_at);
        }
        let mut settled = Records::default();
        // Without their records they would stay where the client has them no more: what is told of them then differs.
        for told in self.new.values() {
            let message = self.told.get(&told.place);
            if self.unsettled.contains(&told.place.start) {
                let mut different = message.to_vec();
                different.extend(UNLIKE);
                settled.add(&different);
            } else {
                settled.add(message);
            }
        }
        settled.write(&self.records_at)
    }
}

/// A field that no client sends: what has it is like nothing that is told.
const UNLIKE: [u8; 3] = [0xf8, 0x7f, 1];

/// (the directory, the name in it).
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter()
        .rposition(|&byte| byte == b'/')
        .map_or((b"", path), |place| (&path[..place], &path[place + 1..]))
}

fn invalid(what: &str, path: &[u8]) -> Error {
    Error::Invalid(format!("invalid {what} {:?} in the build context", String::from_utf8_lossy(path)))
}

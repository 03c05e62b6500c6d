//! Digests of files that do not change: known by inode, size and times, kept from one build to the next.
//!
//! A file that was changed within the kernel's clock tick of being read may change again without its times
//! telling; such a digest is used and not kept, as git does with its index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::scan::Entry;
use crate::error::{Error, Result};
use crate::layer::tree::{failed, open_beneath};

const MAGIC: &[u8; 8] = b"proafd1\n";
/// Files that are remembered; past it all are forgotten.
const MAXIMUM: usize = 1 << 20;
/// Nanoseconds that a file must have been left alone before its digest is kept.
const SETTLED: i64 = 20_000_000;
const RECORD: usize = 16 + 8 + 8 + 8 + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    size: u64,
    changed: i64,
    modified: i64,
}

type Sha = [u8; 32];
/// With the place of each.
type Numbered = Vec<(usize, Sha)>;
/// By device and inode.
type Files = HashMap<(u64, u64), (State, Sha)>;

#[derive(Debug, Default)]
struct Known {
    files: Files,
    dirty: bool,
}

/// The digests of one daemon.
#[derive(Debug)]
pub struct FileDigests {
    path: PathBuf,
    known: Mutex<Known>,
}

impl FileDigests {
    /// Those that `path` has kept; a file that is missing or not ours has none.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let files = load(path).unwrap_or_default();
        Self { path: path.to_owned(), known: Mutex::new(Known { files, dirty: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of each regular file, in order; those not known are read, on all processors.
    pub fn of(&self, root: BorrowedFd<'_>, files: &[&Entry]) -> Result<Vec<[u8; 32]>> {
        let mut found: Vec<Option<[u8; 32]>> = {
            let known = self.lock();
            files.iter().map(|entry| look_up(&known, entry)).collect()
        };
        let missing: Vec<usize> = (0..files.len()).filter(|index| found[*index].is_none()).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let read = read_all(root, files, &missing)?;
        let mut known = self.lock();
        for (index, digest) in missing.into_iter().zip(read) {
            found[index] = Some(digest);
            let state = state(files[index]);
            if state.changed.max(state.modified) + SETTLED < now {
                if known.files.len() >= MAXIMUM {
                    known.files.clear();
                }
                known.files.insert(key(files[index]), (state, digest));
                known.dirty = true;
            }
        }
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Keep what was learnt for the next process.
    pub fn save(&self) -> Result<()> {
        let data = {
            let mut known = self.lock();
            if !known.dirty {
                return Ok(());
            }
            known.dirty = false;
            let mut data = Vec::with_capacity(MAGIC.len() + known.files.len() * RECORD);
            data.extend_from_slice(MAGIC);
            for ((device, inode), (state, digest)) in &known.files {
                data.extend_from_slice(&device.to_le_bytes());
                data.extend_from_slice(&inode.to_le_bytes());
                data.extend_from_slice(&state.size.to_le_bytes());
                data.extend_from_slice(&state.changed.to_le_bytes());
                data.extend_from_slice(&state.modified.to_le_bytes());
                data.extend_from_slice(digest);
            }
            data
        };
        let fresh = self.path.with_extension("new");
        let write = || {
            File::create(&fresh)?.write_all(&data)?;
            std::fs::rename(&fresh, &self.path)
        };
        write().map_err(|error| Error::os("write", self.path.display().to_string(), error))
    }
}

fn load(path: &Path) -> Option<Files> {
    let data = std::fs::read(path).ok()?;
    let records = data.strip_prefix(MAGIC)?;
    let number = |record: &[u8], at: usize| {
        record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    };
    records
        .chunks_exact(RECORD)
        .map(|record| {
            let state = State {
                size: number(record, 16)?,
                changed: number(record, 24)? as i64,
                modified: number(record, 32)? as i64,
            };
            let digest = record.get(40..)?.try_into().ok()?;
            Some(((number(record, 0)?, number(record, 8)?), (state, digest)))
        })
        .collect()
}

fn key(entry: &Entry) -> (u64, u64) {
    (entry.stat.st_dev, entry.stat.st_ino)
}

fn state(entry: &Entry) -> State {
    let stat = &entry.stat;
    State {
        size: stat.st_size as u64,
        changed: stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64,
        modified: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64,
    }
}

fn look_up(known: &Known, entry: &Entry) -> Option<[u8; 32]> {
    known.files.get(&key(entry)).filter(|(before, _)| *before == state(entry)).map(|(_, digest)| *digest)
}

fn read_all(root: BorrowedFd<'_>, files: &[&Entry], missing: &[usize]) -> Result<Vec<[u8; 32]>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len() / 64 + 1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; 256 << 10];
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(index) = missing.get(at) else { return Ok(done) };
            done.push((at, read(root, &files[*index].path, &mut buffer)?));
        }
    };
    let parts: Vec<Result<Numbered>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Invalid("a thread that digests files failed".into())))
        });
        std::iter::once(mine).chain(joined).collect()
    });
    let mut digests = vec![[0; 32]; missing.len()];
    for part in parts {
        for (at, digest) in part? {
            digests[at] = digest;
        }
    }
    Ok(digests)
}

fn read(root: BorrowedFd<'_>, path: &[u8], buffer: &mut [u8]) -> Result<[u8; 32]> {
    let opened = open_beneath(root.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let mut file = File::from(opened.map_err(|errno| failed("open", path, errno))?);
    let mut hasher = Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::os("read", String::from_utf8_lossy(path), error)),
        }
    }
}

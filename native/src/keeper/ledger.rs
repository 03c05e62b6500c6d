//! The ledger: exits that proad has not stored yet, kept across the death of both daemons.
//!
//! One append-only file of records `length u32 | crc32 u32 | MessagePack`, little endian. A record is
//! an exit or an acknowledgement; the file is emptied when every exit is acknowledged and rewritten when
//! acknowledged ones outweigh the rest. A torn or damaged tail ends the reading: what stood before counts.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use serde::{Deserialize, Serialize};

use super::protocol::Exit;
use crate::error::{Error, Result};

/// Rewrite the file when it is larger than this and mostly acknowledged.
const COMPACT_AT: u64 = 1 << 20;
/// No record is longer; a length beyond it is damage.
const RECORD_LIMIT: usize = 1 << 16;

/// An exit with what `welcome` tells of the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub exit: Exit,
    pub pid: u32,
    pub started_at_ns: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Exit(Entry),
    Acknowledged { id: String, exec_id: Option<String> },
}

#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    size: u64,
    entries: VecDeque<Entry>,
}

impl Ledger {
    /// Open the ledger, reading what an earlier keeper left.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::os("read ledger", path.to_string_lossy(), error)),
        };
        let mut ledger = Self { path: path.to_owned(), file: open(path)?, size: 0, entries: VecDeque::new() };
        let mut rest = bytes.as_slice();
        while let Some((record, after)) = decode(rest) {
            ledger.apply(record);
            rest = after;
        }
        ledger.size = (bytes.len() - rest.len()) as u64;
        if !rest.is_empty() || ledger.entries.is_empty() {
            ledger.rewrite();
        }
        Ok(ledger)
    }

    /// The exits not acknowledged, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Record an exit. A full disk leaves it in memory only.
    pub fn append(&mut self, entry: Entry) {
        self.write(&Record::Exit(entry.clone()));
        self.entries.push_back(entry);
    }

    /// Drop the oldest exit of this process; false where there is none.
    pub fn acknowledge(&mut self, id: &str, exec_id: Option<&str>) -> bool {
        let record = Record::Acknowledged { id: id.to_owned(), exec_id: exec_id.map(str::to_owned) };
        let Some(at) = self.position(id, exec_id) else { return false };
        self.entries.remove(at);
        if self.entries.is_empty() {
            self.truncate();
        } else {
            self.write(&record);
            if self.size > COMPACT_AT && self.size / 512 > self.entries.len() as u64 {
                self.rewrite();
            }
        }
        true
    }

    fn position(&self, id: &str, exec_id: Option<&str>) -> Option<usize> {
        self.entries.iter().position(|entry| entry.exit.id == id && entry.exit.exec_id.as_deref() == exec_id)
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Exit(entry) => self.entries.push_back(entry),
            Record::Acknowledged { id, exec_id } => {
                if let Some(at) = self.position(&id, exec_id.as_deref()) {
                    self.entries.remove(at);
                }
            }
        }
    }

    fn write(&mut self, record: &Record) {
        let bytes = encode(record);
        match self.file.write_all(&bytes) {
            Ok(()) => self.size += bytes.len() as u64,
            Err(error) => {
                report!("write ledger: {error}");
                // Ignored: a torn record would only end the next reading early.
                let _ = self.file.set_len(self.size);
            }
        }
    }

    fn truncate(&mut self) {
        match self.file.set_len(0) {
            Ok(()) => self.size = 0,
            Err(error) => report!("truncate ledger: {error}"),
        }
    }

    /// Write the pending exits to a new file and put it in place of the old one.
    fn rewrite(&mut self) {
        let fresh = self.path.with_extension("new");
        let bytes: Vec<u8> =
            self.entries.iter().flat_map(|entry| encode(&Record::Exit(entry.clone()))).collect();
        let written = fs::remove_file(&fresh)
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(|error| Error::os("remove", fresh.to_string_lossy(), error))
            .and_then(|()| open(&fresh))
            .and_then(|mut file| {
                file.write_all(&bytes)
                    .and_then(|()| fs::rename(&fresh, &self.path))
                    .map_err(|error| Error::os("rewrite ledger", self.path.to_string_lossy(), error))?;
                Ok(file)
            });
        match written {
            Ok(file) => (self.file, self.size) = (file, bytes.len() as u64),
            Err(error) => report!("{error}"),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::os("open ledger", path.to_string_lossy(), error))
}

fn encode(record: &Record) -> Vec<u8> {
    // Plain structs of strings and integers always encode.
    let body = rmp_serde::to_vec_named(record).unwrap_or_default();
    let mut crc = Crc::new();
    crc.update(&body);
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc.sum().to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > RECORD_LIMIT || rest.len() < length {
        return None;
    }
    let (body, rest) = rest.split_at(length);
    let mut crc = Crc::new();
    crc.update(body);
    if crc.sum() != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((rmp_serde::from_slice(body).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::protocol::ExitReason;

    fn entry(id: &str, exec_id: Option<&str>, code: i32) -> Entry {
        let exit = Exit {
            id: id.to_owned(),
            exec_id: exec_id.map(str::to_owned),
            code,
            reason: ExitReason::Exit,
            oom: false,
            finished_at_ns: 7,
        };
        Entry { exit, pid: 42, started_at_ns: 5 }
    }

    fn codes(ledger: &Ledger) -> Vec<i32> {
        ledger.entries().map(|entry| entry.exit.code).collect()
    }

    #[test]
    fn exits_survive_until_acknowledged() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::open(&path).expect("a ledger");
        ledger.append(entry("a", None, 1));
        ledger.append(entry("a", Some("e"), 2));
        ledger.append(entry("b", None, 3));
        assert!(ledger.acknowledge("a", None));
        assert!(!ledger.acknowledge("a", None));
        let mut ledger = Ledger::open(&path).expect("the ledger again");
        assert_eq!(codes(&ledger), [2, 3]);
        assert!(ledger.acknowledge("a", Some("e")) && ledger.acknowledge("b", None));
        assert_eq!(fs::metadata(&path).map(|found| found.len()).ok(), Some(0));
    }

    #[test]
    fn two_exits_of_one_container_are_acknowledged_one_by_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ledger = Ledger::open(&directory.path().join("ledger")).expect("a ledger");
        ledger.append(entry("a", None, 1));
        ledger.append(entry("a", None, 2));
        assert!(ledger.acknowledge("a", None));
        assert_eq!(codes(&ledger), [2]);
    }

    #[test]
    fn every_torn_tail_is_tolerated_and_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let first = encode(&Record::Exit(entry("a", None, 1)));
        let second = encode(&Record::Exit(entry("b", None, 2)));
        for cut in 0..second.len() {
            fs::write(&path, [&first[..], &second[..cut]].concat()).expect("a torn ledger");
            let mut ledger = Ledger::open(&path).expect("a ledger");
            assert_eq!(codes(&ledger), [1]);
            ledger.append(entry("c", None, 3));
            assert_eq!(codes(&Ledger::open(&path).expect("a ledger")), [1, 3]);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_reading() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let mut bytes = encode(&Record::Exit(entry("a", None, 1)));
        let at = bytes.len() - 3;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("a damaged ledger");
        assert!(codes(&Ledger::open(&path).expect("a ledger")).is_empty());
    }

    #[test]
    fn a_long_ledger_is_rewritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::open(&path).expect("a ledger");
        ledger.append(entry("stays", None, 0));
        for _ in 0..8000 {
            ledger.append(entry("goes", None, 1));
            ledger.acknowledge("goes", None);
        }
        assert!(fs::metadata(&path).is_ok_and(|found| found.len() <= COMPACT_AT));
        assert_eq!(codes(&Ledger::open(&path).expect("a ledger")), [0]);
    }
}

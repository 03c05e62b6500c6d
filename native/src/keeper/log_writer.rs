//! Writes one process's json-file log: lines, rotation by size.
//!
//! Owns the open log file. Lines are encoded one by one, and one [`LogWriter::write`] writes all of them with one
//! write(2). A full disk never stops a container: what cannot be written is counted and warned of once.
//! Source: Docker's `daemon/logger` (loggerutils/logfile.go).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::json_line::{write_line, Stream};
use crate::error::{Error, Result};
use crate::plan::Log;

/// Encoded bytes are written when they pass this, even within one append.
const BATCH: usize = 256 * 1024;

#[derive(Debug)]
pub struct LogWriter {
    file: File,
    log: Log,
    /// Bytes of the current file.
    size: u64,
    /// Bytes that could not be written.
    dropped: u64,
}

/// What a hand-over carries of a writer besides its file.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct FileState {
    path: String,
    max_size: u64,
    max_files: u32,
    dropped: u64,
}

impl LogWriter {
    /// Open (or go on with) the log at `log.path`.
    pub fn open(log: Log) -> Result<Self> {
        let (file, size) = open_file(&log.path, false)?;
        Ok(Self { file, log, size, dropped: 0 })
    }

    #[must_use]
    pub fn path(&self) -> &str {
        &self.log.path
    }

    /// Encode one entry into `scratch`, rotating first when the file is full.
    pub fn line(&mut self, text: &[u8], newline: bool, stream: Stream, time: &str, scratch: &mut Vec<u8>) {
        if self.log.max_size > 0 && self.size + scratch.len() as u64 >= self.log.max_size {
            self.write(scratch);
            if self.size >= self.log.max_size {
                self.rotate();
            }
        }
        write_line(scratch, text, newline, stream, time);
        if scratch.len() >= BATCH {
            self.write(scratch);
        }
    }

    /// Write out what is encoded. A short write (full disk) is cut back to whole lines.
    pub fn write(&mut self, scratch: &mut Vec<u8>) {
        let mut written = 0;
        while written < scratch.len() {
            match self.file.write(&scratch[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.report_drop(&error);
                    break;
                }
            }
        }
        if written < scratch.len() {
            let whole = scratch[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            self.dropped += (scratch.len() - whole) as u64;
            written = whole;
            // Ignored: a torn last line is skipped by every reader.
            let _ = self.file.set_len(self.size + whole as u64);
        }
        self.size += written as u64;
        scratch.clear();
        if scratch.capacity() > 2 * BATCH {
            scratch.shrink_to(BATCH);
        }
    }

    fn report_drop(&self, error: &std::io::Error) {
        if self.dropped == 0 {
            report!("log {}: {error}: output is being dropped from the log", self.log.path);
        }
    }

    /// `path` becomes `path.1`, and so on; with one file the old one is replaced.
    ///
    /// Errors leave the current file growing: better than losing output.
    fn rotate(&mut self) {
        let path = &self.log.path;
        let numbered = |number: u32| PathBuf::from(format!("{path}.{number}"));
        let moved = if self.log.max_files < 2 {
            fs::remove_file(path)
        } else {
            for number in (1..self.log.max_files - 1).rev() {
                // Missing files are the normal case until all have come about.
                let _ = fs::rename(numbered(number), numbered(number + 1));
            }
            fs::rename(path, numbered(1))
        };
        match moved.map_err(|error| Error::os("rotate log", path, error)).and_then(|()| open_file(path, true))
        {
            Ok((file, size)) => (self.file, self.size) = (file, size),
            Err(error) => report!("{error}"),
        }
    }

    /// The file and the rest of the state, for a hand-over.
    #[must_use]
    pub fn state(&self) -> (BorrowedFd<'_>, FileState) {
        let Log { path, max_size, max_files } = self.log.clone();
        (self.file.as_fd(), FileState { path, max_size, max_files, dropped: self.dropped })
    }

    /// Go on with a file that an older keeper had open.
    #[must_use]
    pub fn restore(file: OwnedFd, state: FileState) -> Self {
        let file = File::from(file);
        let size = file.metadata().map_or(0, |found| found.size());
        let log = Log { path: state.path, max_size: state.max_size, max_files: state.max_files };
        Self { file, log, size, dropped: state.dropped }
    }
}

fn open_file(path: &str, fresh: bool) -> Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    if fresh {
        options.create_new(true);
    }
    let file = options.open(path).map_err(|error| Error::os("open log", path, error))?;
    let size = file.metadata().map_err(|error| Error::os("stat log", path, error))?.size();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::json_line::Line;

    struct Fixture {
        directory: tempfile::TempDir,
        writer: LogWriter,
        scratch: Vec<u8>,
    }

    impl Fixture {
        fn new(max_size: u64, max_files: u32) -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let path = directory.path().join("log").to_string_lossy().into_owned();
            let writer = LogWriter::open(Log { path, max_size, max_files }).expect("a log");
            Self { directory, writer, scratch: Vec::new() }
        }

        fn append(&mut self, stream: Stream, bytes: &[u8]) {
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                self.writer.line(text, true, stream, "1970-01-01T00:00:00.000000001Z", &mut self.scratch);
            }
            self.writer.write(&mut self.scratch);
            assert!(self.scratch.is_empty());
        }

        fn entries(&self, name: &str) -> Vec<String> {
            let bytes = fs::read(self.directory.path().join(name)).unwrap_or_default();
            bytes
                .split_inclusive(|&byte| byte == b'\n')
                .map(|line| Line::decode(line).expect("a whole line").log.into_owned())
                .collect()
        }
    }

    #[test]
    fn a_full_log_rotates_and_the_oldest_goes() {
        let mut log = Fixture::new(200, 3);
        for number in 0..12 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let all: Vec<String> = ["log.2", "log.1", "log"].iter().flat_map(|name| log.entries(name)).collect();
        assert_eq!(all.last().map(String::as_str), Some("line 11\n"));
        assert_eq!(all, (12 - all.len()..12).map(|number| format!("line {number}\n")).collect::<Vec<_>>());
        assert!(!log.directory.path().join("log.3").exists());
        assert!(all.len() >= 6);
    }

    #[test]
    fn one_batch_may_rotate_several_times() {
        let mut log = Fixture::new(150, 100);
        let text = (0..20).fold(String::new(), |text, number| text + &format!("line {number}\n"));
        log.append(Stream::Stdout, text.as_bytes());
        assert_eq!(log.entries("log.9").len(), 2);
    }

    #[test]
    fn one_file_starts_anew() {
        let mut log = Fixture::new(150, 1);
        for number in 0..10 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        assert_eq!(log.entries("log"), ["line 8\n", "line 9\n"]);
        assert!(!log.directory.path().join("log.1").exists());
    }

    #[test]
    fn a_full_disk_drops_and_goes_on() {
        let mut log = Fixture::new(0, 1);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let good = std::mem::replace(&mut log.writer.file, full);
        log.append(Stream::Stdout, b"lost\n");
        assert!(log.writer.dropped > 0);
        log.writer.file = good;
        log.append(Stream::Stdout, b"kept\n");
        assert_eq!(log.entries("log"), ["kept\n"]);
    }
}

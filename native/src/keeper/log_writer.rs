//! Writes one process's json-file log: lines, 16 KiB partials, rotation by size.
//!
//! Owns the open log file and the unfinished line of each stream. One call of [`LogWriter::append`]
//! costs one write(2), however many lines it carries. A full disk never stops a container: what
//! cannot be written is counted and warned of once.
//! Source: Docker's `daemon/logger` (copier.go, loggerutils/logfile.go).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::json_line::{format_time, write_line, Stream};
use crate::error::{Error, Result};
use crate::plan::Log;

/// A longer line is logged in pieces of this size, all but the last without a newline.
pub const PARTIAL: usize = 16 * 1024;
/// Encoded bytes are written when they pass this, even within one append.
const BATCH: usize = 256 * 1024;

#[derive(Debug)]
pub struct LogWriter {
    file: File,
    log: Log,
    /// Bytes of the current file.
    size: u64,
    /// The unfinished line of stdout and of stderr.
    unfinished: [Vec<u8>; 2],
    /// Bytes that could not be written.
    dropped: u64,
}

/// What a hand-over carries of a writer besides its file.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct LogState {
    pub path: String,
    pub max_size: u64,
    pub max_files: u32,
    pub stdout: serde_bytes::ByteBuf,
    pub stderr: serde_bytes::ByteBuf,
    pub dropped: u64,
}

impl LogWriter {
    /// Open (or go on with) the log at `log.path`.
    pub fn open(log: Log) -> Result<Self> {
        let (file, size) = open_file(&log.path, false)?;
        Ok(Self { file, log, size, unfinished: [Vec::new(), Vec::new()], dropped: 0 })
    }

    /// Log what was read from `stream` at `time_ns`. `scratch` is a shared buffer, empty before and after.
    pub fn append(&mut self, stream: Stream, mut bytes: &[u8], time_ns: u64, scratch: &mut Vec<u8>) {
        let time = format_time(time_ns);
        let mut unfinished = std::mem::take(&mut self.unfinished[stream.index()]);
        while !bytes.is_empty() {
            let room = PARTIAL - unfinished.len();
            let window = &bytes[..bytes.len().min(room)];
            let (piece, newline) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (&window[..at], true),
                None => (window, false),
            };
            bytes = &bytes[piece.len() + usize::from(newline)..];
            if !newline && piece.len() < room {
                unfinished.extend_from_slice(piece);
                break;
            }
            if unfinished.is_empty() {
                self.line(piece, newline, stream, &time, scratch);
            } else {
                unfinished.extend_from_slice(piece);
                self.line(&unfinished, newline, stream, &time, scratch);
                unfinished.clear();
            }
        }
        if unfinished.is_empty() {
            unfinished = Vec::new();
        }
        self.unfinished[stream.index()] = unfinished;
        self.write(scratch);
    }

    /// The stream has ended: log its unfinished line, without a newline.
    pub fn finish(&mut self, stream: Stream, time_ns: u64, scratch: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.unfinished[stream.index()]);
        if !rest.is_empty() {
            self.line(&rest, false, stream, &format_time(time_ns), scratch);
            self.write(scratch);
        }
    }

    /// The unfinished line of a stream: output that is not in the file yet.
    #[must_use]
    pub fn unfinished(&self, stream: Stream) -> &[u8] {
        &self.unfinished[stream.index()]
    }

    #[must_use]
    pub fn path(&self) -> &str {
        &self.log.path
    }

    /// Encode one entry, rotating first when the file is full.
    fn line(&mut self, text: &[u8], newline: bool, stream: Stream, time: &str, scratch: &mut Vec<u8>) {
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
    fn write(&mut self, scratch: &mut Vec<u8>) {
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
    pub fn state(&self) -> (BorrowedFd<'_>, LogState) {
        let [stdout, stderr] = &self.unfinished;
        let state = LogState {
            path: self.log.path.clone(),
            max_size: self.log.max_size,
            max_files: self.log.max_files,
            stdout: serde_bytes::ByteBuf::from(stdout.clone()),
            stderr: serde_bytes::ByteBuf::from(stderr.clone()),
            dropped: self.dropped,
        };
        (self.file.as_fd(), state)
    }

    /// Go on with a file that an older keeper had open.
    #[must_use]
    pub fn restore(file: OwnedFd, state: LogState) -> Self {
        let file = File::from(file);
        let size = file.metadata().map_or(0, |found| found.size());
        let log = Log { path: state.path, max_size: state.max_size, max_files: state.max_files };
        let unfinished = [state.stdout.into_vec(), state.stderr.into_vec()];
        Self { file, log, size, unfinished, dropped: state.dropped }
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
            self.writer.append(stream, bytes, 1, &mut self.scratch);
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
    fn lines_split_over_reads_are_joined_and_the_rest_ends_without_newline() {
        let mut log = Fixture::new(0, 1);
        log.append(Stream::Stdout, b"one\ntw");
        log.append(Stream::Stderr, b"error\n");
        log.append(Stream::Stdout, b"o\n\nthree");
        assert_eq!(log.writer.unfinished(Stream::Stdout), b"three");
        log.writer.finish(Stream::Stdout, 1, &mut log.scratch);
        assert_eq!(log.entries("log"), ["one\n", "error\n", "two\n", "\n", "three"]);
    }

    #[test]
    fn long_lines_come_in_pieces_of_16_kib() {
        let mut log = Fixture::new(0, 1);
        let mut text = vec![b'x'; 2 * PARTIAL + 5];
        text.push(b'\n');
        for chunk in text.chunks(5000) {
            log.append(Stream::Stdout, chunk);
        }
        let lengths: Vec<usize> = log.entries("log").iter().map(String::len).collect();
        assert_eq!(lengths, [PARTIAL, PARTIAL, 6]);
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

    #[test]
    fn state_survives_a_hand_over() {
        let mut log = Fixture::new(0, 1);
        log.append(Stream::Stdout, b"a\nb");
        let (file, state) = log.writer.state();
        let file = file.try_clone_to_owned().expect("a duplicate");
        log.writer = LogWriter::restore(file, state);
        log.append(Stream::Stdout, b"c\n");
        assert_eq!(log.entries("log"), ["a\n", "bc\n"]);
    }
}

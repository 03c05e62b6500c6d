//! Reads a json-file log and its rotated files, oldest first; follows it across rotations.
//!
//! Holds the files open, so a rotation in the middle of a reading loses nothing. Filters and formats:
//! what comes out is ready for the wire. Never writes and never blocks.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::json_line::{format_time_fixed, frame_header, Line};
use super::log_watch::Watch;
use crate::error::{Error, Result};

const BLOCK: usize = 64 * 1024;
/// No log has more files.
const FILES_LIMIT: u32 = 1000;

/// What of the log is wanted, and in which form.
#[derive(Debug, Clone)]
pub struct Query {
    pub stdout: bool,
    pub stderr: bool,
    /// Unix nanoseconds, 0 for unset; both inclusive.
    pub since_ns: u64,
    pub until_ns: u64,
    /// Entries counted from the end, before any filter, as Docker does; negative for all.
    pub tail: i64,
    /// Prefix each entry with its time.
    pub timestamps: bool,
    /// What comes before each entry, after its time.
    pub details: String,
    /// 8-byte stream headers.
    pub multiplexed: bool,
    pub follow: bool,
}

impl Query {
    /// All of both streams, as an attached client sees it.
    #[must_use]
    pub fn all(stdout: bool, stderr: bool, multiplexed: bool) -> Self {
        let (since_ns, until_ns, tail, details) = (0, 0, -1, String::new());
        Self {
            stdout,
            stderr,
            since_ns,
            until_ns,
            tail,
            timestamps: false,
            details,
            multiplexed,
            follow: false,
        }
    }
}

/// One file of the log.
#[derive(Debug)]
struct Piece {
    file: File,
    position: u64,
    /// Where reading ends; `None` for a file that is followed.
    end: Option<u64>,
}

#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    query: Query,
    /// Oldest first.
    pieces: VecDeque<Piece>,
    /// Bytes read and not decoded: at most a block and one line.
    undecoded: Vec<u8>,
    watch: Option<Watch>,
    /// An entry past `until_ns` was seen.
    done: bool,
}

impl LogReader {
    /// A log that does not exist (yet) is empty.
    pub fn open(path: impl Into<PathBuf>, query: Query) -> Result<Self> {
        let path = path.into();
        let directory = path.parent().unwrap_or(Path::new("/"));
        let watch = if query.follow { Some(Watch::new(directory)?) } else { None };
        let mut reader =
            Self { path, query, pieces: VecDeque::new(), undecoded: Vec::new(), watch, done: false };
        reader.collect()?;
        if reader.query.tail >= 0 {
            reader.seek_tail()?;
        }
        Ok(reader)
    }

    /// Readable when there may be more; only when following.
    #[must_use]
    pub fn notifier(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Watch::notifier)
    }

    /// About `limit` bytes ready for the wire; empty at the end of what is there now.
    pub fn read(&mut self, limit: usize) -> Result<Vec<u8>> {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let mut out = Vec::new();
        while out.len() < limit && !self.done {
            if !self.decode(&mut out, limit) && !self.fill()? {
                break;
            }
        }
        Ok(out)
    }

    /// Open the current file and then the older ones, so that a rotation in between only repeats one.
    fn collect(&mut self) -> Result<()> {
        let (mut newer, mut missing) = (None, false);
        for number in 0..FILES_LIMIT {
            let Some(file) = open(&self.numbered(number))? else {
                // While the log is rotated, one number at a time is missing.
                if std::mem::replace(&mut missing, true) {
                    break;
                }
                continue;
            };
            missing = false;
            let found = file.metadata().map_err(|error| self.failed("stat", error))?;
            if newer == Some(found.ino()) {
                continue;
            }
            newer = Some(found.ino());
            let modified_ns = (found.mtime() * 1_000_000_000 + found.mtime_nsec()) as u64;
            if number > 0 && modified_ns < self.query.since_ns {
                break;
            }
            let end = if self.query.follow { None } else { Some(found.size()) };
            self.pieces.push_front(Piece { file, position: 0, end });
        }
        Ok(())
    }

    /// Drop all but the last `tail` entries.
    fn seek_tail(&mut self) -> Result<()> {
        let mut missing = self.query.tail as u64;
        let mut block = vec![0; BLOCK];
        for index in (0..self.pieces.len()).rev() {
            let piece = &self.pieces[index];
            let size = piece.file.metadata().map_err(|error| self.failed("stat", error))?.size();
            let end = piece.end.unwrap_or(size);
            let position = tail_position(&piece.file, end, &mut missing, &mut block)
                .map_err(|error| self.failed("read", error))?;
            if let Some(position) = position {
                self.pieces.drain(..index);
                self.pieces[0].position = position;
                break;
            }
        }
        Ok(())
    }

    /// Decode whole lines until `out` is full; true if it is, false if more input is needed.
    fn decode(&mut self, out: &mut Vec<u8>, limit: usize) -> bool {
        let mut at = 0;
        while out.len() < limit {
            let Some(length) = self.undecoded[at..].iter().position(|&byte| byte == b'\n') else { break };
            let line = &self.undecoded[at..=at + length];
            at += length + 1;
            // A damaged line (torn by a crash) is skipped.
            let Some(line) = Line::decode(line) else { continue };
            let needs_time = self.query.timestamps || self.query.since_ns > 0 || self.query.until_ns > 0;
            let time_ns = if needs_time { line.time_ns() } else { 0 };
            if self.query.until_ns > 0 && time_ns > self.query.until_ns {
                self.done = true;
                break;
            }
            if time_ns >= self.query.since_ns {
                self.query.format(&line, time_ns, out);
            }
        }
        self.undecoded.drain(..at);
        out.len() >= limit || self.done
    }

    /// Read on; false when there is nothing more for now.
    fn fill(&mut self) -> Result<bool> {
        loop {
            let Some(piece) = self.pieces.front_mut() else {
                return Ok(self.query.follow && self.follow_on(None)?);
            };
            let wanted =
                piece.end.map_or(BLOCK as u64, |end| end.saturating_sub(piece.position).min(BLOCK as u64));
            let start = self.undecoded.len();
            self.undecoded.resize(start + wanted as usize, 0);
            let count = piece.file.read_at(&mut self.undecoded[start..], piece.position);
            let count = count.map_err(|error| Error::os("read log", self.path.to_string_lossy(), error))?;
            self.undecoded.truncate(start + count);
            piece.position += count as u64;
            if count > 0 {
                return Ok(true);
            }
            if self.pieces.len() == 1 {
                if !self.query.follow || !self.follow_on(Some(0))? {
                    return Ok(false);
                }
                continue;
            }
            self.next_piece();
        }
    }

    /// The front file is read to its end; a torn last line goes with it.
    fn next_piece(&mut self) {
        self.pieces.pop_front();
        self.undecoded.clear();
    }

    /// At the end of the newest known file: has it been rotated away? Queue what came after it.
    fn follow_on(&mut self, held: Option<usize>) -> Result<bool> {
        let held = match held.and_then(|at| self.pieces.get(at)) {
            Some(piece) => {
                let found = piece.file.metadata().map_err(|error| self.failed("stat", error))?;
                if found.size() > piece.position {
                    // It grew since; with the rename later than that, nothing is missed.
                    return Ok(true);
                }
                Some((found.dev(), found.ino()))
            }
            None => None,
        };
        let (mut newer, mut missing) = (VecDeque::new(), false);
        for number in 0..FILES_LIMIT {
            let Some(file) = open(&self.numbered(number))? else {
                if std::mem::replace(&mut missing, true) {
                    break;
                }
                continue;
            };
            missing = false;
            let found = file.metadata().map_err(|error| self.failed("stat", error))?;
            if held == Some((found.dev(), found.ino())) {
                break;
            }
            newer.push_front(Piece { file, position: 0, end: None });
        }
        let found = !newer.is_empty();
        self.pieces.append(&mut newer);
        Ok(found)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }

    fn failed(&self, operation: &str, error: std::io::Error) -> Error {
        Error::os(format!("{operation} log"), self.path.to_string_lossy(), error)
    }
}

impl Query {
    fn format(&self, line: &Line<'_>, time_ns: u64, out: &mut Vec<u8>) {
        let stream = line.stream();
        if ![self.stdout, self.stderr][stream.index()] {
            return;
        }
        let mut prefix = String::new();
        if self.timestamps {
            prefix = format!("{} ", format_time_fixed(time_ns));
        }
        prefix.push_str(&self.details);
        if self.multiplexed {
            out.extend_from_slice(&frame_header(stream, prefix.len() + line.log.len()));
        }
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(line.log.as_bytes());
    }
}

/// Where the last `missing` lines of the first `end` bytes begin; `None` (and fewer missing) when there are not so many.
fn tail_position(file: &File, end: u64, missing: &mut u64, block: &mut [u8]) -> std::io::Result<Option<u64>> {
    if *missing == 0 {
        return Ok(Some(end));
    }
    // The newline that ends the last line does not start another.
    let mut to = end.saturating_sub(1);
    let mut lines = u64::from(end > 0);
    while to > 0 {
        let from = to.saturating_sub(block.len() as u64);
        let part = &mut block[..(to - from) as usize];
        file.read_exact_at(part, from)?;
        for at in (0..part.len()).rev() {
            if part[at] == b'\n' {
                if lines == *missing {
                    return Ok(Some(from + at as u64 + 1));
                }
                lines += 1;
            }
        }
        to = from;
    }
    if lines >= *missing {
        return Ok(Some(0));
    }
    *missing -= lines;
    Ok(None)
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::os("open log", path.to_string_lossy(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::json_line::Stream;
    use crate::keeper::log::Log;
    use crate::keeper::log_writer::LogWriter;
    use crate::plan;

    struct Fixture {
        directory: tempfile::TempDir,
        log: Log,
        time_ns: u64,
    }

    impl Fixture {
        fn new(max_size: u64) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("log").to_string_lossy().into_owned();
            let writer = LogWriter::open(plan::Log { path, max_size, max_files: 4 }).expect("a file");
            let log = Log::new(Some(writer), None).expect("a log");
            Self { directory, log, time_ns: 1_000_000_000 }
        }

        fn write(&mut self, stream: Stream, text: &str) {
            self.time_ns += 1_000_000_000;
            self.log.append(stream, text.as_bytes(), self.time_ns, &mut Vec::new());
        }

        fn reader(&self, adapt: impl FnOnce(&mut Query)) -> LogReader {
            let mut query = Query::all(true, true, false);
            adapt(&mut query);
            LogReader::open(self.directory.path().join("log"), query).expect("a reader")
        }

        fn read(&self, adapt: impl FnOnce(&mut Query)) -> String {
            text(&mut self.reader(adapt))
        }
    }

    fn text(reader: &mut LogReader) -> String {
        let mut all = Vec::new();
        loop {
            let chunk = reader.read(7).expect("a readable log");
            if chunk.is_empty() {
                return String::from_utf8(all).expect("text");
            }
            all.extend(chunk);
        }
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.fold(String::new(), |text, number| text + &format!("line {number}\n"))
    }

    #[test]
    fn rotated_files_are_read_in_order() {
        let mut log = Fixture::new(200);
        for number in 0..8 {
            log.write(Stream::Stdout, &format!("line {number}\n"));
        }
        assert!(log.directory.path().join("log.1").exists());
        assert_eq!(log.read(|_| {}), lines(0..8));
    }

    #[test]
    fn tail_counts_from_the_end_over_all_files() {
        let mut log = Fixture::new(200);
        for number in 0..8 {
            log.write(Stream::Stdout, &format!("line {number}\n"));
        }
        for tail in 0..=8_u32 {
            assert_eq!(log.read(|query| query.tail = i64::from(tail)), lines(8 - tail..8), "tail {tail}");
        }
        assert_eq!(log.read(|query| query.tail = 100), lines(0..8));
    }

    #[test]
    fn streams_and_times_filter() {
        let mut log = Fixture::new(0);
        log.write(Stream::Stdout, "two\n");
        log.write(Stream::Stderr, "three\n");
        log.write(Stream::Stdout, "four\n");
        assert_eq!(log.read(|query| query.stdout = false), "three\n");
        assert_eq!(log.read(|query| query.since_ns = 3_000_000_000), "three\nfour\n");
        assert_eq!(log.read(|query| query.until_ns = 3_000_000_000), "two\nthree\n");
        assert_eq!(
            log.read(|query| (query.timestamps, query.tail) = (true, 1)),
            "1970-01-01T00:00:04.000000000Z four\n"
        );
        assert_eq!(
            log.read(|query| (query.multiplexed, query.tail) = (true, 1)),
            "\x01\0\0\0\0\0\0\x05four\n"
        );
        let detailed = |query: &mut Query| (query.details, query.tail) = ("a=b ".into(), 1);
        assert_eq!(log.read(detailed), "a=b four\n");
        assert_eq!(
            log.read(|query| (detailed(query), query.timestamps = true).1),
            "1970-01-01T00:00:04.000000000Z a=b four\n"
        );
    }

    #[test]
    fn a_reader_without_follow_ends_where_the_log_ended() {
        let mut log = Fixture::new(0);
        log.write(Stream::Stdout, "one\n");
        let mut reader = log.reader(|_| {});
        log.write(Stream::Stdout, "two\n");
        assert_eq!(text(&mut reader), "one\n");
    }

    #[test]
    fn following_loses_nothing_over_rotations() {
        let mut log = Fixture::new(200);
        let mut reader = log.reader(|query| query.follow = true);
        let mut seen = String::new();
        for number in 0..30 {
            log.write(Stream::Stdout, &format!("line {number}\n"));
            if number % 5 == 0 {
                seen += &text(&mut reader);
            }
        }
        seen += &text(&mut reader);
        assert_eq!(seen, lines(0..30));
    }

    #[test]
    fn a_rotation_half_way_hides_no_older_file() {
        let mut log = Fixture::new(200);
        (0..8).for_each(|number| log.write(Stream::Stdout, &format!("line {number}\n")));
        let all = log.read(|_| {});
        for (from, to) in [("log.2", "log.3"), ("log.1", "log.2")] {
            let path = |name: &str| log.directory.path().join(name);
            std::fs::rename(path(from), path(to)).expect("renamed");
            assert_eq!(log.read(|_| {}), all, "{from} is on its way");
        }
    }

    #[test]
    fn following_notices_a_write() {
        let mut log = Fixture::new(0);
        let mut reader = log.reader(|query| (query.follow, query.tail) = (true, 0));
        assert_eq!(text(&mut reader), "");
        log.write(Stream::Stdout, "new\n");
        let notifier = reader.notifier().expect("a notifier").try_clone_to_owned().expect("a duplicate");
        let mut fds = [rustix::event::PollFd::new(&notifier, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
        assert_eq!(text(&mut reader), "new\n");
    }

    #[test]
    fn torn_and_missing_logs_are_no_errors() {
        let log = Fixture::new(0);
        let path = log.directory.path().join("log");
        std::fs::write(
            &path,
            "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"\"}\ngarbage\n{\"log\":\"b",
        )
        .expect("a log");
        assert_eq!(log.read(|_| {}), "a\n");
        std::fs::remove_file(path).expect("a log to remove");
        assert_eq!(log.read(|_| {}), "");
    }
}

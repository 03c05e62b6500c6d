//! Streams with pipes in place of a process and socket pairs in place of clients.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{ioctl_fionbio, read, write};
use rustix::net::{shutdown, socketpair, AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::{fcntl_setpipe_size, pipe_with, PipeFlags};
use serde_bytes::ByteBuf;

use super::*;
use crate::keeper::client::CONGESTED;
use crate::keeper::log_writer::LogWriter;
use crate::keeper::protocol::Attach;
use crate::keeper::ship::tests::shipping_to_journal;
use crate::keeper::ship::Ship;
use crate::plan;

fn file_log(path: &str) -> Option<Log> {
    let log = plan::Log { path: path.to_owned(), max_size: 0, max_files: 1 };
    Log::new(LogWriter::open(log).ok(), None)
}

/// A process that has ended with so many lines in its pipe, and whose log is shipped to where nobody listens.
fn flooding(path: &str, lines: usize) -> Fixture {
    let mut process = Fixture::running(false);
    let log = plan::Log { path: path.to_owned(), max_size: 0, max_files: 1 };
    let registration = process.poll.registration(Source::Process(7, Part::Ship));
    let ship = Ship::new(shipping_to_journal(), None, registration, 0);
    process.stdio.set_log(Log::new(LogWriter::open(log).ok(), Some(ship)));
    let (stdout, _) = (process.stdout.take().expect("stdout"), process.stderr.take());
    fcntl_setpipe_size(&stdout, 2 * lines).expect("a larger pipe");
    assert_eq!(write(&stdout, "a\n".repeat(lines).as_bytes()), Ok(2 * lines));
    process
}

fn lines_of(path: &str) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// A process, seen from the other ends of its pipes.
struct Fixture {
    poll: Poll,
    stdio: Stdio,
    scratch: Scratch,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Fixture {
    fn waiting() -> Self {
        let poll = Poll::new().expect("epoll");
        Self { poll, stdio: Stdio::new(7), scratch: Scratch::new(), stdin: None, stdout: None, stderr: None }
    }

    fn running(stdin_once: bool) -> Self {
        let mut fixture = Self::waiting();
        fixture.start(stdin_once);
        fixture
    }

    fn start(&mut self, stdin_once: bool) {
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        let ((stdin, ours), (out, stdout), (err, stderr)) = (pipe(), pipe(), pipe());
        (self.stdin, self.stdout, self.stderr) = (Some(stdin), Some(stdout), Some(stderr));
        self.stdio.open_pipes(&self.poll, Some(ours), [out, err], stdin_once);
    }

    fn attach(&mut self, adapt: impl FnOnce(&mut Attach)) -> OwnedFd {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("sockets");
        ioctl_fionbio(&theirs, true).expect("a socket that does not block");
        let mut request = Attach {
            seq: 0,
            id: String::new(),
            exec_id: None,
            stdin: true,
            stdout: true,
            stderr: true,
            logs: false,
            stream: true,
            multiplexed: false,
            detach_keys: ByteBuf::new(),
            preface: ByteBuf::new(),
            initial_input: ByteBuf::new(),
        };
        adapt(&mut request);
        let number = self.stdio.client_number();
        self.stdio.attach(Client::new(&self.poll, 7, number, ours, request));
        theirs
    }

    /// Handle what is ready until nothing is.
    fn turn(&mut self) {
        let mut events = Vec::new();
        for _ in 0..1000 {
            self.poll.wait(Some(0), &mut events);
            if events.is_empty() {
                return;
            }
            for (source, flags) in events.drain(..) {
                match source {
                    Source::Process(7, part) => self.stdio.on_ready(part, flags, 1, &mut self.scratch),
                    Source::Client(7, number) => self.stdio.on_client(number, flags, &mut self.scratch),
                    other => panic!("an event for {other:?}"),
                }
            }
        }
        panic!("the loop spins");
    }

    fn print(&mut self, text: &[u8]) {
        write(self.stdout.as_ref().expect("an open stdout"), text).expect("room in the pipe");
        self.turn();
    }
}

fn received(fd: impl AsFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = read(fd.as_fd(), &mut buffer) {
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

fn at_end(fd: impl AsFd) -> bool {
    read(fd, &mut [0_u8; 1]) == Ok(0)
}

#[test]
fn a_client_that_waits_misses_no_byte() {
    let mut process = Fixture::waiting();
    let client = process.attach(|request| {
        request.preface = ByteBuf::from(b"HTTP/1.1 101\r\n\r\n".to_vec());
        request.initial_input = ByteBuf::from(b"typed".to_vec());
        request.multiplexed = true;
    });
    assert_eq!(received(&client), b"HTTP/1.1 101\r\n\r\n");
    process.start(true);
    process.print(b"one");
    write(process.stderr.as_ref().expect("stderr"), b"two").expect("room in the pipe");
    process.turn();
    assert_eq!(received(&client), b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x03two");
    assert_eq!(received(process.stdin.as_ref().expect("stdin")), b"typed");
}

#[test]
fn output_does_not_come_together_with_the_answer_before_it() {
    let mut process = Fixture::waiting();
    let answer = [b"HTTP/1.1 101\r\n".as_slice(), &[b'x'; 256]].concat();
    let attach = |request: &mut Attach| request.preface = ByteBuf::from(answer.clone());
    let (client, other) = (process.attach(attach), process.attach(attach));
    assert_eq!(received(&other), answer);
    process.start(true);
    process.print(b"one");
    assert_eq!(received(&client), answer);
    assert_eq!(received(&other), b"one");
    process.turn();
    assert_eq!(received(&client), b"one");
    // From then on it is as any other; the end of the output waits in the same way.
    let late = process.attach(attach);
    process.print(b"two");
    assert_eq!((received(&client), received(&other)), (b"two".to_vec(), b"two".to_vec()));
    drop(process.stdout.take());
    drop(process.stderr.take());
    process.turn();
    assert_eq!(received(&late), answer);
    process.turn();
    assert_eq!(received(&late), b"two");
}

#[test]
fn half_close_ends_stdin_and_output_goes_on() {
    let mut process = Fixture::running(true);
    let client = process.attach(|_| {});
    write(&client, b"all").expect("room");
    shutdown(&client, Shutdown::Write).expect("a half-close");
    process.turn();
    let stdin = process.stdin.take().expect("stdin");
    assert_eq!(received(&stdin), b"all");
    assert!(at_end(&stdin));
    process.print(b"answer");
    assert_eq!(received(&client), b"answer");
}

#[test]
fn without_stdin_once_the_end_of_input_ends_neither_the_process_s_input_nor_the_output() {
    let mut process = Fixture::running(false);
    let client = process.attach(|_| {});
    shutdown(&client, Shutdown::Write).expect("a half-close");
    process.turn();
    process.print(b"answer");
    assert_eq!(received(&client), b"answer");
    assert_eq!(read(process.stdin.as_ref().expect("stdin"), &mut [0_u8; 1]), Err(Errno::AGAIN));
}

#[test]
fn a_client_without_stdin_may_half_close() {
    let mut process = Fixture::running(true);
    let client = process.attach(|request| request.stdin = false);
    shutdown(&client, Shutdown::Write).expect("a half-close");
    process.print(b"still here");
    assert_eq!(received(&client), b"still here");
}

#[test]
fn input_of_any_size_waits_for_the_process() {
    let mut process = Fixture::running(true);
    let client = process.attach(|_| {});
    let input: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let (mut sent, mut taken) = (0, Vec::new());
    while taken.len() < input.len() {
        if let Ok(count) = write(&client, &input[sent..]) {
            sent += count;
        }
        process.turn();
        // The pipe and one read: nothing else is held.
        assert!(process.stdio.input.len() <= READ_SIZE);
        taken.extend(received(process.stdin.as_ref().expect("stdin")));
    }
    assert!(taken == input);
}

#[test]
fn a_slow_client_stops_its_process_and_only_until_it_reads() {
    let mut process = Fixture::running(true);
    let slow = process.attach(|_| {});
    let chunk = vec![b'x'; 65536];
    let mut printed = 0;
    while let Ok(count) = write(process.stdout.as_ref().expect("stdout"), &chunk) {
        printed += count;
        process.turn();
        assert!(printed < 16 * CONGESTED, "the process never waits");
    }
    process.stdout = None;
    let mut seen = 0;
    while process.stdio.output(Stream::Stdout).is_some() || seen < printed {
        seen += received(&slow).len();
        process.turn();
    }
    assert_eq!(seen, printed);
}

#[test]
fn a_client_that_goes_is_dropped_and_the_process_goes_on() {
    let mut process = Fixture::running(false);
    let client = process.attach(|_| {});
    drop(client);
    process.turn();
    assert!(!process.stdio.is_needed());
    process.print(b"nobody listens");
}

#[test]
fn the_last_output_reaches_log_and_client_before_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log").to_string_lossy().into_owned();
    let mut process = Fixture::running(true);
    process.stdio.set_log(file_log(&path));
    let client = process.attach(|_| {});
    process.print(b"first\n");
    write(process.stdout.as_ref().expect("stdout"), b"last").expect("room");
    (process.stdout, process.stderr) = (None, None);
    process.stdio.drain(1, &mut process.scratch);
    assert!(process.stdio.outputs_ended());
    process.stdio.finish(1, &mut process.scratch);
    assert_eq!(received(&client), b"first\nlast");
    assert!(at_end(&client));
    let log = std::fs::read_to_string(&path).expect("a log");
    assert!(log.contains("\"log\":\"first\\n\"") && log.contains("\"log\":\"last\""), "{log}");
    drop(client);
    process.turn();
    assert!(!process.stdio.is_needed());
}

#[test]
fn a_client_that_goes_with_output_on_its_way_is_dropped() {
    let mut process = Fixture::running(true);
    let client = process.attach(|_| {});
    let chunk = vec![b'x'; 65536];
    while process.stdio.output(Stream::Stdout).is_some_and(|_| !process.stdio.congested(Stream::Stdout)) {
        // A full pipe is read in the turn.
        let _ = write(process.stdout.as_ref().expect("stdout"), &chunk);
        process.turn();
    }
    process.stdio.finish(1, &mut process.scratch);
    process.turn();
    assert!(process.stdio.is_needed());
    drop(client);
    process.turn();
    assert!(!process.stdio.is_needed());
}

#[test]
fn logs_come_before_live_output_the_unfinished_line_included() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log").to_string_lossy().into_owned();
    let mut process = Fixture::running(true);
    process.stdio.set_log(file_log(&path));
    process.print(b"old\nhalf");
    let client = process.attach(|request| request.logs = true);
    process.print(b" line\n");
    assert_eq!(received(&client), b"old\nhalf line\n");
    let snapshot = process.attach(|request| (request.logs, request.stream) = (true, false));
    process.turn();
    assert_eq!(received(&snapshot), b"old\nhalf line\n");
    assert!(at_end(&snapshot));
}

#[test]
fn detach_keys_leave_the_process_alone() {
    let mut process = Fixture::running(true);
    let client = process.attach(|request| request.detach_keys = ByteBuf::from(vec![16, 17]));
    write(&client, b"ls\x10\x11never").expect("room");
    process.turn();
    assert!(at_end(&client));
    let stdin = process.stdin.as_ref().expect("stdin");
    assert_eq!(received(stdin), b"ls");
    assert_eq!(read(stdin, &mut [0_u8; 1]), Err(Errno::AGAIN));
}

#[test]
fn a_process_that_closed_its_stdin_gets_no_more() {
    let mut process = Fixture::running(true);
    let client = process.attach(|_| {});
    process.stdin = None;
    write(&client, b"lost").expect("room");
    process.turn();
    process.print(b"still here");
    assert_eq!(received(&client), b"still here");
}

#[test]
fn a_flood_at_the_end_is_shipped_in_turns_and_all_of_it_is_in_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log").to_string_lossy().into_owned();
    let mut process = flooding(&path, 1 << 15);
    let mut turns = 1;
    while process.stdio.drain(1, &mut process.scratch) {
        assert_eq!(lines_of(&path), turns * 4096);
        turns += 1;
    }
    assert_eq!((turns, lines_of(&path)), (9, 1 << 15));
    assert!(process.stdio.outputs_ended());
}

#[test]
fn a_flood_whose_time_is_over_is_in_the_file_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log").to_string_lossy().into_owned();
    let mut process = flooding(&path, 1 << 15);
    assert!(process.stdio.drain(1, &mut process.scratch));
    process.stdio.drain_unshipped(1, &mut process.scratch);
    assert_eq!(lines_of(&path), 1 << 15);
    assert!(process.stdio.outputs_ended());
}

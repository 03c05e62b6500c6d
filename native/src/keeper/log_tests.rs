//! Lines of a process, to a file and to a socket that stands for a log server.

use std::collections::BTreeMap;
use std::os::fd::{IntoRawFd, OwnedFd};

use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

use super::*;
use crate::keeper::json_line::Line;
use crate::keeper::poll::{Part, Poll, Source};
use crate::keeper::ship::tests::shipping_to_journal;
use crate::plan;

const SHIP: Source = Source::Process(7, Part::Ship);

struct Fixture {
    directory: tempfile::TempDir,
    log: Log,
    scratch: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log").to_string_lossy().into_owned();
        let writer = LogWriter::open(plan::Log { path, max_size: 0, max_files: 1 }).expect("a file");
        let log = Log::new(Some(writer), None).expect("a log");
        Self { directory, log, scratch: Vec::new() }
    }

    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        self.log.append(stream, bytes, 1, &mut self.scratch);
        assert!(self.scratch.is_empty());
    }

    fn entries(&self) -> Vec<String> {
        let bytes = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        bytes
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| Line::decode(line).expect("a whole line").log.into_owned())
            .collect()
    }
}

#[test]
fn lines_split_over_reads_are_joined_and_the_rest_ends_without_newline() {
    let mut log = Fixture::new();
    log.append(Stream::Stdout, b"one\ntw");
    log.append(Stream::Stderr, b"error\n");
    log.append(Stream::Stdout, b"o\n\nthree");
    assert_eq!(log.log.unfinished(Stream::Stdout), b"three");
    log.log.finish(Stream::Stdout, 1, &mut log.scratch);
    assert_eq!(log.entries(), ["one\n", "error\n", "two\n", "\n", "three"]);
}

#[test]
fn long_lines_come_in_pieces_of_16_kib() {
    let mut log = Fixture::new();
    let mut text = vec![b'x'; 2 * PARTIAL + 5];
    text.push(b'\n');
    for chunk in text.chunks(5000) {
        log.append(Stream::Stdout, chunk);
    }
    let lengths: Vec<usize> = log.entries().iter().map(String::len).collect();
    assert_eq!(lengths, [PARTIAL, PARTIAL, 6]);
}

#[test]
fn state_survives_a_hand_over() {
    let mut log = Fixture::new();
    log.append(Stream::Stdout, b"a\nb");
    let mut lent = Vec::new();
    let (file, ship) = log.log.state(&mut |fd| {
        let copy = fd.try_clone_to_owned().expect("a duplicate");
        lent.push(copy.into_raw_fd());
        lent[0]
    });
    let bytes = rmp_serde::to_vec_named(&file).expect("a state");
    let file = rmp_serde::from_slice(&bytes).expect("the same state");
    let poll = Poll::new().expect("epoll");
    log.log = Log::restore((file, ship), poll.registration(SHIP)).expect("a log");
    log.append(Stream::Stdout, b"c\n");
    assert_eq!(log.entries(), ["a\n", "bc\n"]);
}

#[test]
fn the_state_of_a_keeper_that_knew_no_shipping_reads() {
    #[derive(serde::Serialize)]
    struct Old {
        path: &'static str,
        max_size: u64,
        max_files: u32,
        stdout: ByteBuf,
        stderr: ByteBuf,
        dropped: u64,
    }
    let stdout = ByteBuf::from(b"half".to_vec());
    let old = Old { path: "/p", max_size: 9, max_files: 2, stdout, stderr: ByteBuf::new(), dropped: 0 };
    let bytes = rmp_serde::to_vec_named(&old).expect("a state");
    let state: LogState = rmp_serde::from_slice(&bytes).expect("the same state");
    assert_eq!(&**state.lines.stdout, b"half");
    let again = rmp_serde::to_vec_named(&state).expect("a state");
    assert!(again.windows(2).any(|part| part == b"/p"));
}

/// A log whose lines go to a socket, and its other end.
fn shipped(poll: &Poll) -> (Log, OwnedFd) {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::NONBLOCK, None)
        .expect("a socket pair");
    let shipping = shipping_to_journal();
    let ship = Ship::new(shipping, Some(ours), poll.registration(SHIP), 0);
    (Log::new(None, Some(ship)).expect("a log"), theirs)
}

/// The fields of the next datagram.
fn received(socket: &OwnedFd) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 64 * 1024];
    let length = rustix::io::read(socket, &mut buffer).expect("a datagram");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn lines_are_shipped_and_the_pieces_of_a_long_one_share_an_id() {
    let poll = Poll::new().expect("epoll");
    let (mut log, server) = shipped(&poll);
    let mut scratch = Vec::new();
    log.append(Stream::Stderr, b"one\n", 5, &mut scratch);
    let first = received(&server);
    assert_eq!((first["MESSAGE"].as_str(), first["PRIORITY"].as_str()), ("one", "3"));
    assert!(!first.contains_key("CONTAINER_PARTIAL_ID"));
    let mut text = vec![b'x'; 2 * PARTIAL + 5];
    text.extend_from_slice(b"\nnext\n");
    log.append(Stream::Stdout, &text, 5, &mut scratch);
    let pieces = [received(&server), received(&server), received(&server)];
    let all = |field: &str| pieces.iter().map(|piece| piece[field].clone()).collect::<Vec<_>>();
    assert_eq!(pieces.iter().map(|piece| piece["MESSAGE"].len()).collect::<Vec<_>>(), [PARTIAL, PARTIAL, 5]);
    assert_eq!(all("CONTAINER_PARTIAL_ORDINAL"), ["1", "2", "3"]);
    assert_eq!(all("CONTAINER_PARTIAL_LAST"), ["false", "false", "true"]);
    assert!(all("CONTAINER_PARTIAL_ID")
        .iter()
        .all(|id| id.len() == 64 && *id == pieces[0]["CONTAINER_PARTIAL_ID"]));
    assert!(!received(&server).contains_key("CONTAINER_PARTIAL_ID"));
}

#[test]
fn a_shipped_line_that_is_unfinished_survives_a_hand_over() {
    let poll = Poll::new().expect("epoll");
    let (mut log, server) = shipped(&poll);
    log.append(Stream::Stdout, b"a\nb", 5, &mut Vec::new());
    let (file, ship) = log.state(&mut |fd| fd.try_clone_to_owned().expect("a duplicate").into_raw_fd());
    let bytes = rmp_serde::to_vec_named(&ship).expect("a state");
    let ship = rmp_serde::from_slice(&bytes).expect("the same state");
    let mut log = Log::restore((file, ship), poll.registration(SHIP)).expect("a log");
    log.append(Stream::Stdout, b"c\n", 5, &mut Vec::new());
    let (first, second) = (received(&server), received(&server));
    assert_eq!((first["MESSAGE"].as_str(), second["MESSAGE"].as_str()), ("a", "bc"));
    assert_eq!(second["CONTAINER_LOG_ORDINAL"], "2");
    assert!(log.end().is_none());
}

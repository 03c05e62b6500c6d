//! Shipping to sockets that the test holds the other end of; the clock is the test's.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::config::Remote;
use super::fluentd::Fluentd;
use super::journald::Journald;
use super::*;
use crate::keeper::poll::{Part, Poll, Source};

const SECOND: u64 = 1_000_000_000;
/// Long after a connection was made.
const LATER: u64 = 100 * SECOND;

pub fn shipping_to_journal() -> Shipping {
    Shipping {
        id: "box".into(),
        to: Remote::Unixgram { path: "/nowhere".into() },
        format: Format::Journald(Journald { fields: vec![] }),
        blocking: true,
        buffer: 1 << 20,
        attempts: 1,
        wait_ns: SECOND,
        longest_wait_ns: SECOND,
        stall_ns: 0,
        renew_ns: 0,
    }
}

fn shipping_to(path: &Path, adapt: impl FnOnce(&mut Shipping)) -> Shipping {
    let mut shipping = shipping_to_journal();
    shipping.to = Remote::Unix { path: path.to_string_lossy().into_owned() };
    let (tag, record, sub_second, acknowledged) = ("t".into(), vec![], false, false);
    shipping.format = Format::Fluentd(Fluentd { tag, record, sub_second, acknowledged });
    adapt(&mut shipping);
    shipping
}

struct Fixture {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    _poll: Poll,
    ship: Ship,
}

impl Fixture {
    /// Nobody listens yet.
    fn new(adapt: impl FnOnce(&mut Shipping)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let poll = Poll::new().expect("epoll");
        let registration = poll.registration(Source::Process(7, Part::Ship));
        let ship = Ship::new(shipping_to(&path, adapt), None, registration, 0);
        Self { _directory: directory, path, _poll: poll, ship }
    }

    fn listen(&self) -> UnixListener {
        let listener = UnixListener::bind(&self.path).expect("a listener");
        listener.set_nonblocking(true).expect("a listener that does not block");
        listener
    }

    fn push(&mut self, text: &str, now_ns: u64) {
        let (text, stream) = (text.as_bytes(), Stream::Stdout);
        self.ship.push(&Entry { text, stream, time_ns: 0, piece: None }, now_ns);
        self.ship.send(now_ns);
    }
}

/// All that has arrived by now.
fn arrived(mut stream: &UnixStream) -> String {
    stream.set_nonblocking(true).expect("a stream that does not block");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[test]
fn what_waits_is_sent_once_there_is_a_connection() {
    let mut fixture = Fixture::new(|shipping| shipping.attempts = 5);
    fixture.push("first", 0);
    assert_eq!(fixture.ship.due(), Some(SECOND));
    let listener = fixture.listen();
    fixture.push("second", SECOND / 2);
    assert!(listener.accept().is_err());
    fixture.ship.wake(SECOND);
    let (server, _) = listener.accept().expect("a connection");
    let text = arrived(&server);
    assert!(text.contains("first") && text.contains("second"), "{text:?}");
    assert!(!fixture.ship.is_busy());
    assert_eq!(fixture.ship.due(), None);
}

#[test]
fn after_the_last_attempt_all_is_dropped_until_the_next() {
    let mut fixture = Fixture::new(|shipping| shipping.attempts = 2);
    fixture.push("first", 0);
    assert_eq!(fixture.ship.dropped, 0);
    fixture.push("second", SECOND);
    assert_eq!((fixture.ship.dropped, fixture.ship.queue.len()), (2, 0));
    let listener = fixture.listen();
    fixture.push("third", SECOND + 1);
    assert_eq!(fixture.ship.dropped, 3);
    fixture.push("fourth", LATER);
    let (server, _) = listener.accept().expect("a connection");
    let text = arrived(&server);
    assert!(text.contains("fourth") && !text.contains("third"), "{text:?}");
    assert_eq!(fixture.ship.dropped, 0);
}

#[test]
fn waits_grow_to_the_longest() {
    let mut fixture = Fixture::new(|shipping| {
        (shipping.attempts, shipping.longest_wait_ns) = (100, 2 * SECOND);
    });
    fixture.push("x", 0);
    let mut waits = Vec::new();
    let mut now_ns = 0;
    for _ in 0..4 {
        let due_ns = fixture.ship.due().expect("another attempt");
        waits.push(due_ns - now_ns);
        now_ns = due_ns;
        fixture.ship.wake(now_ns);
    }
    assert_eq!(waits, [SECOND, SECOND * 3 / 2, 2 * SECOND, 2 * SECOND]);
}

#[test]
fn a_connection_that_is_lost_is_made_again_and_nothing_is_torn() {
    let mut fixture = Fixture::new(|_| {});
    let listener = fixture.listen();
    fixture.push("first", 0);
    drop(listener.accept().expect("a connection"));
    fixture.push("second", LATER);
    let (server, _) = listener.accept().expect("another connection");
    assert!(arrived(&server).contains("second"));
    // The other side's end is seen before the next line.
    drop(server);
    fixture.ship.on_ready(Flags::IN | Flags::HUP, LATER);
    fixture.push("third", LATER + 1);
    let (server, _) = listener.accept().expect("a third connection");
    assert!(arrived(&server).starts_with('\u{fffd}'));
}

#[test]
fn a_server_that_does_not_read_fills_the_queue_and_stops_the_output() {
    let mut fixture = Fixture::new(|shipping| shipping.buffer = 100_000);
    let listener = fixture.listen();
    let line = "x".repeat(10_000);
    let mut pushed = 0;
    while !fixture.ship.is_full() {
        fixture.push(&line, 0);
        pushed += 1;
    }
    assert!(fixture.ship.queued >= 100_000 && fixture.ship.queued < 120_000);
    let (server, _) = listener.accept().expect("a connection");
    let mut seen = arrived(&server).len();
    while fixture.ship.is_busy() {
        fixture.ship.on_ready(Flags::OUT, 1);
        seen += arrived(&server).len();
    }
    assert!(!fixture.ship.is_full());
    assert!(seen > pushed * 10_000);
    assert_eq!(fixture.ship.dropped, 0);
}

#[test]
fn a_flood_is_dropped_and_counted_with_blocking_too() {
    let mut fixture = Fixture::new(|shipping| (shipping.buffer, shipping.attempts) = (1000, 99));
    let line = "x".repeat(16 * 1024);
    for _ in 0..1000 {
        fixture.push(&line, 0);
    }
    assert!(fixture.ship.queued > FLOOD && fixture.ship.queued < FLOOD + 2 * line.len());
    assert_eq!(fixture.ship.queue.len() as u64 + fixture.ship.dropped, 1000);
}

#[test]
fn without_blocking_only_lines_as_long_as_one_that_did_not_fit_are_not_tried() {
    let mut fixture =
        Fixture::new(|shipping| (shipping.blocking, shipping.buffer, shipping.attempts) = (false, 1000, 9));
    for length in [600, 600, 700, 100, 600] {
        fixture.push(&"x".repeat(length), 0);
    }
    assert_eq!((fixture.ship.queue.len(), fixture.ship.dropped, fixture.ship.too_long), (2, 3, 600));
    let listener = fixture.listen();
    fixture.ship.wake(LATER);
    fixture.push(&"x".repeat(600), LATER);
    let (server, _) = listener.accept().expect("a connection");
    assert_eq!(arrived(&server).matches('x').count(), 1300);
}

#[test]
fn with_large_attributes_less_is_read_at_a_time() {
    let with = |length: usize| {
        Fixture::new(|shipping| {
            shipping.format = Format::Journald(Journald { fields: vec![("A".into(), "v".repeat(length))] });
        })
    };
    assert_eq!(with(0).ship.read_size(), READ_SIZE);
    assert_eq!(with(READ_WEIGHT).ship.read_size(), 1);
    let size = with(300_000).ship.read_size();
    assert!(size > 1 && size * 300_000 <= READ_WEIGHT);
}

#[test]
fn without_blocking_what_does_not_fit_is_dropped_and_counted() {
    let mut fixture =
        Fixture::new(|shipping| (shipping.blocking, shipping.buffer, shipping.attempts) = (false, 1000, 9));
    for _ in 0..30 {
        fixture.push(&"x".repeat(100), 0);
    }
    assert!(!fixture.ship.is_full());
    assert!(fixture.ship.queued <= 1000);
    assert_eq!(fixture.ship.queue.len() as u64 + fixture.ship.dropped, 30);
    assert!(fixture.ship.dropped > 20);
}

#[test]
fn a_connection_that_stalls_is_given_up_and_an_old_one_renewed() {
    let mut fixture = Fixture::new(|shipping| shipping.stall_ns = 3 * SECOND);
    let listener = fixture.listen();
    let line = "x".repeat(100_000);
    while !fixture.ship.is_busy() {
        fixture.push(&line, LATER);
    }
    let (_stalled, _) = listener.accept().expect("a connection");
    assert_eq!(fixture.ship.due(), Some(LATER + 3 * SECOND));
    fixture.ship.wake(LATER + 3 * SECOND);
    assert!(listener.accept().is_ok());

    let mut fixture = Fixture::new(|shipping| shipping.renew_ns = SECOND);
    let listener = fixture.listen();
    fixture.push("x", 0);
    fixture.push("x", SECOND - 1);
    let (_old, _) = listener.accept().expect("a connection");
    assert!(listener.accept().is_err());
    fixture.push("x", SECOND);
    assert!(listener.accept().is_ok());
}

#[test]
fn a_message_that_is_not_answered_is_sent_again() {
    let mut fixture = Fixture::new(|shipping| {
        let (tag, record, sub_second, acknowledged) = ("t".into(), vec![], false, true);
        shipping.format = Format::Fluentd(Fluentd { tag, record, sub_second, acknowledged });
        shipping.stall_ns = 2 * SECOND;
    });
    let listener = fixture.listen();
    fixture.push("first", 0);
    fixture.push("second", 0);
    let (server, _) = listener.accept().expect("a connection");
    let text = arrived(&server);
    assert!(text.contains("first") && !text.contains("second"), "{text:?}");
    assert_eq!(fixture.ship.due(), Some(2 * SECOND));
    fixture.ship.wake(2 * SECOND);
    let (mut server, _) = listener.accept().expect("another connection");
    let text = arrived(&server);
    assert!(text.contains("first"), "{text:?}");
    let (early, late) = text[text.len() - 24..].split_at(7);
    for part in [early, late] {
        assert!(fixture.ship.is_busy() && !arrived(&server).contains("second"));
        server.write_all(part.as_bytes()).expect("room");
        fixture.ship.on_ready(Flags::IN, 2 * SECOND);
    }
    let text = arrived(&server);
    assert!(text.contains("second"), "{text:?}");
    server.write_all(&text.as_bytes()[text.len() - 24..]).expect("room");
    fixture.ship.on_ready(Flags::IN, 2 * SECOND);
    assert!(!fixture.ship.is_busy());
}

#[test]
fn what_an_ended_process_leaves_has_its_time() {
    let mut fixture = Fixture::new(|shipping| shipping.attempts = 99);
    fixture.push("x", 0);
    fixture.ship.end(0);
    assert!(fixture.ship.is_busy() && !fixture.ship.is_late(END_NS - 1));
    assert!(fixture.ship.is_late(END_NS));
    fixture.push("y", 0);
    assert_eq!((fixture.ship.queue.len(), fixture.ship.dropped), (1, 1));
}

#[test]
fn a_message_that_is_half_sent_goes_on_after_a_hand_over() {
    let mut fixture = Fixture::new(|_| {});
    let listener = fixture.listen();
    let line = "x".repeat(1 << 20);
    fixture.push(&line, 0);
    let (server, _) = listener.accept().expect("a connection");
    let (socket, state) = fixture.ship.state();
    let socket = socket.expect("a connection").try_clone_to_owned().expect("a duplicate");
    assert!(state.sent > 0);
    let poll = Poll::new().expect("epoll");
    let mut ship = Ship::restore(state, Some(socket), poll.registration(Source::Process(7, Part::Ship)), 0);
    let mut text = arrived(&server);
    while ship.is_busy() {
        ship.on_ready(Flags::OUT, 1);
        text += &arrived(&server);
    }
    assert_eq!(text.matches('x').count(), 1 << 20);
}

#[test]
fn the_first_and_the_last_piece_are_told_from_whole_lines() {
    assert!(Piece::after(None, true, 1).is_none());
    let first = Piece::after(None, false, 1).expect("a piece");
    let second = Piece::after(Some(first.clone()), false, 2).expect("a piece");
    let last = Piece::after(Some(second.clone()), true, 3).expect("a piece");
    assert_eq!([first.ordinal, second.ordinal, last.ordinal], [1, 2, 3]);
    assert_eq!([first.last, second.last, last.last], [false, false, true]);
    assert!(first.id.len() == 64 && last.id == first.id && last.time_ns == 1);
}

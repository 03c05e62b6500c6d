//! Probes of this process's own namespace: entering it needs root, as everything here does.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{bind, getsockname, socket_with, AddressFamily, SocketFlags, SocketType};

use super::{Handle, Outcome, Rhythm, Target, Watch};

const MILLISECOND: u64 = 1_000_000;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn watch(addresses: Vec<SocketAddr>, request: &[u8], timeout_ms: u64) -> Watch {
    Watch {
        pid: std::process::id() as i32,
        target: Target { addresses, request: request.to_vec() },
        rhythm: Rhythm {
            interval: MILLISECOND,
            start_interval: MILLISECOND,
            start_ends: 0,
            timeout: timeout_ms * MILLISECOND,
        },
        starting: true,
        late: "late".into(),
    }
}

/// Whether this may enter a namespace at all.
fn may_enter() -> bool {
    rustix::process::geteuid().is_root()
}

/// The first result that is told.
fn first(watch: Watch) -> Outcome {
    let probes = Handle::new().expect("a handle");
    let number = probes.watch(watch).expect("a watch");
    let outcome = told(&probes, number);
    probes.unwatch(number);
    outcome
}

fn told(probes: &Handle, number: u32) -> Outcome {
    let mut fds = [PollFd::from_borrowed_fd(probes.notifier(), PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).expect("poll");
    assert_eq!(ready, 1, "nothing was told");
    assert_eq!(probes.news(), [number]);
    probes.take(number).into_iter().next().expect("a result")
}

/// A server that does this with each connection.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || listener.incoming().flatten().for_each(each));
    address
}

fn answering(answer: &'static [u8]) -> SocketAddr {
    serve(move |mut stream| {
        let mut request = [0; 512];
        let length = stream.read(&mut request).unwrap_or(0);
        assert!(length == 0 || request.starts_with(b"GET / "));
        // Ignored: the probe may have what it needs.
        let _ = stream.write_all(answer);
    })
}

/// A port that is taken, and where nobody listens.
fn nobody() -> (OwnedFd, SocketAddr) {
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("socket");
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bind");
    let address = getsockname(&socket).expect("a name").try_into().expect("an address");
    (socket, address)
}

#[test]
fn a_connection_is_all_that_tcp_asks_for() {
    if !may_enter() {
        return;
    }
    let (here, (_taken, nobody)) = (serve(drop), nobody());
    let good = first(watch(vec![here], b"", 10_000));
    assert_eq!((good.code, good.output), (0, format!("{here}: connected")));
    assert!(good.start_ns > 0 && good.start_ns <= good.end_ns);
    let bad = first(watch(vec![nobody], b"", 10_000));
    assert_eq!((bad.code, bad.output), (1, format!("{nobody}: connection refused")));
    let second = first(watch(vec![nobody, here], b"", 10_000));
    assert_eq!((second.code, second.output), (0, format!("{here}: connected")));
    let none = first(watch(vec![nobody, nobody], b"", 10_000));
    assert_eq!((none.code, none.output), (1, format!("{nobody}: connection refused")));
}

#[test]
fn an_answer_s_status_is_the_result() {
    if !may_enter() {
        return;
    }
    for (answer, wanted) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], (0, "HTTP 204")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", (0, "HTTP 302")),
        (b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nabc", (1, "HTTP 500")),
    ] {
        let found = first(watch(vec![answering(answer)], GET, 10_000));
        assert_eq!((found.code, found.output.as_str()), wanted);
    }
}

#[test]
fn what_is_no_answer_is_told() {
    if !may_enter() {
        return;
    }
    let endless: &'static [u8] = vec![b'x'; 1 << 20].leak();
    let endless_line: &'static [u8] = [b"HTTP/1.1 ".to_vec(), vec![b'2'; 1 << 20]].concat().leak();
    for (answer, wanted) in [
        (&b""[..], "the connection was closed before an answer"),
        (b"SSH-2.0-dropbear\r\n", "malformed HTTP response"),
        (endless, "malformed HTTP response"),
        (endless_line, "the answer has no status in its first 16 KiB"),
    ] {
        let address = answering(answer);
        let found = first(watch(vec![address], GET, 10_000));
        assert_eq!((found.code, found.output), (1, format!("{address}: {wanted}")));
    }
}

#[test]
fn a_silent_and_a_dripping_server_are_too_late() {
    if !may_enter() {
        return;
    }
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let found = first(watch(vec![silent.local_addr().expect("an address")], GET, 50));
    assert_eq!((found.code, found.output.as_str()), (-1, "late"));
    let dripping = serve(|mut stream| while stream.write_all(b"HTTP/1.1 100 x\r\n\r\n").is_ok() {});
    let found = first(watch(vec![dripping], GET, 10_000));
    assert_eq!(
        (found.code, found.output.as_str()),
        (1, format!("{dripping}: the answer has no status in its first 16 KiB").as_str())
    );
}

#[test]
fn the_rest_of_an_answer_is_read_so_that_nothing_is_reset() {
    if !may_enter() {
        return;
    }
    let (ended, end) = std::sync::mpsc::channel();
    let address = serve(move |mut stream| {
        let mut request = [0; 512];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let body = stream.write_all(&vec![b'x'; 32 << 10]);
        let _ = stream.shutdown(Shutdown::Write);
        // The probe's end of file, and no reset.
        let _ = ended.send((body.is_ok(), stream.read(&mut request).ok()));
    });
    let probes = Handle::new().expect("a handle");
    let mut once = watch(vec![address], GET, 10_000);
    once.rhythm.interval = 3_600_000 * MILLISECOND;
    once.rhythm.start_ends = u64::MAX;
    let number = probes.watch(once).expect("a watch");
    assert_eq!(told(&probes, number).output, "HTTP 200");
    assert_eq!(end.recv().expect("the server's report"), (true, Some(0)));
}

#[test]
fn one_that_is_not_watched_any_more_is_left_alone() {
    if !may_enter() {
        return;
    }
    let probes = Handle::new().expect("a handle");
    let (_taken, nobody) = nobody();
    let gone = probes.watch(watch(vec![nobody], b"", 1000)).expect("a watch");
    told(&probes, gone);
    probes.unwatch(gone);
    let other = probes.watch(watch(vec![serve(drop)], b"", 1000)).expect("a watch");
    let mut fds = [PollFd::from_borrowed_fd(probes.notifier(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).expect("poll");
    assert_eq!(probes.news().last(), Some(&other));
    assert!(probes.take(gone).is_empty());
    assert_eq!(probes.take(other).first().map(|outcome| outcome.code), Some(0));
}

#[test]
fn more_than_may_be_open_at_once_all_have_their_turn() {
    if !may_enter() {
        return;
    }
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = silent.local_addr().expect("an address");
    let probes = Handle::new().expect("a handle");
    let mut open: HashSet<u32> = (0..600)
        .map(|_| {
            let mut once = watch(vec![address], GET, 20);
            once.rhythm.interval = 3_600_000 * MILLISECOND;
            once.rhythm.start_interval = MILLISECOND;
            once.rhythm.start_ends = u64::MAX;
            probes.watch(once).expect("a watch")
        })
        .collect();
    while !open.is_empty() {
        let mut fds = [PollFd::from_borrowed_fd(probes.notifier(), PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).expect("poll");
        assert_eq!(ready, 1, "{} were not probed", open.len());
        for number in probes.news() {
            assert_eq!(probes.take(number).first().map(|outcome| outcome.code), Some(-1));
            open.remove(&number);
        }
    }
}

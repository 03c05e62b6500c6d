//! Ports held and passed on, over loopback sockets of the tests' own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};

use super::{Handle, Left, Port};
use crate::error::Result;

/// The thread, and what it says when it has an answer.
struct Ports {
    handle: Handle,
    answered: OwnedFd,
}

impl Ports {
    fn start() -> Self {
        let answered = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        Self { handle: Handle::start(answered.as_fd()).unwrap_or_else(|e| panic!("{e}")), answered }
    }

    fn set(&self, id: &str, ports: &[&Port]) -> Result<()> {
        self.handle.set(id, ports.iter().map(|port| (*port).clone()).collect());
        poll(&mut [PollFd::new(&self.answered, PollFlags::IN)], None).expect("an answer");
        rustix::io::read(&self.answered, &mut [0u8; 8]).expect("a count");
        self.handle.answer().expect("what came of it")
    }

    fn stop(self) -> Left {
        self.handle.stop().1
    }
}

fn holding(port: &Port) -> Ports {
    let ports = Ports::start();
    ports.set("c1", &[port]).unwrap_or_else(|e| panic!("{e}"));
    ports
}

fn port(protocol: &str, address: &str, target: Option<SocketAddr>) -> Port {
    let address: std::net::IpAddr = address.parse().expect("an address");
    // A port that was free a moment ago.
    let free = match protocol {
        "tcp" => TcpListener::bind((address, 0)).and_then(|socket| socket.local_addr()),
        _ => UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()),
    };
    Port { protocol: protocol.into(), address, number: free.expect("a free port").port(), target }
}

fn connect(port: &Port) -> TcpStream {
    let stream = TcpStream::connect((port.address, port.number)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream
}

#[test]
fn bytes_and_their_end_pass_both_ways_from_ipv6_to_ipv4() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = port("tcp", "::1", Some(server.local_addr().expect("its address")));
    let ports = holding(&port);
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let sent = payload.clone();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a client");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("all of it");
        stream.write_all(&got).expect("all of it back");
    });
    let mut client = connect(&port);
    let mut writer = client.try_clone().expect("a duplicate");
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("room");
        writer.shutdown(Shutdown::Write).expect("an end");
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("the echo");
    assert!(back == payload);
    writing.join().expect("the writer");
    echo.join().expect("the server");
    assert_eq!(ports.stop().len(), 1);
}

#[test]
fn a_target_that_refuses_closes_the_client() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let port = port("tcp", "127.0.0.1", Some(nobody));
    let ports = holding(&port);
    let mut client = connect(&port);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    drop(ports.stop());
}

#[test]
fn datagrams_find_their_way_back_to_each_client() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a server");
    let port = port("udp", "::1", Some(server.local_addr().expect("its address")));
    let ports = holding(&port);
    let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("[::1]:0").expect("a client")).collect();
    for socket in clients.iter().chain([&server]) {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    }
    let mut buffer = [0u8; 16];
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&[number as u8], (port.address, port.number)).expect("sent");
        let (length, from) = server.recv_from(&mut buffer).expect("arrived");
        assert_eq!(&buffer[..length], [number as u8]);
        server.send_to(&[number as u8 + 10], from).expect("answered");
        let (length, from) = client.recv_from(&mut buffer).expect("the answer");
        assert_eq!(&buffer[..length], [number as u8 + 10]);
        assert_eq!(from, SocketAddr::new(port.address, port.number));
    }
    drop(ports.stop());
}

fn is_free(port: &Port) -> bool {
    port.clone().hold().is_ok()
}

#[test]
fn a_port_is_held_until_it_is_set_no_more() {
    let (kept, other) = (port("tcp", "127.0.0.1", None), port("udp", "::1", None));
    let ports = holding(&kept);
    ports.set("c1", &[&kept, &other]).expect("one more");
    let error = ports.set("c2", &[&kept]).expect_err("it is c1's");
    assert_eq!(error.errno(), rustix::io::Errno::ADDRINUSE.raw_os_error());
    assert!(error.to_string().contains(&format!("bind 127.0.0.1:{}/tcp", kept.number)), "{error}");
    assert!(!is_free(&kept) && !is_free(&other));
    ports.set("c1", &[&kept]).expect("one less");
    assert!(!is_free(&kept) && is_free(&other));
    ports.set("c1", &[]).expect("none");
    ports.set("c2", &[&kept]).expect("it is free");
    drop(ports.stop());
    assert!(is_free(&kept));
}

#[test]
fn ports_that_cannot_all_be_had_leave_what_was_held() {
    let (kept, free) = (port("tcp", "127.0.0.1", None), port("tcp", "127.0.0.1", None));
    let ports = holding(&kept);
    ports.set("c2", &[&free, &kept]).expect_err("one is taken");
    assert!(is_free(&free) && !is_free(&kept));
}

#[test]
fn no_other_thread_has_the_socket() {
    let port = port("tcp", "127.0.0.1", None);
    let ports = holding(&port);
    let local = format!("0100007F:{:04X}", port.number);
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("sockets");
    let entry =
        table.lines().find(|line| line.split_whitespace().nth(1) == Some(&local)).expect("the socket");
    let link = format!("socket:[{}]", entry.split_whitespace().nth(9).expect("an inode"));
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    assert!(links.filter(|found| found.to_string_lossy() == link).count() == 0);
    drop(ports);
}

#[test]
fn what_one_thread_leaves_another_holds() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let port = port("tcp", "::1", Some(server.local_addr().expect("its address")));
    let without = Port { protocol: "sctp".into(), ..port.clone() };
    let ports = Ports::start();
    ports.set("c1", &[&port, &without]).expect("held");
    let left = ports.stop();
    assert_eq!(left.iter().map(|(id, held)| (id.as_str(), held.len())).collect::<Vec<_>>(), [("c1", 2)]);
    assert!(!is_free(&port), "what is left is held still");
    let mut waiting = connect(&port);
    let heir = Ports::start();
    heir.handle.adopt(left);
    let (mut accepted, _) = server.accept().expect("who waited meanwhile");
    accepted.write_all(b"x").expect("room");
    waiting.read_exact(&mut [0]).expect("the byte");
    heir.set("c1", &[]).expect("none");
    assert!(is_free(&port));
}

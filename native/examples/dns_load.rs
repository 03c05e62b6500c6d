//! Questions as fast as they are answered, and a server that answers any: both ends of `bench_dns.py`.
//!
//! Both take and send what there is with one call, so that they leave the processors to what is measured.
//!
//! `dns_load ask PID WINDOW SECONDS NAME` asks 127.0.0.11 in the network namespace of process PID for the address of
//! NAME, always WINDOW questions at a time; `#` in the name becomes a number that is new each time. Prints JSON:
//! answers, the seconds they took, and questions that got none. `dns_load serve ADDRESS:PORT` answers every question
//! with one address, kept for a minute.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use proa_native::sys::datagrams::{send, Arrival, Arrivals, Departure, MOST};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

const HEADER: usize = 12;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ask", pid, window, seconds, name] => {
            ask(pid, window.parse().unwrap(), seconds.parse().unwrap(), name);
        }
        ["serve", address] => serve(address),
        _ => {
            eprintln!("usage: dns_load ask PID WINDOW SECONDS NAME | dns_load serve ADDRESS:PORT");
            std::process::exit(2);
        }
    }
}

fn ask(pid: &str, window: usize, seconds: f64, name: &str) {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.11:53").unwrap();
    let mut asked = 0u64;
    let mut questions = |count: usize| {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            asked += 1;
            all.push(question(asked as u16, &name.replace('#', &asked.to_string())));
        }
        send_all(&socket, &all);
    };
    questions(window);
    let begun = Instant::now();
    let deadline = Duration::from_secs_f64(seconds);
    let (mut answers, mut failures, mut lost) = (0u64, 0u64, 0usize);
    let mut arrivals = Arrivals::new(4096);
    while begun.elapsed() < deadline {
        if !wait(&socket, Duration::from_millis(500)) {
            lost += window;
            questions(window);
            continue;
        }
        let count = arrivals.receive(socket.as_fd()).unwrap();
        for at in 0..count {
            let Arrival { bytes, .. } = arrivals.get(at).unwrap();
            // No error code, and an answer.
            let answered = bytes.len() >= HEADER && bytes[3].trailing_zeros() >= 4 && bytes[7] > 0;
            *if answered { &mut answers } else { &mut failures } += 1;
        }
        questions(count);
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{{\"answers\": {answers}, \"seconds\": {took}, \"failures\": {failures}, \"lost\": {lost}}}");
}

/// Whether something has come within the time.
fn wait(socket: &UdpSocket, longest: Duration) -> bool {
    let longest = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&longest)).unwrap() > 0
}

/// What is of one length goes as one packet, and arrives apart.
fn send_all(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    for some in datagrams.chunks(MOST) {
        let pieces: Vec<IoSlice<'_>> = some.iter().map(|datagram| IoSlice::new(datagram)).collect();
        let departures: Vec<Departure<'_>> = pieces
            .chunk_by(|one, other| one.len() == other.len())
            .map(|datagrams| Departure { to: None, datagrams })
            .collect();
        assert_eq!(send(socket.as_fd(), &departures), Ok(departures.len()));
    }
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn serve(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    println!("ready");
    let mut arrivals = Arrivals::new(4096);
    loop {
        wait(&socket, Duration::from_secs(3600));
        let count = arrivals.receive(socket.as_fd()).unwrap_or_default();
        let mut responses = Vec::with_capacity(count);
        for at in 0..count {
            let Arrival { bytes, from, .. } = arrivals.get(at).unwrap();
            responses.extend(response(bytes).map(|response| (from, response)));
        }
        let pieces: Vec<_> = responses.iter().map(|(to, response)| (*to, [IoSlice::new(response)])).collect();
        let departures: Vec<Departure<'_>> =
            pieces.iter().map(|(to, datagrams)| Departure { to: *to, datagrams }).collect();
        if !departures.is_empty() {
            // Ignored: a client that is gone.
            let _ = send(socket.as_fd(), &departures);
        }
    }
}

fn response(question: &[u8]) -> Option<Vec<u8>> {
    // Behind the name and its root: type and class.
    let root = question.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let mut response = question.get(..HEADER + root + 5)?.to_vec();
    response[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    response.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    Some(response)
}

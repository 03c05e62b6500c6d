//! Questions as fast as they are answered, and a server that answers any: both ends of `bench_dns.py`.
//!
//! `dns_load ask PID WINDOW SECONDS NAME` asks 127.0.0.11 in the network namespace of process PID for the address of
//! NAME, always WINDOW questions at a time; `#` in the name becomes a number that is new each time. Prints JSON:
//! answers, the seconds they took, and questions that got none. `dns_load serve ADDRESS:PORT` answers every question
//! with one address, kept for a minute.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

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
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut asked = 0u64;
    let mut send = |socket: &UdpSocket| {
        asked += 1;
        socket.send(&question(asked as u16, &name.replace('#', &asked.to_string()))).unwrap();
        asked
    };
    for _ in 0..window {
        send(&socket);
    }
    let begun = Instant::now();
    let deadline = Duration::from_secs_f64(seconds);
    let (mut answers, mut failures, mut lost) = (0u64, 0u64, 0usize);
    let mut packet = [0; 4096];
    while begun.elapsed() < deadline {
        if let Ok(length) = socket.recv(&mut packet) {
            // No error code, and an answer.
            let answered = length >= HEADER && packet[3].trailing_zeros() >= 4 && packet[7] > 0;
            *if answered { &mut answers } else { &mut failures } += 1;
            send(&socket);
        } else {
            lost += window;
            for _ in 0..window {
                send(&socket);
            }
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{{\"answers\": {answers}, \"seconds\": {took}, \"failures\": {failures}, \"lost\": {lost}}}");
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
    let mut packet = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut packet) {
        // Behind the name and its root: type and class.
        let Some(root) = packet[HEADER..length].iter().position(|byte| *byte == 0) else { continue };
        let end = HEADER + root + 5;
        let mut response = packet[..end].to_vec();
        response[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        response.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        // Ignored: a client that is gone.
        let _ = socket.send_to(&response, client);
    }
}

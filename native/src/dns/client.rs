//! Queries over TCP: each behind its length, several at a time, answered in any order.
//!
//! A container may have so many connections, and each so much under way; one that is silent is closed.
//! Source: RFC 1035, section 4.2.2; RFC 7766.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{accept_with, recv, send, RecvFlags, SendFlags, SocketFlags};

use super::forward::From;
use super::message::word;
use super::server::{Due, Poll, Server, Source, Watched};
use crate::epoll::Flags;
use crate::timers::monotonic_ns;

/// Connections of one container.
const MOST_OF_ONE: usize = 32;
/// How long a connection may be silent.
const PATIENCE_NS: u64 = 10_000_000_000;
/// With more than this to send, nothing more is read.
const OUTPUT_HIGH: usize = 128 << 10;
/// No query is longer.
const LONGEST_QUERY: usize = 4096;

#[derive(Debug)]
pub struct Client {
    pub sandbox: u32,
    socket: Watched,
    input: Vec<u8>,
    output: Vec<u8>,
    deadline_ns: u64,
}

/// What one read gave.
enum Input {
    Queries(Vec<Vec<u8>>),
    Over,
}

impl Client {
    fn new(poll: &Poll, socket: OwnedFd, number: u32, sandbox: u32) -> Self {
        let mut socket = poll.watch(socket, Source::Client(number));
        socket.want(Some(Flags::IN));
        Self { sandbox, socket, input: Vec::new(), output: Vec::new(), deadline_ns: 0 }
    }

    /// Take the queries that have come whole.
    fn read(&mut self, buffer: &mut [u8]) -> Input {
        let mut over = false;
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => over = true,
            Ok((length, _)) => self.input.extend(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => over = true,
        }
        let mut queries = Vec::new();
        let mut at = 0;
        while let Some(length) = word(&self.input, at).map(usize::from) {
            if length > LONGEST_QUERY {
                return Input::Over;
            }
            let Some(query) = self.input.get(at + 2..at + 2 + length) else { break };
            queries.push(query.to_vec());
            at += 2 + length;
        }
        self.input.drain(..at);
        if over && queries.is_empty() {
            return Input::Over;
        }
        Input::Queries(queries)
    }

    /// Send, or keep what the socket does not take; false for a connection that is over.
    fn write(&mut self, message: &[u8]) -> bool {
        if !message.is_empty() {
            self.output.extend((message.len() as u16).to_be_bytes());
            self.output.extend(message);
        }
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        let mut flags = Flags::empty();
        flags.set(Flags::IN, self.output.len() < OUTPUT_HIGH);
        flags.set(Flags::OUT, !self.output.is_empty());
        self.socket.want(Some(flags));
        true
    }
}

impl Server {
    /// A container's TCP socket has connections.
    pub(super) fn accept(&mut self, sandbox: u32) {
        let Some(served) = self.served.get_mut(&sandbox) else { return };
        while let Ok(socket) = accept_with(&served.tcp, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if served.clients >= MOST_OF_ONE {
                continue;
            }
            served.clients += 1;
            self.last_client = self.last_client.wrapping_add(1);
            let number = self.last_client;
            let mut client = Client::new(&self.poll, socket, number, sandbox);
            client.deadline_ns = monotonic_ns() + PATIENCE_NS;
            self.timers.add(client.deadline_ns, Due::Client(number));
            self.clients.insert(number, client);
        }
    }

    pub(super) fn on_client(&mut self, number: u32, flags: Flags) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if flags.contains(Flags::OUT) && !client.write(&[]) {
            return self.close_client(number);
        }
        if flags.contains(Flags::IN) || flags.intersects(Flags::HUP | Flags::ERR) {
            match client.read(&mut self.packet) {
                Input::Over => self.close_client(number),
                Input::Queries(queries) => {
                    let sandbox = client.sandbox;
                    self.timers.remove(client.deadline_ns, Due::Client(number));
                    client.deadline_ns = monotonic_ns() + PATIENCE_NS;
                    self.timers.add(client.deadline_ns, Due::Client(number));
                    for query in queries {
                        self.query(sandbox, &query, From::Tcp(number));
                    }
                }
            }
        }
    }

    /// Send `out` to a client that may be gone.
    pub(super) fn send_to_client(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if !client.write(&self.out) {
            self.close_client(number);
        }
    }

    pub(super) fn close_client(&mut self, number: u32) {
        let Some(client) = self.clients.remove(&number) else { return };
        self.timers.remove(client.deadline_ns, Due::Client(number));
        if let Some(served) = self.served.get_mut(&client.sandbox) {
            served.clients -= 1;
        }
    }
}

//! One question to one server, over UDP or TCP, from the network namespace that can reach it.
//!
//! Each has a socket of its own, connected, so that the kernel picks a new random port and lets only the server's
//! answers through, and a random id. Source: RFC 5452, section 9.2; RFC 7766, section 8.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
};
use rustix::rand::{getrandom, GetRandomFlags};
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::response::Response;
use super::server::{Poll, Source, Watched};
use super::table::Upstream;
use crate::epoll::Flags;

/// Messages on one socket that are not the answer, before it is given up.
const MOST_BOGUS: u8 = 16;

/// Where the calling thread's new sockets are: it goes where the next one has to be, and stays there.
#[derive(Debug)]
pub struct Place {
    host: OwnedFd,
    /// The number of the container in whose namespace it is.
    at: Option<u32>,
}

impl Place {
    /// `host`: the network namespace that the calling thread is in.
    pub fn new(host: OwnedFd) -> Self {
        Self { host, at: None }
    }

    fn enter(&mut self, container: Option<(u32, &OwnedFd)>) -> Result<(), Errno> {
        let wanted = container.map(|(number, _)| number);
        if self.at != wanted {
            let namespace = container.map_or(&self.host, |(_, namespace)| namespace);
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            self.at = wanted;
        }
        Ok(())
    }

    /// Let go of a container's namespace.
    pub fn leave(&mut self, number: u32) {
        if self.at == Some(number) {
            if let Err(error) = self.enter(None) {
                report!("return to the host's network namespace: {error}");
            }
        }
    }
}

/// How far a TCP conversation is.
#[derive(Debug)]
struct Stream {
    /// The query behind its length, as far as it is not sent.
    unsent: Vec<u8>,
    received: Vec<u8>,
}

/// One question to one server.
#[derive(Debug)]
pub struct Attempt {
    pub number: u8,
    pub server: usize,
    socket: Watched,
    id: u16,
    bogus: u8,
    stream: Option<Stream>,
}

/// What has come of it.
#[derive(Debug)]
pub enum Progress {
    Pending,
    Failed,
    Received(Vec<u8>, Response),
}

impl Attempt {
    /// Ask. `container`: number and namespace of the container that asks; `query` with any id.
    pub fn start(
        poll: &Poll,
        place: &mut Place,
        container: (u32, &OwnedFd),
        upstream: &Upstream,
        (source, number, server): (Source, u8, usize),
        query: &[u8],
        tcp: bool,
    ) -> Result<Self, Errno> {
        place.enter((!upstream.host).then_some(container))?;
        let family = if upstream.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &SocketAddr::new(upstream.address, upstream.port)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let id = random_id()?;
        let mut query = query.to_vec();
        query.get_mut(..2).ok_or(Errno::INVAL)?.copy_from_slice(&id.to_be_bytes());
        let mut socket = poll.watch(socket, source);
        let stream = if tcp {
            let mut unsent = (query.len() as u16).to_be_bytes().to_vec();
            unsent.extend(query);
            socket.want(Some(Flags::OUT));
            Some(Stream { unsent, received: Vec::new() })
        } else {
            send(&socket, &query, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
            socket.want(Some(Flags::IN));
            None
        };
        Ok(Self { number, server, socket, id, bogus: 0, stream })
    }

    /// Its socket is ready. `question` as it was asked; `buffer` holds any message.
    pub fn on_ready(&mut self, question: &[u8], buffer: &mut [u8]) -> Progress {
        if self.stream.is_some() {
            return self.converse(question, buffer);
        }
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(response) = Response::read(&buffer[..length], self.id, question) {
                        return Progress::Received(buffer[..length].to_vec(), response);
                    }
                    self.bogus += 1;
                    if self.bogus > MOST_BOGUS {
                        return Progress::Failed;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                // Nobody listens there, the kernel was told.
                Err(_) => return Progress::Failed,
            }
        }
    }

    pub fn is_tcp(&self) -> bool {
        self.stream.is_some()
    }

    fn converse(&mut self, question: &[u8], buffer: &mut [u8]) -> Progress {
        let Some(stream) = &mut self.stream else { return Progress::Failed };
        while !stream.unsent.is_empty() {
            match send(&self.socket, &stream.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(stream.unsent.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
        }
        self.socket.want(Some(Flags::IN));
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Progress::Failed,
                Ok((length, _)) => stream.received.extend(&buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
            let Some(length) = super::message::word(&stream.received, 0) else { continue };
            if let Some(message) = stream.received.get(2..2 + usize::from(length)) {
                return match Response::read(message, self.id, question) {
                    Some(response) => Progress::Received(message.to_vec(), response),
                    None => Progress::Failed,
                };
            }
        }
    }
}

fn random_id() -> Result<u16, Errno> {
    let mut bytes = [0; 2];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

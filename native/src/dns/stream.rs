//! Questions to servers over TCP, each over a connection of its own.
//!
//! Source: RFC 1035, section 4.2.2; RFC 7766, section 8.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags, SocketType};

use super::message::word;
use super::numbered::Numbered;
use super::server::{Poll, Source, Watched};
use super::table::Upstream;
use super::upstream::Place;
use crate::epoll::Flags;

/// One question's connection.
#[derive(Debug)]
struct Stream {
    socket: Watched,
    flight: u32,
    id: u16,
    /// The query behind its length, as far as it is not sent.
    unsent: Vec<u8>,
    received: Vec<u8>,
}

/// What has come of it.
#[derive(Debug)]
pub enum Progress {
    Pending,
    Failed,
    /// A whole message; whether it is the answer is not looked at.
    Received(Vec<u8>),
}

/// All that are open, by number.
#[derive(Debug, Default)]
pub struct Streams {
    of_number: Numbered<Stream>,
    last: u32,
}

impl Streams {
    /// Ask `upstream` with `query` under `id`; answers the connection's number. `container`: number and namespace of
    /// the one that asks.
    pub fn ask(
        &mut self,
        (poll, place): (&Poll, &mut Place),
        container: (u32, &OwnedFd),
        upstream: &Upstream,
        (flight, id, query): (u32, u16, &[u8]),
    ) -> Result<u32, Errno> {
        let rest = query.get(2..).ok_or(Errno::INVAL)?;
        let unsent = [&(query.len() as u16).to_be_bytes(), &id.to_be_bytes(), rest].concat();
        let socket = place.connect(container, upstream, SocketType::STREAM)?;
        self.last = self.last.wrapping_add(1);
        let mut socket = poll.watch(socket, Source::Stream(self.last));
        socket.want(Some(Flags::OUT));
        self.of_number.insert(self.last, Stream { socket, flight, id, unsent, received: Vec::new() });
        Ok(self.last)
    }

    /// The flight and the id of its question.
    pub fn question(&self, number: u32) -> Option<(u32, u16)> {
        self.of_number.get(&number).map(|stream| (stream.flight, stream.id))
    }

    /// Its socket is ready; `buffer` for what comes.
    pub fn on_ready(&mut self, number: u32, buffer: &mut [u8]) -> Progress {
        self.of_number.get_mut(&number).map_or(Progress::Failed, |stream| stream.converse(buffer))
    }

    pub fn close(&mut self, number: u32) {
        self.of_number.remove(&number);
    }
}

impl Stream {
    fn converse(&mut self, buffer: &mut [u8]) -> Progress {
        while !self.unsent.is_empty() {
            match send(&self.socket, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
        }
        self.socket.want(Some(Flags::IN));
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Progress::Failed,
                Ok((length, _)) => self.received.extend(&buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
                Err(_) => return Progress::Failed,
            }
            let Some(length) = word(&self.received, 0) else { continue };
            if let Some(message) = self.received.get(2..2 + usize::from(length)) {
                return Progress::Received(message.to_vec());
            }
        }
    }
}

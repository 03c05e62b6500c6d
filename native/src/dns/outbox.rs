//! Datagrams that wait to be sent: one call for all of a socket's, one packet for all that may share it.
//!
//! Most of what a query costs is the kernel's way of a packet. Datagrams of one length to one receiver go that way
//! as one packet, and are cut apart where they arrive; no order is promised, so that they are brought together.

use std::io::IoSlice;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::sys::datagrams::{send, Departure, MOST};

/// What is longer goes by itself: a packet's parts must fit the smallest way there is.
const LONGEST_SHARED: u16 = 1200;

/// Datagrams of several sockets, which their owner knows by number.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    socket: u32,
    /// `None` over a connected socket.
    to: Option<SocketAddrV4>,
    length: u16,
    at: usize,
}

impl Entry {
    fn shares_with(&self, other: &Self) -> bool {
        (self.to, self.length) == (other.to, other.length) && self.length <= LONGEST_SHARED
    }
}

impl Outbox {
    /// Let a datagram wait; one that is too long to be any is dropped.
    pub fn push(&mut self, socket: u32, to: Option<SocketAddrV4>, datagram: &[u8]) {
        let Ok(length) = u16::try_from(datagram.len()) else { return };
        self.entries.push(Entry { socket, to, length, at: self.bytes.len() });
        self.bytes.extend(datagram);
    }

    /// The same for a message over a connected socket, under another id.
    pub fn push_with_id(&mut self, socket: u32, id: u16, message: &[u8]) {
        let at = self.bytes.len();
        self.push(socket, None, message);
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&id.to_be_bytes());
        }
    }

    /// Send all. `socket`: the one of a number, `None` where it is gone, and what waits for it with it.
    /// `failed` is told the number and the datagram of each that the kernel has not taken.
    pub fn send<'s>(
        &mut self,
        mut socket: impl FnMut(u32) -> Option<BorrowedFd<'s>>,
        mut failed: impl FnMut(u32, &[u8], Errno),
    ) {
        self.entries.sort_unstable();
        for entries in self.entries.chunk_by(|one, other| one.socket == other.socket) {
            let Some(fd) = socket(entries[0].socket) else { continue };
            for entries in entries.chunks(MOST) {
                send_entries(fd, &self.bytes, entries, &mut failed);
            }
        }
        self.entries.clear();
        self.bytes.clear();
    }
}

/// Send at most `MOST` of one socket's.
fn send_entries(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    entries: &[Entry],
    failed: &mut impl FnMut(u32, &[u8], Errno),
) {
    let text = |entry: &Entry| &bytes[entry.at..entry.at + usize::from(entry.length)];
    let mut pieces = [IoSlice::new(&[]); MOST];
    for (piece, entry) in pieces.iter_mut().zip(entries) {
        *piece = IoSlice::new(text(entry));
    }
    let mut departures = Vec::with_capacity(entries.len());
    let mut rest = &pieces[..entries.len()];
    for sharing in entries.chunk_by(Entry::shares_with) {
        let (datagrams, others) = rest.split_at(sharing.len());
        departures.push(Departure { to: sharing[0].to, datagrams });
        rest = others;
    }
    let socket = entries[0].socket;
    let mut waiting = &departures[..];
    while let Some(first) = waiting.first() {
        match send(fd, waiting) {
            Ok(count) => waiting = &waiting[count..],
            Err(Errno::INTR) => {}
            Err(error) => {
                send_singly(fd, *first, error, |text, error| failed(socket, text, error));
                waiting = &waiting[1..];
            }
        }
    }
}

/// What did not go together, since some devices cannot cut packets, or what has failed by itself.
fn send_singly(
    fd: BorrowedFd<'_>,
    departure: Departure<'_>,
    error: Errno,
    mut failed: impl FnMut(&[u8], Errno),
) {
    for datagram in departure.datagrams {
        let alone = Departure { to: departure.to, datagrams: std::slice::from_ref(datagram) };
        let result = if departure.datagrams.len() > 1 { send(fd, &[alone]) } else { Err(error) };
        if let Err(error) = result {
            failed(datagram, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_comes_whole_to_its_own_receiver() {
        let bound = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (senders, receivers) = ([bound(), bound()], [bound(), bound()]);
        let address = |socket: &UdpSocket| match socket.local_addr() {
            Ok(SocketAddr::V4(address)) => address,
            other => panic!("{other:?}"),
        };
        let mut outbox = Outbox::default();
        let mut expected = [Vec::new(), Vec::new()];
        for number in 0..100usize {
            let text = format!("{number}").repeat(1 + number % 3 * 300).into_bytes();
            outbox.push(number as u32 / 2 % 2, Some(address(&receivers[number % 2])), &text);
            expected[number % 2].push(text);
        }
        outbox.push(9, Some(address(&receivers[0])), b"of a socket that is gone");
        let socket = |number: u32| senders.get(number as usize).map(AsFd::as_fd);
        outbox.send(socket, |_, _, error| panic!("{error}"));
        let mut buffer = [0; 4096];
        for (receiver, mut expected) in receivers.iter().zip(expected) {
            let mut found = Vec::new();
            receiver.set_nonblocking(true).expect("not blocking");
            while let Ok(length) = receiver.recv(&mut buffer) {
                found.push(buffer[..length].to_vec());
            }
            found.sort();
            expected.sort();
            assert!(found == expected, "{} of {}", found.len(), expected.len());
        }
        assert!(outbox.entries.is_empty() && outbox.bytes.is_empty());
    }

    #[test]
    fn what_the_kernel_does_not_take_is_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut outbox = Outbox::default();
        for text in [&b"one"[..], b"two", b"three"] {
            outbox.push(4, None, text);
        }
        let mut failures = Vec::new();
        outbox.send(
            |_| Some(socket.as_fd()),
            |number, text, error| failures.push((number, text.to_vec(), error)),
        );
        let failure = |text: &[u8]| (4, text.to_vec(), Errno::DESTADDRREQ);
        assert_eq!(failures, [failure(b"one"), failure(b"two"), failure(b"three")]);
    }
}

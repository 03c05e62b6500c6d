//! Netlink, as much of it as a container's network needs: an encoder and a socket.
//!
//! A [`Batch`] goes out in one send; the kernel works it off in order and answers the last message (and every
//! one that failed). Nothing here knows what the messages mean; that is netns.rs.
//!
//! Source: rtnetlink(7), netlink(7) and the kernel's uapi headers `rtnetlink.h`, `if_link.h`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    recv, send, socket_with, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
};

use crate::error::{Error, Result};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;

/// Attribute types that hold others carry this bit.
const NLA_F_NESTED: u16 = 1 << 15;

/// Messages for one send. What each was for is kept, for the error that it may become.
#[derive(Debug, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    /// (operation, subject) by sequence number, from 0.
    purposes: Vec<(&'static str, String)>,
    last: usize,
    /// Sequence number of the message that the kernel is to answer.
    answered: Option<usize>,
}

impl Batch {
    /// Begin a message: its type, flags beyond `NLM_F_REQUEST`, its fixed header.
    pub fn message(&mut self, kind: u16, flags: u16, head: &[u8], operation: &'static str, subject: &str) {
        self.finish();
        self.last = self.buffer.len();
        let sequence = self.purposes.len() as u32;
        self.buffer.extend(0u32.to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend(sequence.to_ne_bytes());
        self.buffer.extend(0u32.to_ne_bytes());
        self.buffer.extend(head);
        self.align();
        self.purposes.push((operation, subject.to_string()));
    }

    /// Append an attribute to the message begun last.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.buffer.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(value);
        self.align();
    }

    /// Append a string attribute, with the NUL that the kernel wants.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Append an attribute that holds what `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest_after(kind | NLA_F_NESTED, &[], fill);
    }

    /// The same with a fixed header before the inner attributes (`VETH_INFO_PEER`), and no nested bit.
    pub fn nest_after(&mut self, kind: u16, head: &[u8], fill: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.attribute(kind, head);
        fill(self);
        let length = (self.buffer.len() - start) as u16;
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn align(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    /// Fill in the length of the message begun last.
    fn finish(&mut self) {
        if !self.purposes.is_empty() {
            let length = (self.buffer.len() - self.last) as u32;
            self.buffer[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn failure(&self, sequence: u32, errno: i32) -> Error {
        let errno = Errno::from_raw_os_error(errno);
        match self.purposes.get(sequence as usize) {
            Some((operation, subject)) => Error::os(*operation, subject, errno),
            None => Error::os("configure", "network", errno),
        }
    }

    /// Ask for an answer to the message begun last, instead of to the last of all: not every kernel answers the
    /// message that ends an nftables transaction.
    pub fn acknowledge(&mut self) {
        self.answered = Some(self.purposes.len() - 1);
        let at = self.last + 6;
        let flags = u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]) | NLM_F_ACK;
        self.buffer[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }
}

/// A netlink socket. It stays in the network namespace in which it was opened, whatever its thread does.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Open one (protocol 0 is `NETLINK_ROUTE`) in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Self::of(None)
    }

    /// One for nftables, in the calling thread's network namespace.
    pub fn netfilter() -> Result<Self> {
        Self::of(Some(rustix::net::netlink::NETFILTER))
    }

    fn of(protocol: Option<Protocol>) -> Result<Self> {
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map(Self)
            .map_err(|e| Error::os("open", "netlink socket", e))
    }

    /// Send the batch and wait for the kernel, which answers within the call. The first failure counts; messages
    /// after it were still tried.
    pub fn run(&self, mut batch: Batch) -> Result<()> {
        if batch.purposes.is_empty() {
            return Ok(());
        }
        batch.finish();
        if batch.answered.is_none() {
            batch.acknowledge();
        }
        send(&self.0, &batch.buffer, SendFlags::empty())
            .map_err(|e| Error::os("send to", "netlink socket", e))?;
        let mut first = Ok(());
        let mut buffer = vec![0u8; 16 << 10];
        loop {
            let received = retry_on_intr(|| recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()));
            let (length, _) = received.map_err(|e| Error::os("receive from", "netlink socket", e))?;
            for (sequence, errno) in answers(&buffer[..length]) {
                if errno != 0 && first.is_ok() {
                    first = Err(batch.failure(sequence, errno));
                }
                if Some(sequence as usize) == batch.answered {
                    return first;
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// (sequence, errno) of every `NLMSG_ERROR` in a datagram; errno 0 is an acknowledgement.
fn answers(mut data: &[u8]) -> Vec<(u32, i32)> {
    let word =
        |data: &[u8], at: usize| u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let mut out = Vec::new();
    while data.len() >= HEADER + 4 {
        let length = (word(data, 0) as usize).clamp(HEADER, data.len());
        if u16::from_ne_bytes([data[4], data[5]]) == NLMSG_ERROR {
            out.push((word(data, 8), -(word(data, HEADER) as i32)));
        }
        data = &data[length.next_multiple_of(4).min(data.len())..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_filled_in_and_aligned() {
        let mut batch = Batch::default();
        batch.message(16, NLM_F_CREATE, &[0; 16], "add", "x");
        batch.text(3, "abc");
        batch.nest(18, |batch| batch.attribute(1, &[1, 2, 3, 4, 5]));
        batch.message(20, 0, &[0; 8], "add", "y");
        batch.finish();
        batch.acknowledge();
        let bytes = &batch.buffer;
        assert_eq!(bytes[0..4], (16u32 + 16 + 8 + 4 + 12).to_ne_bytes());
        assert_eq!(bytes[40..44], [16, 0, 18, 0x80]);
        let second = 56;
        assert_eq!(bytes[second..second + 4], 24u32.to_ne_bytes());
        assert_eq!(bytes[second + 6..second + 8], (NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        assert_eq!(bytes[second + 8..second + 12], 1u32.to_ne_bytes());
        assert_eq!(bytes.len(), second + 24);
    }

    #[test]
    fn answers_are_told_apart() {
        let mut data = Vec::new();
        for (sequence, error) in [(7u32, -17i32), (8, 0)] {
            data.extend(36u32.to_ne_bytes());
            data.extend(NLMSG_ERROR.to_ne_bytes());
            data.extend(0u16.to_ne_bytes());
            data.extend(sequence.to_ne_bytes());
            data.extend(0u32.to_ne_bytes());
            data.extend(error.to_ne_bytes());
            data.extend([0; 16]);
        }
        assert_eq!(answers(&data), [(7, 17), (8, 0)]);
        assert!(answers(&data[..10]).is_empty());
    }
}

//! One connection of a probe: connect, send, read as far as the status, let the rest run out.
//!
//! The last is for the server's sake: a connection that is closed before its answer was read is reset, which servers
//! report as an error of theirs.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    connect, getpeername, getsockname, recv, send, socket_with, sockopt, AddressFamily, RecvFlags, SendFlags,
    SocketFlags, SocketType,
};

use super::head::{self, Head, LIMIT};
use super::server::Watched;
use crate::epoll::Flags;

/// Bytes of an answer's rest that are read, and dropped.
pub(super) const DRAINED: usize = 64 << 10;

#[derive(Debug)]
enum Phase {
    Connecting,
    /// So many bytes of the request are sent.
    Sending(usize),
    Reading(Vec<u8>),
    /// The status is told; so many bytes may still come.
    Draining(usize),
}

/// How far it has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Pending,
    /// There was no connection: another address may do.
    Unreachable(String),
    /// (exit code, output): nothing more is of interest.
    Over(i32, String),
    /// The same, and the answer's rest is on its way.
    Answered(i32, String),
    /// That rest is read.
    Drained,
}

#[derive(Debug)]
pub(super) struct Attempt {
    socket: Watched,
    phase: Phase,
}

/// A socket in the calling thread's network namespace, on its way to `address`.
pub(super) fn begin(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Ignored: then the kernel keeps more of what a container sends and nobody reads.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, LIMIT);
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

impl Attempt {
    pub(super) fn new(mut socket: Watched) -> Self {
        socket.want(Some(Flags::OUT));
        Self { socket, phase: Phase::Connecting }
    }

    /// Its result is told already.
    pub(super) fn is_judged(&self) -> bool {
        matches!(self.phase, Phase::Draining(_))
    }

    /// Go on with what is ready.
    pub(super) fn on_ready(&mut self, request: &[u8], buffer: &mut [u8]) -> Progress {
        if matches!(self.phase, Phase::Connecting) {
            match connected(&self.socket) {
                Ok(false) => return Progress::Pending,
                Ok(true) if request.is_empty() => return Progress::Over(0, "connected".into()),
                Ok(true) => self.phase = Phase::Sending(0),
                Err(error) => return Progress::Unreachable(words(error)),
            }
        }
        match self.phase {
            Phase::Connecting => Progress::Pending,
            Phase::Sending(sent) => self.send(request, sent),
            Phase::Reading(_) => self.read(buffer),
            Phase::Draining(left) => self.drain(left, buffer),
        }
    }

    fn send(&mut self, request: &[u8], sent: usize) -> Progress {
        match send(&self.socket, &request[sent..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(more) if sent + more < request.len() => self.phase = Phase::Sending(sent + more),
            Ok(_) => {
                self.phase = Phase::Reading(Vec::new());
                self.socket.want(Some(Flags::IN));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Progress::Over(1, words(error)),
        }
        Progress::Pending
    }

    fn read(&mut self, buffer: &mut [u8]) -> Progress {
        let Phase::Reading(head) = &mut self.phase else { return Progress::Pending };
        let room = buffer.len().min(LIMIT - head.len());
        match recv(&self.socket, &mut buffer[..room], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Progress::Over(1, "the connection was closed before an answer".into()),
            Ok((length, _)) => head.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Pending,
            Err(error) => return Progress::Over(1, words(error)),
        }
        match head::read(head) {
            Head::More if head.len() < LIMIT => Progress::Pending,
            Head::More => Progress::Over(1, "the answer has no status in its first 16 KiB".into()),
            Head::Garbled => Progress::Over(1, "malformed HTTP response".into()),
            Head::Status(status) => {
                self.phase = Phase::Draining(DRAINED);
                Progress::Answered(i32::from(!(200..400).contains(&status)), format!("HTTP {status}"))
            }
        }
    }

    fn drain(&mut self, left: usize, buffer: &mut [u8]) -> Progress {
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) if length > 0 && length < left => {
                self.phase = Phase::Draining(left - length);
                Progress::Pending
            }
            Err(Errno::AGAIN | Errno::INTR) => Progress::Pending,
            Ok(_) | Err(_) => Progress::Drained,
        }
    }
}

/// Whether it is connected yet, to somebody else: a port in the range that connections are given may, with nobody
/// listening, be connected to itself.
fn connected(socket: &Watched) -> Result<bool, Errno> {
    sockopt::socket_error(socket)??;
    match getpeername(socket) {
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error),
        Ok(peer) if peer == Some(getsockname(socket)?) => Err(Errno::CONNREFUSED),
        Ok(_) => Ok(true),
    }
}

/// `connection refused`.
pub(super) fn words(error: Errno) -> String {
    let text = std::io::Error::from(error).to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

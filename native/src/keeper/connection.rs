//! The socket to proad: a listener, and one connection of `MessagePack` packets with fds.
//!
//! `SOCK_SEQPACKET` keeps packets whole, so there is no framing. Nothing here blocks: what the socket
//! does not take is queued, and while much is queued no further request is read.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    accept_with, bind, listen, recvmsg, sendmsg, socket_with, sockopt, AddressFamily, RecvAncillaryBuffer,
    RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use serde::Deserialize;

use super::poll::{Flags, Poll, Source, Watched};
use super::protocol::{Reply, Request};
use crate::error::{Error, Result};

/// The longest packet either side sends.
pub const PACKET_LIMIT: usize = 4 << 20;
/// With more replies than this waiting, no request is read.
const QUEUE_HIGH: usize = 256;
/// With more than this waiting, the reader is taken for dead; it learns all anew when it reconnects.
const QUEUE_LIMIT: usize = 100_000;
/// Requests handled before other fds get their turn.
const BURST: usize = 64;

/// Make `<exec_root>/keeper.sock`, mode 0600.
pub fn listen_at(path: &Path) -> Result<OwnedFd> {
    let failed =
        |operation: &'static str| move |error: Errno| Error::os(operation, path.to_string_lossy(), error);
    let address = SocketAddrUnix::new(path).map_err(failed("address"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed("socket"))?;
    // The lock is held, so a socket that is there belongs to a dead keeper.
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed("unlink")(error)),
    }
    // fchmod before bind: on Linux the node inherits the socket inode's mode, so there is no window.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600)).map_err(failed("chmod"))?;
    bind(&socket, &address).map_err(failed("bind"))?;
    listen(&socket, 16).map_err(failed("listen"))?;
    Ok(socket)
}

/// Accept a connection of this user or root; `None` when there is none (or it was turned away).
pub fn accept(listener: &Watched) -> Option<OwnedFd> {
    let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let peer = sockopt::socket_peercred(&socket).ok()?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        report!("connection of uid {} refused", peer.as_raw());
        return None;
    }
    // A welcome carries every process. Without CAP_NET_ADMIN the plain option is bounded by wmem_max.
    if sockopt::set_socket_send_buffer_size_force(&socket, 2 * PACKET_LIMIT).is_err() {
        // Ignored: a smaller buffer only means that large welcomes fail, which is reported there.
        let _ = sockopt::set_socket_send_buffer_size(&socket, 2 * PACKET_LIMIT);
    }
    Some(socket)
}

/// What one read of the socket gave.
#[derive(Debug)]
pub enum Received {
    Request(Request, Vec<OwnedFd>),
    /// A request, by its number, with something in it that cannot be: its sender is told, and nobody else suffers.
    Refused(u64, String),
    /// A packet that is no request; the sender is at fault and is told so by the end of the connection.
    Garbled(String),
    Nothing,
    Closed,
}

/// What every request has.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

#[derive(Debug)]
pub struct Connection {
    socket: Watched,
    queue: VecDeque<Vec<u8>>,
    closed: bool,
    /// The mount namespace of the other side, opened when a start first needs it.
    mounts: OnceCell<Option<OwnedFd>>,
}

impl Connection {
    #[must_use]
    pub fn new(socket: OwnedFd, poll: &Poll) -> Self {
        let mut connection = Self {
            socket: poll.watch(socket, Source::Peer),
            queue: VecDeque::new(),
            closed: false,
            mounts: OnceCell::new(),
        };
        connection.update();
        connection
    }

    /// Requests to take from the socket at one turn.
    #[must_use]
    pub fn burst(&self) -> usize {
        BURST.min(QUEUE_HIGH.saturating_sub(self.queue.len()))
    }

    /// The other side is gone, or does not read.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// The mount namespace of proad; `None` where it cannot be had.
    #[must_use]
    pub fn mounts(&self) -> Option<BorrowedFd<'_>> {
        let open = || {
            let pid = sockopt::socket_peercred(&self.socket).ok()?.pid.as_raw_nonzero();
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(format!("/proc/{pid}/ns/mnt"), flags, Mode::empty()).ok()
        };
        self.mounts.get_or_init(open).as_ref().map(AsFd::as_fd)
    }

    /// Take one packet. `buffer` holds [`PACKET_LIMIT`] bytes.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Err(_) => return Received::Closed,
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|part| if let RecvAncillaryMessage::ScmRights(fds) = part { Some(fds) } else { None })
            .flatten()
            .collect();
        if message.bytes == 0 {
            return Received::Closed;
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Received::Garbled(format!("a packet longer than {PACKET_LIMIT} bytes"));
        }
        let packet = &buffer[..message.bytes];
        match rmp_serde::from_slice(packet) {
            Ok(request) => Received::Request(request, fds),
            Err(error) => match rmp_serde::from_slice::<Numbered>(packet) {
                Ok(Numbered { seq }) => Received::Refused(seq, error.to_string()),
                Err(_) => Received::Garbled(error.to_string()),
            },
        }
    }

    /// Send, or queue what the socket does not take now.
    pub fn send(&mut self, reply: &Reply) {
        match rmp_serde::to_vec_named(reply) {
            Ok(packet) => self.queue.push_back(packet),
            Err(error) => report!("encode reply: {error}"),
        }
        self.flush();
    }

    /// Send what is queued.
    pub fn flush(&mut self) {
        while let Some(packet) = self.queue.front() {
            let mut control = SendAncillaryBuffer::default();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, flags) {
                Ok(_) => drop(self.queue.pop_front()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => break,
                Err(Errno::MSGSIZE) => {
                    report!("a reply of {} bytes is too long for the socket", packet.len());
                    self.queue.pop_front();
                }
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        self.closed |= self.queue.len() > QUEUE_LIMIT;
        self.update();
    }

    fn update(&mut self) {
        let mut flags = Flags::empty();
        if self.queue.len() < QUEUE_HIGH {
            flags |= Flags::IN;
        }
        if !self.queue.is_empty() {
            flags |= Flags::OUT;
        }
        self.socket.want(Some(flags));
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

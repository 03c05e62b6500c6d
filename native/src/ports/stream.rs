//! A TCP connection passed on. Each way ends by itself: an end of file is passed on as one, and only a reset or
//! the second end closes the pair.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    connect, recv, send, shutdown, socket_with, sockopt, AddressFamily, RecvFlags, SendFlags, Shutdown,
    SocketFlags, SocketType,
};

use super::server::{Poll, Source, Watched};
use crate::epoll::Flags;

/// The two ends of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Target,
}

/// One end: what waits to be sent to it, and whether more will come.
#[derive(Debug)]
struct Side {
    socket: Watched,
    pending: Vec<u8>,
    /// It sends no more.
    ended: bool,
    /// It was told that nothing more comes.
    told: bool,
}

impl Side {
    fn new(socket: Watched) -> Self {
        Self { socket, pending: Vec::new(), ended: false, told: false }
    }

    /// Pass on that the other end has ended, once all that it sent is sent.
    fn tell_end(&mut self, other_ended: bool) {
        if other_ended && self.pending.is_empty() && !self.told {
            self.told = true;
            // Ignored: one that is gone already shows by itself.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Send what waits; false on a broken connection.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match send(&self.socket, &self.pending, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.pending.drain(..sent)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// A client's connection and the one to the container.
#[derive(Debug)]
pub(super) struct Stream {
    client: Side,
    target: Side,
    connected: bool,
}

impl Stream {
    /// Begin to connect to the target for a client that was accepted.
    pub(super) fn open(poll: &Poll, number: u32, client: OwnedFd, to: &SocketAddr) -> Option<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let target = socket_with(family, SocketType::STREAM, flags, None).ok()?;
        for socket in [&client, &target] {
            // Ignored: the bytes come through all the same.
            let _ = sockopt::set_tcp_nodelay(socket, true);
        }
        match connect(&target, to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        let client = Side::new(poll.watch(client, Source::Stream(number, End::Client)));
        let mut target = Side::new(poll.watch(target, Source::Stream(number, End::Target)));
        target.socket.want(Some(Flags::OUT));
        Some(Self { client, target, connected: false })
    }

    /// Go on with what is ready; false when the pair is done with.
    pub(super) fn on_ready(&mut self, end: End, flags: Flags, buffer: &mut [u8]) -> bool {
        if !self.connected {
            if end == End::Client {
                return true;
            }
            if sockopt::socket_error(&self.target.socket) != Ok(Ok(())) {
                return false;
            }
            self.connected = true;
        }
        let (from, to) = match end {
            End::Client => (&mut self.client, &mut self.target),
            End::Target => (&mut self.target, &mut self.client),
        };
        if flags.contains(Flags::ERR) {
            return false;
        }
        if flags.contains(Flags::OUT) && !from.flush() {
            return false;
        }
        if flags.intersects(Flags::IN | Flags::HUP) && !pass(from, to, buffer) {
            return false;
        }
        self.settle()
    }

    /// Want what can be gone on with; false when both ways have ended.
    fn settle(&mut self) -> bool {
        self.target.tell_end(self.client.ended);
        self.client.tell_end(self.target.ended);
        if self.client.told && self.target.told {
            return false;
        }
        let (client_waits, target_waits) = (!self.client.pending.is_empty(), !self.target.pending.is_empty());
        for (side, waits, other_waits) in
            [(&mut self.client, client_waits, target_waits), (&mut self.target, target_waits, client_waits)]
        {
            let mut wanted = Flags::empty();
            wanted.set(Flags::OUT, waits);
            wanted.set(Flags::IN, !side.ended && !other_waits);
            side.socket.want((!wanted.is_empty()).then_some(wanted));
        }
        true
    }
}

/// Read once from one end and send to the other what it takes; false on a broken connection.
fn pass(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> bool {
    if from.ended || !to.pending.is_empty() {
        return true;
    }
    let length = match recv(from.socket.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
        Ok((0, _)) => {
            from.ended = true;
            return true;
        }
        Ok((length, _)) => length,
        Err(Errno::AGAIN | Errno::INTR) => return true,
        Err(_) => return false,
    };
    let sent = match send(to.socket.as_fd(), &buffer[..length], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => sent,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => return false,
    };
    to.pending.extend(&buffer[sent..length]);
    true
}

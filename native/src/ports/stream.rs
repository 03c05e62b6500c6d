//! A TCP connection passed on. Each way ends by itself: an end of file is passed on as one, and only a reset or
//! the second end closes the pair.
//!
//! Bytes are copied at first, and most connections are over by then. A way that brings many at once gets a pipe:
//! from there on the kernel moves pages from one socket to the other (splice(2)), and nothing is copied.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    connect, recv, send, shutdown, socket_with, sockopt, AddressFamily, RecvFlags, SendFlags, Shutdown,
    SocketFlags, SocketType,
};

use rustix::pipe::{fcntl_setpipe_size, pipe_with, splice, PipeFlags, SpliceFlags};

use super::server::{Poll, Source, Watched};
use crate::epoll::Flags;

/// A way that brings so many bytes in one read gets a pipe.
const BULK: usize = 64 << 10;
const PIPE: usize = 1 << 20;

/// The two ends of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Target,
}

/// Pages on their way from one socket to the other.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// None where there is none to be had: bytes are copied then.
    fn open() -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Ignored: a smaller one does the same, less at a time.
        let _ = fcntl_setpipe_size(&write, PIPE);
        Some(Self { read, write, held: 0 })
    }

    /// Take in what the socket has; the bytes, 0 at its end.
    fn fill(&mut self, from: impl AsFd) -> rustix::io::Result<usize> {
        let taken = splice(from, None, &self.write, None, PIPE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held += taken;
        Ok(taken)
    }

    /// Give out what the socket takes; false on a broken connection.
    fn drain(&mut self, to: impl AsFd) -> bool {
        while self.held > 0 {
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            match splice(&self.read, None, &to, None, self.held, flags) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(given) => self.held -= given,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// One end: what waits to be sent to it, and whether more will come.
#[derive(Debug)]
struct Side {
    socket: Watched,
    /// Sent before what is in the pipe.
    pending: Vec<u8>,
    pipe: Option<Pipe>,
    /// It sends no more.
    ended: bool,
    /// It was told that nothing more comes.
    told: bool,
}

impl Side {
    fn new(socket: Watched) -> Self {
        Self { socket, pending: Vec::new(), pipe: None, ended: false, told: false }
    }

    /// Something waits to be sent to it.
    fn waits(&self) -> bool {
        !self.pending.is_empty() || self.pipe.as_ref().is_some_and(|pipe| pipe.held > 0)
    }

    /// Pass on that the other end has ended, once all that it sent is sent.
    fn tell_end(&mut self, other_ended: bool) {
        if other_ended && !self.waits() && !self.told {
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
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.pipe.as_mut().map_or(true, |pipe| pipe.drain(&self.socket))
    }

    /// Read once from the other end; the bytes, 0 at the end of them. What is not sent [`Self::flush`] sends.
    fn take(&mut self, from: &Watched, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        if let Some(pipe) = &mut self.pipe {
            return pipe.fill(from);
        }
        let (length, _) = recv(from, &mut *buffer, RecvFlags::DONTWAIT)?;
        if length >= BULK {
            self.pipe = Pipe::open();
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = match send(&self.socket, &buffer[..length], flags) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
        self.pending.extend_from_slice(&buffer[sent..length]);
        Ok(length)
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
        let (client_waits, target_waits) = (self.client.waits(), self.target.waits());
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

/// Pass on what one end has sent, to where the other takes it; false on a broken connection.
fn pass(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> bool {
    if from.ended || to.waits() {
        return true;
    }
    match to.take(&from.socket, buffer) {
        Ok(0) => from.ended = true,
        Ok(_) if to.waits() => return to.flush(),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => return false,
    }
    true
}

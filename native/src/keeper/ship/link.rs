//! The connection that lines are shipped by: down, looked up, being made or up, and what comes after each failure.
//!
//! | state      | ends with                                                              |
//! |------------|------------------------------------------------------------------------|
//! | down       | something to send, once the wait is over: looked up, or connecting     |
//! | looked up  | addresses from the thread that asked for them: connecting, or a failure |
//! | connecting | writable: up, or the next address; [`CONNECT_NS`]: a failure           |
//! | up         | an error, or the other side's end: down                                |
//!
//! After `attempts` failures in a row all that waits is given up, and what comes before the next attempt, too.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    connect, recv, send, socket_with, sockopt, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::config::{Remote, Shipping};
use super::{fluentd, names};
use crate::keeper::poll::{Flags, Registration};

/// How long a connection may take to come about.
const CONNECT_NS: u64 = 10_000_000_000;
/// A connection that is lost sooner than this is not made again at once.
const SHORT_NS: u64 = 1_000_000_000;
/// Bytes of an answer: a map of one id.
const LONGEST_ANSWER: usize = 1024;
/// Reads of what the other side sends before other fds get their turn.
const READS: usize = 16;

#[derive(Debug)]
enum State {
    /// Not tried again before this.
    Down {
        until_ns: u64,
    },
    LookedUp {
        answer: OwnedFd,
        deadline_ns: u64,
    },
    Connecting {
        socket: OwnedFd,
        deadline_ns: u64,
    },
    Up {
        socket: OwnedFd,
        since_ns: u64,
    },
}

impl State {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Down { .. } => None,
            Self::LookedUp { answer: fd, .. }
            | Self::Connecting { socket: fd, .. }
            | Self::Up { socket: fd, .. } => Some(fd.as_fd()),
        }
    }
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Whole,
    /// Later.
    Not,
    /// It will never be taken; others may.
    Refused(Errno),
    /// Nothing is taken, for some time.
    GaveUp(Errno),
}

#[derive(Debug)]
pub struct Link {
    state: State,
    registration: Registration,
    /// Addresses of the name that are not tried yet.
    addresses: VecDeque<SocketAddr>,
    /// Attempts that failed, one after the other.
    failures: u32,
    /// What was given up stays so until the next attempt.
    gave_up: bool,
    /// Why the last attempt failed, until it is told.
    failure: Option<Errno>,
    /// Bytes of the message that a stream has taken.
    sent: usize,
    /// The stream has taken the message, which is to be answered.
    awaiting: bool,
    /// What of the answer has come.
    answer: Vec<u8>,
    /// Since when the socket takes or answers nothing.
    stalled_ns: Option<u64>,
}

impl Link {
    pub fn new(socket: Option<OwnedFd>, registration: Registration, now_ns: u64) -> Self {
        Self::restore(socket, 0, registration, now_ns)
    }

    /// With a socket, on which `sent` bytes of the message have gone.
    pub fn restore(socket: Option<OwnedFd>, sent: usize, registration: Registration, now_ns: u64) -> Self {
        let sent = if socket.is_some() { sent } else { 0 };
        let state = match socket {
            Some(socket) => State::Up { socket, since_ns: now_ns },
            None => State::Down { until_ns: now_ns },
        };
        Self {
            state,
            registration,
            addresses: VecDeque::new(),
            failures: 0,
            gave_up: false,
            failure: None,
            sent,
            awaiting: false,
            answer: Vec::new(),
            stalled_ns: None,
        }
    }

    /// The socket, where it is up, and how much of the message it has. A message that is to be answered is sent anew.
    pub fn state(&self) -> (Option<BorrowedFd<'_>>, usize) {
        match &self.state {
            State::Up { socket, .. } if !self.awaiting => (Some(socket.as_fd()), self.sent),
            _ => (None, 0),
        }
    }

    /// Nothing is tried now: what comes is lost.
    pub fn gave_up(&self, now_ns: u64) -> bool {
        self.gave_up && matches!(self.state, State::Down { until_ns } if now_ns < until_ns)
    }

    /// When to be woken, where something waits to be sent.
    pub fn due(&self, config: &Shipping) -> Option<u64> {
        match &self.state {
            State::Down { until_ns } => Some(*until_ns),
            State::LookedUp { deadline_ns, .. } | State::Connecting { deadline_ns, .. } => Some(*deadline_ns),
            State::Up { .. } if config.stall_ns > 0 => self.stalled_ns.map(|since| since + config.stall_ns),
            State::Up { .. } => None,
        }
    }

    /// Send the rest of `message`; connect where that is to be done first.
    pub fn send(&mut self, config: &Shipping, message: &[u8], now_ns: u64) -> Sent {
        if let State::Up { since_ns, .. } = self.state {
            if self.sent == 0 && config.renew_ns > 0 && now_ns >= since_ns + config.renew_ns {
                self.down(now_ns);
            }
        }
        if matches!(self.state, State::Down { until_ns } if now_ns >= until_ns) {
            self.gave_up = false;
            self.look_up(config, now_ns);
        }
        let sent = self.try_send(config, message, now_ns);
        if sent != Sent::Not {
            return sent;
        }
        match self.failure.take() {
            Some(error) if self.gave_up => Sent::GaveUp(error),
            _ => Sent::Not,
        }
    }

    fn try_send(&mut self, config: &Shipping, message: &[u8], now_ns: u64) -> Sent {
        let datagram = config.to.keeps_boundaries();
        let mut again = datagram;
        while let State::Up { socket, .. } = &self.state {
            if self.awaiting {
                match answered(socket, &mut self.answer, message) {
                    Ok(true) => {
                        self.message_ended();
                        return Sent::Whole;
                    }
                    Ok(false) => {
                        self.stalled_ns.get_or_insert(now_ns);
                        return Sent::Not;
                    }
                    Err(error) => self.lost(config, error, now_ns),
                }
                continue;
            }
            match send(socket, &message[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.stalled_ns = None;
                    self.sent += count;
                    self.awaiting = self.sent >= message.len() && config.format.is_answered();
                    if datagram || (self.sent >= message.len() && !self.awaiting) {
                        self.message_ended();
                        return Sent::Whole;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.stalled_ns.get_or_insert(now_ns);
                    return Sent::Not;
                }
                // Of an earlier datagram to a port that nobody has; the error is gone with its telling.
                Err(Errno::CONNREFUSED) if matches!(config.to, Remote::Udp { .. }) && again => again = false,
                Err(error) if datagram && !is_lost(error) => return Sent::Refused(error),
                Err(error) => self.lost(config, error, now_ns),
            }
        }
        Sent::Not
    }

    /// The connection is gone: make it again at once, unless it was there for a moment only.
    fn lost(&mut self, config: &Shipping, error: Errno, now_ns: u64) {
        let State::Up { since_ns, .. } = self.state else { return };
        if now_ns < since_ns + SHORT_NS {
            return self.failed(config, error, now_ns);
        }
        self.down(now_ns);
        self.look_up(config, now_ns);
    }

    fn down(&mut self, until_ns: u64) {
        self.message_ended();
        let before = std::mem::replace(&mut self.state, State::Down { until_ns });
        if let Some(fd) = before.fd() {
            // Out of the set before it is closed.
            self.registration.want(fd, None);
        }
    }

    fn message_ended(&mut self) {
        (self.sent, self.awaiting, self.stalled_ns) = (0, false, None);
        self.answer = Vec::new();
    }

    /// An attempt has failed: wait, longer each time.
    fn failed(&mut self, config: &Shipping, error: Errno, now_ns: u64) {
        self.addresses.clear();
        let growing = (0..self.failures.min(64)).fold(config.wait_ns, |wait_ns, _| {
            (wait_ns.saturating_add(wait_ns / 2)).min(config.longest_wait_ns.max(config.wait_ns))
        });
        self.failures += 1;
        if self.failures >= config.attempts {
            (self.failures, self.gave_up) = (0, true);
        }
        self.failure = Some(error);
        self.down(now_ns + growing);
    }

    fn look_up(&mut self, config: &Shipping, now_ns: u64) {
        let deadline_ns = now_ns + CONNECT_NS;
        let (host, port) = match &config.to {
            Remote::Unix { path } => return self.connect_unix(config, path, SocketType::STREAM, now_ns),
            Remote::Unixgram { path } => return self.connect_unix(config, path, SocketType::DGRAM, now_ns),
            Remote::Tcp { host, port } | Remote::Udp { host, port } => (host, *port),
        };
        if let Ok(address) = host.parse() {
            self.addresses.push_back(SocketAddr::new(address, port));
            return self.connect_next(config, Errno::HOSTUNREACH, now_ns);
        }
        match names::look_up(host, port) {
            Ok(answer) => {
                self.registration.want(&answer, Some(Flags::IN));
                self.state = State::LookedUp { answer, deadline_ns };
            }
            Err(error) => self.failed(config, error, now_ns),
        }
    }

    fn connect_unix(&mut self, config: &Shipping, path: &str, kind: SocketType, now_ns: u64) {
        let connected = SocketAddrUnix::new(path).and_then(|address| {
            let socket = new_socket(AddressFamily::UNIX, kind)?;
            connect(&socket, &address)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.up(socket, now_ns),
            // EAGAIN: the listener's queue is full.
            Err(error) => self.failed(config, error, now_ns),
        }
    }

    /// Try the next address; without any, the attempt has failed.
    fn connect_next(&mut self, config: &Shipping, error: Errno, now_ns: u64) {
        let mut error = error;
        while let Some(address) = self.addresses.pop_front() {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let tcp = matches!(config.to, Remote::Tcp { .. });
            let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
            let begun = new_socket(family, kind).map(|socket| (connect(&socket, &address), socket));
            match begun {
                Ok((Ok(()), socket)) => return self.up(socket, now_ns),
                Ok((Err(Errno::INPROGRESS), socket)) => {
                    self.registration.want(&socket, Some(Flags::OUT));
                    self.state = State::Connecting { socket, deadline_ns: now_ns + CONNECT_NS };
                    return;
                }
                Ok((Err(why), _)) | Err(why) => error = why,
            }
        }
        self.failed(config, error, now_ns);
    }

    fn up(&mut self, socket: OwnedFd, now_ns: u64) {
        // Ignored: a host that goes silently is found out later then.
        let _ = sockopt::set_socket_keepalive(&socket, true);
        self.addresses.clear();
        (self.failures, self.gave_up) = (0, false);
        self.state = State::Up { socket, since_ns: now_ns };
    }

    /// What was waited for is there.
    pub fn on_ready(&mut self, flags: Flags, config: &Shipping, now_ns: u64) {
        match &self.state {
            State::LookedUp { answer, .. } => {
                let addresses = names::answer(answer);
                self.down(now_ns);
                self.addresses = addresses;
                self.connect_next(config, Errno::HOSTUNREACH, now_ns);
            }
            State::Connecting { socket, .. } => match sockopt::socket_error(socket) {
                Ok(Ok(())) => self.connected(now_ns),
                Ok(Err(error)) | Err(error) => self.next_address(config, error, now_ns),
            },
            State::Up { socket, .. } if !self.awaiting => {
                if flags.intersects(Flags::IN | Flags::HUP | Flags::RDHUP | Flags::ERR) && ended(socket) {
                    self.down(now_ns);
                }
            }
            State::Down { .. } | State::Up { .. } => {}
        }
    }

    fn connected(&mut self, now_ns: u64) {
        let State::Connecting { socket, .. } =
            std::mem::replace(&mut self.state, State::Down { until_ns: now_ns })
        else {
            return;
        };
        self.up(socket, now_ns);
    }

    fn next_address(&mut self, config: &Shipping, error: Errno, now_ns: u64) {
        let addresses = std::mem::take(&mut self.addresses);
        self.down(now_ns);
        self.addresses = addresses;
        self.connect_next(config, error, now_ns);
    }

    /// A time is over that [`Link::due`] has named.
    pub fn wake(&mut self, config: &Shipping, now_ns: u64) {
        match &self.state {
            State::LookedUp { deadline_ns, .. } if now_ns >= *deadline_ns => {
                self.failed(config, Errno::TIMEDOUT, now_ns);
            }
            State::Connecting { deadline_ns, .. } if now_ns >= *deadline_ns => {
                self.next_address(config, Errno::TIMEDOUT, now_ns);
            }
            State::Up { .. } => {
                let stalled = self.stalled_ns.is_some_and(|since| now_ns >= since + config.stall_ns);
                if config.stall_ns > 0 && stalled {
                    self.down(now_ns);
                }
            }
            _ => {}
        }
    }

    /// Wait for room where something is to be sent, and for the other side's end anyway.
    pub fn settle(&mut self, sending: bool) {
        if let State::Up { socket, .. } = &self.state {
            let mut flags = Flags::IN | Flags::RDHUP;
            flags.set(Flags::OUT, sending && !self.awaiting);
            self.registration.want(socket, Some(flags));
        }
    }
}

/// The other side has ended the connection. What it sends is of no interest.
fn ended(socket: &OwnedFd) -> bool {
    let mut buffer = [0u8; 1024];
    for _ in 0..READS {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            // Of a datagram socket, an empty one.
            Ok((_, 0)) => return sockopt::socket_type(socket) == Ok(SocketType::STREAM),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::CONNREFUSED) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// The id of `message` is in what has been answered by now.
fn answered(socket: &OwnedFd, answer: &mut Vec<u8>, message: &[u8]) -> Result<bool, Errno> {
    let id = &message[message.len().saturating_sub(fluentd::ID)..];
    let mut buffer = [0u8; 256];
    while !answer.windows(id.len()).any(|part| part == id) {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Errno::CONNRESET),
            Ok(_) if answer.len() > LONGEST_ANSWER => return Err(Errno::PROTO),
            Ok((_, count)) => answer.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Errors of a datagram socket that a new socket mends.
fn is_lost(error: Errno) -> bool {
    matches!(error, Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN | Errno::PIPE | Errno::NOENT)
}

fn new_socket(family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

impl Drop for Link {
    fn drop(&mut self) {
        self.down(0);
    }
}

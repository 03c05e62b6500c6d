//! The keeper's epoll set: which fd belongs to what, and what is wanted of it.
//!
//! Level-triggered. A fd that nothing is wanted of is taken out of the set altogether, since
//! hang-ups are reported for every member: a paused pipe whose writer is gone would spin the loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};

use crate::error::{Error, Result};

pub use rustix::event::epoll::EventFlags as Flags;

/// What a ready fd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Listener,
    /// The connection to proad.
    Peer,
    /// The new program that is asked whether it can take over.
    Successor,
    /// A fd of process `number`.
    Process(u32, Part),
    /// Attached client of a process: (process number, client number).
    Client(u32, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The sync socket of a process that is being started.
    Sync,
    Pidfd,
    Stdin,
    Stdout,
    Stderr,
    Tty,
    /// The cgroup's out-of-memory notification.
    Oom,
}

const PARTS: [Part; 7] =
    [Part::Sync, Part::Pidfd, Part::Stdin, Part::Stdout, Part::Stderr, Part::Tty, Part::Oom];

impl Source {
    /// Kind in the low byte, a client's number in the next three, a process's in the upper four.
    fn token(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Peer => 1,
            Self::Successor => 255,
            Self::Client(process, client) => {
                u64::from(process) << 32 | u64::from(client & 0xff_ffff) << 8 | 2
            }
            Self::Process(process, part) => u64::from(process) << 32 | (part as u64 + 3),
        }
    }

    fn from_token(token: u64) -> Self {
        let process = (token >> 32) as u32;
        match token & 0xff {
            0 => Self::Listener,
            1 => Self::Peer,
            255 => Self::Successor,
            2 => Self::Client(process, (token >> 8) as u32 & 0xff_ffff),
            kind => Self::Process(process, PARTS[(kind as usize - 3).min(PARTS.len() - 1)]),
        }
    }
}

/// The epoll set.
#[allow(missing_debug_implementations)] // The kernel's event record has none.
pub struct Poll {
    epoll: Rc<OwnedFd>,
    ready: Vec<epoll::Event>,
}

impl Poll {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| Error::os("create", "epoll", error))?;
        Ok(Self { epoll: Rc::new(epoll), ready: Vec::with_capacity(128) })
    }

    /// Take `fd` into keeping; it is not waited for yet.
    #[must_use]
    pub fn watch(&self, fd: OwnedFd, source: Source) -> Watched {
        Watched { fd, registration: self.registration(source) }
    }

    /// A place for a fd that something else owns; it is not waited for yet.
    #[must_use]
    pub fn registration(&self, source: Source) -> Registration {
        Registration { epoll: Rc::clone(&self.epoll), source, wanted: None }
    }

    /// Wait until a fd is ready or `timeout_ns` has passed (`None`: for ever; 0: only look).
    pub fn wait(&mut self, timeout_ns: Option<u64>, events: &mut Vec<(Source, Flags)>) {
        let timeout = timeout_ns
            .map(|ns| Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
        events.clear();
        self.ready.clear();
        match epoll::wait(&*self.epoll, spare_capacity(&mut self.ready), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return,
            Err(error) => {
                report!("epoll_wait: {error}");
                return;
            }
        }
        events.extend(self.ready.iter().map(|event| (Source::from_token(event.data.u64()), event.flags)));
    }
}

/// The place of one fd in the epoll set. The fd is somebody else's, who takes it out before closing it:
/// closing alone is not enough where a duplicate of the open file lives on (a client's fd in proad,
/// anything in a child that has not executed yet).
#[derive(Debug)]
pub struct Registration {
    epoll: Rc<OwnedFd>,
    source: Source,
    /// `None`: not in the set.
    wanted: Option<Flags>,
}

impl Registration {
    /// Wait for `flags` of `fd`, which is the same at every call (hang-ups come anyway); `None` takes it out.
    pub fn want(&mut self, fd: impl AsFd, flags: Option<Flags>) {
        if self.wanted == flags {
            return;
        }
        let data = epoll::EventData::new_u64(self.source.token());
        let result = match (self.wanted, flags) {
            (None, Some(flags)) => epoll::add(&*self.epoll, fd, data, flags),
            (Some(_), Some(flags)) => epoll::modify(&*self.epoll, fd, data, flags),
            (_, None) => epoll::delete(&*self.epoll, fd),
        };
        match result {
            Ok(()) => self.wanted = flags,
            Err(error) => report!("epoll_ctl {:?}: {error}", self.source),
        }
    }
}

/// An owned fd and its place in the epoll set; dropping it takes it out.
#[derive(Debug)]
pub struct Watched {
    fd: OwnedFd,
    registration: Registration,
}

impl Watched {
    /// Wait for `flags` (hang-ups come anyway); `None` takes the fd out of the set.
    pub fn want(&mut self, flags: Option<Flags>) {
        self.registration.want(&self.fd, flags);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.want(None);
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_hold_every_source() {
        let mut sources =
            vec![Source::Listener, Source::Peer, Source::Successor, Source::Client(u32::MAX, 0xff_ffff)];
        sources.extend(PARTS.map(|part| Source::Process(7, part)));
        for source in sources {
            assert_eq!(Source::from_token(source.token()), source);
        }
    }

    #[test]
    fn a_dropped_fd_is_silent_though_a_duplicate_lives() {
        let mut poll = Poll::new().expect("epoll");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let duplicate = read.try_clone().expect("a duplicate");
        let mut watched = poll.watch(read, Source::Process(1, Part::Stdout));
        watched.want(Some(Flags::IN));
        rustix::io::write(&write, b"x").expect("room in the pipe");
        let mut events = Vec::new();
        poll.wait(Some(0), &mut events);
        assert_eq!(events, [(Source::Process(1, Part::Stdout), Flags::IN)]);
        drop(watched);
        poll.wait(Some(0), &mut events);
        assert!(events.is_empty());
        drop(duplicate);
    }
}

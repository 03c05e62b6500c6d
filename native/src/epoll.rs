//! A set of descriptors to wait for: which fd belongs to what, and what is wanted of it.
//!
//! Level-triggered. A fd that nothing is wanted of is taken out of the set altogether, since
//! hang-ups are reported for every member: a paused pipe whose writer is gone would spin the loop.
//!
//! Source: epoll(7).

use std::fmt::Debug;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};

use crate::error::{Error, Result};

pub use rustix::event::epoll::EventFlags as Flags;

/// What a ready fd means to its loop, as the kernel keeps it.
pub trait Token: Copy + Debug {
    fn token(self) -> u64;
    fn from_token(token: u64) -> Self;
}

/// The epoll set.
#[allow(missing_debug_implementations)] // The kernel's event record has none.
pub struct Poll<S> {
    epoll: Rc<OwnedFd>,
    ready: Vec<epoll::Event>,
    sources: PhantomData<S>,
}

impl<S: Token> Poll<S> {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| Error::os("create", "epoll", error))?;
        Ok(Self { epoll: Rc::new(epoll), ready: Vec::with_capacity(128), sources: PhantomData })
    }

    /// Take `fd` into keeping; it is not waited for yet.
    #[must_use]
    pub fn watch(&self, fd: OwnedFd, source: S) -> Watched<S> {
        Watched { fd, registration: self.registration(source) }
    }

    /// A place for a fd that something else owns; it is not waited for yet.
    #[must_use]
    pub fn registration(&self, source: S) -> Registration<S> {
        Registration { epoll: Rc::clone(&self.epoll), source, wanted: None }
    }

    /// Wait until a fd is ready or `timeout_ns` has passed (`None`: for ever; 0: only look).
    pub fn wait(&mut self, timeout_ns: Option<u64>, events: &mut Vec<(S, Flags)>) {
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
        events.extend(self.ready.iter().map(|event| (S::from_token(event.data.u64()), event.flags)));
    }
}

/// The place of one fd in the epoll set. The fd is somebody else's, who takes it out before closing it:
/// closing alone is not enough where a duplicate of the open file lives on (a client's fd in proad,
/// anything in a child that has not executed yet).
#[derive(Debug)]
pub struct Registration<S> {
    epoll: Rc<OwnedFd>,
    source: S,
    /// `None`: not in the set.
    wanted: Option<Flags>,
}

impl<S: Token> Registration<S> {
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
pub struct Watched<S: Token> {
    fd: OwnedFd,
    registration: Registration<S>,
}

impl<S: Token> Watched<S> {
    /// Wait for `flags` (hang-ups come anyway); `None` takes the fd out of the set.
    pub fn want(&mut self, flags: Option<Flags>) {
        self.registration.want(&self.fd, flags);
    }
}

impl<S: Token> Drop for Watched<S> {
    fn drop(&mut self) {
        self.want(None);
    }
}

impl<S: Token> AsFd for Watched<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

//! The way to the thread that probes. It starts with the first container that is watched.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{eventfd, EventfdFlags};

use super::results::{Outcome, Results};
use super::server::Server;
use super::Watch;
use crate::error::{Error, Result};

const STACK: usize = 128 << 10;

#[derive(Debug)]
pub(super) enum Command {
    Watch(u32, Box<Watch>),
    Unwatch(u32),
    Stop,
}

/// The thread's ends.
#[derive(Debug)]
pub(super) struct Line {
    pub commands: Receiver<Command>,
    /// Readable with commands.
    pub wake: OwnedFd,
    pub results: Arc<Results>,
}

#[derive(Debug)]
struct Thread {
    commands: Sender<Command>,
    wake: OwnedFd,
    joined: JoinHandle<()>,
}

impl Thread {
    /// Start it in the calling thread's network namespace, which is the host's.
    fn start(results: Arc<Results>) -> Result<Self> {
        let failed = |error| Error::os("start", "a thread for probes", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let far = wake.try_clone().map_err(|error| Error::os("start", "a thread for probes", error))?;
        let (commands, inbox) = channel();
        let (ready, started) = channel();
        let run = move || {
            let server = Server::new(Line { commands: inbox, wake: far, results });
            match server {
                // Ignored: the starter waits for it.
                Err(error) => drop(ready.send(Err(error))),
                Ok(server) => {
                    let _ = ready.send(Ok(()));
                    server.run();
                }
            }
        };
        let builder = std::thread::Builder::new().name("proa-probes".into()).stack_size(STACK);
        let joined = builder.spawn(run).map_err(|error| Error::os("start", "a thread for probes", error))?;
        match started.recv() {
            Ok(outcome) => outcome.map(|()| Self { commands, wake, joined }),
            Err(_) => Err(Error::Invalid("the thread for probes has ended".into())),
        }
    }

    fn tell(&self, command: Command) {
        // Ignored: a thread that has ended probes nothing.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

#[derive(Debug, Default)]
struct State {
    thread: Option<Thread>,
    last: u32,
}

/// All that is watched, and what was found.
#[derive(Debug)]
pub struct Handle {
    results: Arc<Results>,
    state: Mutex<State>,
}

impl Handle {
    pub fn new() -> Result<Self> {
        Ok(Self { results: Arc::new(Results::new()?), state: Mutex::default() })
    }

    /// Readable when there is something to take that changes more than a log.
    pub fn notifier(&self) -> BorrowedFd<'_> {
        self.results.notifier()
    }

    /// Ask a container from now on; the number it goes by.
    pub fn watch(&self, watch: Watch) -> Result<u32> {
        if watch.target.addresses.is_empty() {
            return Err(Error::Invalid("a probe without an address".into()));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.thread.is_none() {
            state.thread = Some(Thread::start(Arc::clone(&self.results))?);
        }
        state.last = state.last.wrapping_add(1);
        let number = state.last;
        self.results.open(number);
        if let Some(thread) = &state.thread {
            thread.tell(Command::Watch(number, Box::new(watch)));
        }
        Ok(number)
    }

    /// Nothing is asked any more, nor told of what is under way.
    pub fn unwatch(&self, number: u32) {
        self.results.close(number);
        if let Some(thread) = &self.state.lock().unwrap_or_else(PoisonError::into_inner).thread {
            thread.tell(Command::Unwatch(number));
        }
    }

    /// The results since the last call, oldest first.
    #[must_use]
    pub fn take(&self, number: u32) -> Vec<Outcome> {
        self.results.take(number)
    }

    /// Whose results are to be taken now.
    #[must_use]
    pub fn news(&self) -> Vec<u32> {
        self.results.news()
    }

    /// End the thread.
    pub fn close(&self) {
        let thread = self.state.lock().unwrap_or_else(PoisonError::into_inner).thread.take();
        if let Some(thread) = thread {
            thread.tell(Command::Stop);
            // Ignored: it has nothing to tell.
            let _ = thread.joined.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

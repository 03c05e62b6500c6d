//! The way to the thread that holds ports, and how their sockets get to it and back.
//!
//! The thread has a table of descriptors of its own (`own_descriptors`): a child of the keeper on its way to execve
//! has copies of what the keeper has open, and a listening socket would be bound as long as one of them lives. So
//! ports are bound and closed in the thread, and one that it says to be free is free.
//!
//! | keeper                          | thread                                               |
//! |---------------------------------|------------------------------------------------------|
//! | `Set(id, ports)`                | binds, closes; `Set(result)`, one an order of asking |
//! | `Adopt(list)`, the sockets      | takes them over                                      |
//! | `Stop`                          | `Left(list)`, the sockets; ends                      |

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::JoinHandle;

use rustix::event::{eventfd, EventfdFlags};
use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::hold::{Held, Port};
use super::server::Server;
use crate::error::{Error, Result};
use crate::sys::supervise::{own_descriptors, own_working_directory};

const STACK: usize = 128 << 10;

/// What the thread leaves behind when it is stopped: the ports by container. Connections it has end.
pub type Left = Vec<(String, Vec<Held>)>;
/// The same without sockets: whether each port has one, in the order in which they are sent.
pub(super) type Listed = Vec<(String, Vec<(Port, bool)>)>;

#[derive(Debug)]
pub(super) enum Command {
    /// From now on a container holds these and no others; on failure what it held.
    Set(String, Vec<Port>),
    Adopt(Listed),
    Stop,
}

#[derive(Debug)]
pub(super) enum Answer {
    Set(Result<()>),
    Left(Listed),
}

/// The thread's ends.
#[derive(Debug)]
pub(super) struct Line {
    pub commands: Receiver<Command>,
    pub answers: Sender<Answer>,
    /// Readable with commands.
    pub wake: OwnedFd,
    /// Readable, for the keeper, with answers.
    pub answered: OwnedFd,
    pub sockets: OwnedFd,
}

/// The way to the thread.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    answers: Receiver<Answer>,
    wake: OwnedFd,
    sockets: OwnedFd,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Start the thread, in the calling thread's network namespace, which is the host's. `answered`, an eventfd,
    /// becomes readable with each answer.
    pub fn start(answered: BorrowedFd<'_>) -> Result<Self> {
        let failed = |error: Errno| Error::os("start", "port server", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let (sockets, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        let (commands, inbox) = channel();
        let (outbox, answers) = channel();
        let (ready, started) = channel();
        let numbers = [wake.as_raw_fd(), answered.as_raw_fd(), far.as_raw_fd()];
        let run = move || {
            let apart = own_working_directory().and_then(|()| own_descriptors(numbers)).map_err(failed);
            let server = apart.and_then(|[wake, answered, sockets]| {
                Server::new(Line { commands: inbox, answers: outbox, wake, answered, sockets })
            });
            // Ignored: the starter waits for it.
            let _ = ready.send(server.as_ref().err().map(ToString::to_string));
            if let Ok(server) = server {
                server.run();
            }
        };
        let builder = std::thread::Builder::new().name("proa-ports".into()).stack_size(STACK);
        let thread = builder.spawn(run).map_err(|error| Error::os("start", "port server", error))?;
        // Only then are working directory and descriptors nobody else's again.
        match started.recv() {
            Ok(None) => Ok(Self { commands, answers, wake, sockets, thread }),
            Ok(Some(why)) => Err(Error::Invalid(why)),
            Err(_) => Err(Error::Invalid("the port server's thread has ended".into())),
        }
    }

    /// From now on a container holds these ports and no others. Answered by [`Self::answer`], in order.
    pub fn set(&self, id: &str, ports: Vec<Port>) {
        self.tell(Command::Set(id.to_owned(), ports));
    }

    /// What has become of the request that was not answered yet for the longest time, if that is known.
    #[must_use]
    pub fn answer(&self) -> Option<Result<()>> {
        match self.answers.try_recv() {
            Ok(Answer::Set(result)) => Some(result),
            Ok(Answer::Left(_)) | Err(_) => None,
        }
    }

    /// Hold what another thread has left.
    pub fn adopt(&self, left: Left) {
        let (listed, sockets) = list(left);
        self.tell(Command::Adopt(listed));
        for socket in sockets {
            if let Err(error) = send_socket(&self.sockets, socket.as_fd()) {
                return report!("a published port is not held: {error}");
            }
        }
    }

    /// End the thread, and take the ports and the answers that are outstanding.
    #[must_use]
    pub fn stop(self) -> (Vec<Result<()>>, Left) {
        self.tell(Command::Stop);
        let mut answers = Vec::new();
        let mut left = Left::default();
        for answer in &self.answers {
            match answer {
                Answer::Set(result) => answers.push(result),
                Answer::Left(listed) => left = receive(&self.sockets, listed),
            }
        }
        // Ignored: what it had to tell it has told.
        let _ = self.thread.join();
        (answers, left)
    }

    fn tell(&self, command: Command) {
        // Ignored: a thread that has ended has nobody to serve.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Ports and their sockets apart.
pub(super) fn list(left: Left) -> (Listed, Vec<OwnedFd>) {
    let mut sockets = Vec::new();
    let listed = left
        .into_iter()
        .map(|(id, held)| {
            let mut one = |held: Held| {
                let has_socket = held.socket.is_some();
                sockets.extend(held.socket);
                (held.port, has_socket)
            };
            (id, held.into_iter().map(&mut one).collect())
        })
        .collect();
    (listed, sockets)
}

/// What a list is of, the sockets read from the other side; one whose socket does not come is left out.
pub(super) fn receive(from: &OwnedFd, listed: Listed) -> Left {
    let one = |(port, has_socket): (Port, bool)| match has_socket.then(|| receive_socket(from)) {
        None => Some(Held { port, socket: None }),
        Some(Ok(socket)) => Some(Held { port, socket: Some(socket) }),
        Some(Err(error)) => {
            report!("port {} is not held: {error}", port.number);
            None
        }
    };
    listed.into_iter().map(|(id, ports)| (id, ports.into_iter().filter_map(one).collect())).collect()
}

pub(super) fn send_socket(to: &OwnedFd, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    retry_on_intr(|| sendmsg(to, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)).map(drop)
}

fn receive_socket(from: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    sockets.next().ok_or(Errno::BADF)
}

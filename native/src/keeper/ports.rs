//! The ports that containers have published: bound by a thread, so that proad learns at once of one that is taken, and
//! served by it (`ports/`). They stay, whatever proad does, until it takes them back; then they are free when it is told so.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::event::{eventfd, EventfdFlags};
use serde::{Deserialize, Serialize};

use super::hand_over::Lent;
use super::poll::{Flags, Poll, Source, Watched};
use super::protocol::{Failure, HeldPort};
use super::record::Asked;
use super::supervisor::{failure, refusal, Keeper};
use crate::error::{Error, Result};
use crate::ports::{Handle, Held, Left, Port};
use crate::sys::supervise::adopt;

/// The way to the thread, which starts with the first port, and who waits for its answers, in their order.
#[derive(Debug, Default)]
pub struct Ports {
    thread: Option<(Handle, Watched)>,
    asked: VecDeque<Asked>,
}

/// The ports on their way to a newer keeper. Descriptors by number.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State(Vec<(String, Vec<Lending>)>);

type Lending = (Port, Option<i32>);

impl Ports {
    /// From now on a container holds these and no others; true when that is so already, else the answer comes.
    fn set(&mut self, poll: &Poll, asked: Asked, id: &str, ports: Vec<Port>) -> Result<bool> {
        if self.thread.is_none() {
            if ports.is_empty() {
                return Ok(true);
            }
            self.thread = Some(start(poll)?);
        }
        if let Some((handle, _)) = &self.thread {
            handle.set(id, ports);
            self.asked.push_back(asked);
        }
        Ok(false)
    }

    /// Who has an answer now.
    fn answer(&mut self) -> Option<(Asked, Result<()>)> {
        let result = self.thread.as_ref()?.0.answer()?;
        Some((self.asked.pop_front()?, result))
    }
}

fn start(poll: &Poll) -> Result<(Handle, Watched)> {
    let answered = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let answered = answered.map_err(|error| Error::os("start", "port server", error))?;
    let handle = Handle::start(answered.as_fd())?;
    let mut answered = poll.watch(answered, Source::Ports);
    answered.want(Some(Flags::IN));
    Ok((handle, answered))
}

impl State {
    /// What goes to the newer keeper; the descriptors stay `left`'s.
    pub fn of(left: &Left, lender: &mut Lent) -> Self {
        let mut one =
            |held: &Held| (held.port.clone(), held.socket.as_ref().map(|fd| lender.lend(fd.as_fd())));
        Self(left.iter().map(|(id, held)| (id.clone(), held.iter().map(&mut one).collect())).collect())
    }

    /// What came from the older one.
    pub fn adopt(self) -> Left {
        let one = |(port, fd): Lending| Held { port, socket: fd.and_then(adopt) };
        self.0.into_iter().map(|(id, held)| (id, held.into_iter().map(one).collect())).collect()
    }
}

impl Keeper {
    pub(super) fn hold_ports(&mut self, asked: Asked, id: &str, ports: Vec<HeldPort>) {
        let set =
            ports.into_iter().map(parse).collect::<std::result::Result<Vec<_>, _>>().and_then(|ports| {
                self.ports.set(&self.poll, asked, id, ports).map_err(|error| failure("ports", &error))
            });
        match set {
            Ok(true) => self.done(asked),
            Ok(false) => {}
            Err(error) => self.refuse(asked, error),
        }
    }

    /// The thread has done something that was asked of it.
    pub(super) fn on_ports(&mut self) {
        if let Some((_, answered)) = &self.ports.thread {
            // Ignored: a wake-up more or less does no harm.
            let _ = rustix::io::read(answered, &mut [0u8; 8]);
        }
        while let Some((asked, result)) = self.ports.answer() {
            self.conclude(asked, result.map_err(|error| failure("ports", &error)));
        }
    }

    /// Stop the thread: who has its ports now must resume them or hand them over.
    pub(super) fn stop_ports(&mut self) -> Left {
        let Some((handle, _)) = self.ports.thread.take() else { return Left::default() };
        let (answers, left) = handle.stop();
        for (asked, result) in std::mem::take(&mut self.ports.asked).into_iter().zip(answers) {
            self.conclude(asked, result.map_err(|error| failure("ports", &error)));
        }
        left
    }

    /// Go on with what was stopped.
    pub(super) fn resume_ports(&mut self, left: Left) {
        if left.is_empty() {
            return;
        }
        match start(&self.poll) {
            Ok((handle, answered)) => {
                handle.adopt(left);
                self.ports.thread = Some((handle, answered));
            }
            Err(error) => report!("{error}: published ports are not held"),
        }
    }
}

fn parse(wanted: HeldPort) -> std::result::Result<Port, Failure> {
    let bad = || refusal("invalid", format!("bad port {}:{}", wanted.address, wanted.port));
    let address = wanted.address.parse().map_err(|_| bad())?;
    let target = match wanted.target.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| bad())?),
    };
    Ok(Port { protocol: wanted.protocol, address, number: wanted.port, target })
}

//! The ports that containers have published: bound here, so that proad learns at once of one that is taken, and
//! served by a thread (`ports/server.rs`). They stay, whatever proad does, until it takes them back.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::hand_over::Lent;
use super::protocol::{Failure, HeldPort};
use super::record::Asked;
use super::supervisor::{failure, refusal, Keeper};
use crate::ports::server::{Handle, Left};
use crate::ports::{Held, Port};
use crate::sys::supervise::adopt;

/// The way to the thread, which starts with the first port, and who has which.
#[derive(Debug, Default)]
pub struct Ports {
    handle: Option<Handle>,
    held: HashMap<String, Vec<Port>>,
}

/// The ports on their way to a newer keeper. Descriptors by number.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State(Vec<(String, Vec<Lending>)>);

type Lending = (Port, Option<i32>);

impl Ports {
    /// From now on a container holds these and no others. On failure it holds what it held.
    fn set(&mut self, id: &str, ports: Vec<Port>) -> crate::error::Result<()> {
        let before = self.held.get(id).map_or(&[][..], Vec::as_slice);
        let new = ports.iter().filter(|port| !before.iter().any(|old| old.same(port)));
        let held = new.map(|port| port.clone().hold()).collect::<crate::error::Result<Vec<_>>>()?;
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None if ports.is_empty() => return Ok(()),
            None => Handle::start()?,
        };
        handle.add(id, held);
        if !before.is_empty() {
            handle.keep(id, ports.clone());
        }
        if ports.is_empty() {
            self.held.remove(id);
        } else {
            self.held.insert(id.to_owned(), ports);
        }
        self.handle = Some(handle);
        Ok(())
    }

    /// Stop the thread: who has its ports now must `resume` them or hand them over.
    pub fn stop(&mut self) -> Left {
        self.handle.take().map(Handle::stop).unwrap_or_default()
    }

    /// Go on with what was stopped.
    pub fn resume(&mut self, left: Left) {
        if left.is_empty() {
            return;
        }
        match Handle::start() {
            Ok(handle) => {
                for (id, held) in left {
                    self.held.insert(id.clone(), held.iter().map(|held| held.port.clone()).collect());
                    handle.add(&id, held);
                }
                self.handle = Some(handle);
            }
            Err(error) => report!("{error}: published ports are not held"),
        }
    }
}

impl State {
    /// What goes to the newer keeper; the descriptors stay `left`'s.
    pub fn of(left: &Left, lender: &mut Lent) -> Self {
        use std::os::fd::AsFd;

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
        match ports.into_iter().map(parse).collect::<Result<Vec<_>, _>>() {
            Ok(ports) => {
                let result = self.ports.set(id, ports).map_err(|error| failure("ports", &error));
                self.conclude(asked, result);
            }
            Err(error) => self.refuse(asked, error),
        }
    }
}

fn parse(wanted: HeldPort) -> Result<Port, Failure> {
    let bad = || refusal("invalid", format!("bad port {}:{}", wanted.address, wanted.port));
    let address = wanted.address.parse().map_err(|_| bad())?;
    let target = match wanted.target.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| bad())?),
    };
    Ok(Port { protocol: wanted.protocol, address, number: wanted.port, target })
}

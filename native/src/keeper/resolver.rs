//! What the thread that answers for names is told, and how it comes through a hand-over.
//!
//! The keeper makes the sockets, since it has the namespaces; a container's exit ends its names here, so that they
//! do not depend on proad. The thread starts with the first container that has names.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::hand_over::Lent;
use super::protocol::{DnsSandbox, Failure};
use super::record::{Asked, Key, Phase};
use super::supervisor::{failure, refusal, Keeper};
use crate::dns::server::{Handle, Left, Pending};
use crate::dns::sockets::{self, Sockets};
use crate::dns::table::Sandbox;
use crate::sys::supervise::adopt;

/// The way to the thread, and whom it serves.
#[derive(Debug, Default)]
pub struct Resolver {
    handle: Option<Handle>,
    served: HashSet<String>,
}

/// The thread's part of the state on its way to a newer keeper. Descriptors by number.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    sandboxes: Vec<(Sandbox, [i32; 3])>,
    pending: Vec<(String, SocketAddr, serde_bytes::ByteBuf)>,
}

impl Resolver {
    fn set(&mut self, sandbox: Sandbox, sockets: Option<Sockets>) -> crate::error::Result<()> {
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None => Handle::start()?,
        };
        self.served.insert(sandbox.id.clone());
        handle.set(sandbox, sockets);
        self.handle = Some(handle);
        Ok(())
    }

    /// Forget a container; an unknown one is no error.
    pub fn drop(&mut self, id: &str) {
        if self.served.remove(id) {
            if let Some(handle) = &self.handle {
                handle.drop(id);
            }
        }
    }

    fn retain(&mut self, ids: HashSet<String>) {
        self.served.retain(|id| ids.contains(id));
        if let Some(handle) = &self.handle {
            handle.retain(ids);
        }
    }

    /// Stop the thread: who has its state now must `resume` it or hand it over.
    pub fn stop(&mut self) -> Left {
        self.handle.take().map(Handle::stop).unwrap_or_default()
    }

    /// Go on with what was stopped.
    pub fn resume(&mut self, left: Left) {
        if left.sandboxes.is_empty() {
            return;
        }
        match Handle::start() {
            Ok(handle) => {
                self.served = left.sandboxes.iter().map(|(sandbox, _)| sandbox.id.clone()).collect();
                handle.resume(left);
                self.handle = Some(handle);
            }
            Err(error) => report!("{error}: containers have no names"),
        }
    }
}

impl State {
    /// What goes to the newer keeper; the descriptors stay `left`'s.
    pub fn of(left: &Left, lender: &mut Lent) -> Self {
        let sandboxes = left.sandboxes.iter();
        let sandboxes = sandboxes
            .map(|(sandbox, sockets)| (sandbox.clone(), sockets.descriptors().map(|fd| lender.lend(fd))))
            .collect();
        let pending = left.pending.iter();
        let pending = pending
            .map(|Pending { id, client, query }| (id.clone(), *client, query.clone().into()))
            .collect();
        Self { sandboxes, pending }
    }

    /// What came from the older one.
    pub fn adopt(self) -> Left {
        let adopt_one = |(sandbox, [udp, tcp, netns]): (Sandbox, [i32; 3])| {
            let sockets = Sockets { udp: adopt(udp)?, tcp: adopt(tcp)?, netns: adopt(netns)? };
            Some((sandbox, sockets))
        };
        Left {
            sandboxes: self.sandboxes.into_iter().filter_map(adopt_one).collect(),
            pending: self
                .pending
                .into_iter()
                .map(|(id, client, query)| Pending { id, client, query: query.into_vec() })
                .collect(),
        }
    }
}

impl Keeper {
    pub(super) fn serve_names(&mut self, asked: Asked, sandbox: DnsSandbox) {
        match self.try_to_serve(sandbox) {
            Ok(()) => self.done(asked),
            Err(error) => self.refuse(asked, error),
        }
    }

    fn try_to_serve(&mut self, sandbox: DnsSandbox) -> Result<(), Failure> {
        let sandbox = sandbox.check().map_err(|error| failure("resolver", &error))?;
        let sockets = self.sockets_for(&sandbox)?;
        self.resolver.set(sandbox, sockets).map_err(|error| failure("resolver", &error))
    }

    /// New sockets for a container that has none yet, or is about to start in a new namespace.
    fn sockets_for(&mut self, sandbox: &Sandbox) -> Result<Option<Sockets>, Failure> {
        let made = if let Some(made) = sandbox.key.and_then(|key| self.pool.take_names(key)) {
            made
        } else if self.resolver.served.contains(&sandbox.id) {
            return Ok(None);
        } else if let Some(running) = self.table.running(&sandbox.id) {
            self.pool.host().visit(running.handle.pidfd.as_fd(), sockets::open)
        } else {
            return Err(refusal("not_found", format!("{} neither runs nor is about to", sandbox.id)));
        };
        made.map(Some).map_err(|error| failure("resolver", &error))
    }

    /// A new proad: what an older one had told of starts that have not come to be is nobody's.
    pub(super) fn retain_names(&mut self) {
        let live = self.table.iter().filter(|(_, record)| {
            record.key.exec_id.is_none() && matches!(record.phase, Phase::Starting(_) | Phase::Running(_))
        });
        let ids = live.map(|(_, record)| record.key.id.clone()).collect();
        self.resolver.retain(ids);
    }

    /// A container has ended, or has not started.
    pub(super) fn forget_names(&mut self, key: &Key) {
        if key.exec_id.is_none() {
            self.resolver.drop(&key.id);
        }
    }
}

//! Networks of containers: namespaces made ready for the pool, and interfaces that come and go while one runs.

use std::os::fd::AsFd;

use super::protocol::{Endpoint, Failure, Reply};
use super::record::Asked;
use super::supervisor::{failure, refusal, Deferred, Keeper};
use crate::netns::DefaultRoute;

impl Keeper {
    pub(super) fn prepare_network(&mut self, asked: Asked, key: u64, endpoints: &[Endpoint]) {
        if asked.connection != self.connections {
            return;
        }
        if self.pool.contains(key) {
            return self.refuse(asked, refusal("conflict", format!("network {key} is prepared already")));
        }
        match self.pool.prepare(key, &endpoints.iter().collect::<Vec<_>>()) {
            Ok(host_interface) => {
                self.answer(asked, &Reply::NetReady { seq: asked.seq, key, host_interface });
            }
            Err(error) => self.refuse(asked, failure("network", &error)),
        }
    }

    pub(super) fn make_spare_network(&mut self) {
        match self.pool.make_spare() {
            Ok(()) if self.pool.wants_spare() => self.deferred.push_back(Deferred::SpareNetworks),
            Ok(()) => {}
            // Starts make their own as long as there is none.
            Err(error) => report!("{error}"),
        }
    }

    pub(super) fn attach_network(
        &mut self,
        asked: Asked,
        id: &str,
        endpoint: &Endpoint,
        routes: &[DefaultRoute],
    ) {
        let Some(running) = self.table.running(id) else {
            return self.refuse(asked, refusal("not_found", format!("container {id} is not running")));
        };
        match self.pool.host().attach(running.handle.pidfd.as_fd(), endpoint, routes) {
            Ok(host_interface) => {
                self.answer(asked, &Reply::NetReady { seq: asked.seq, key: 0, host_interface });
            }
            Err(error) => self.refuse(asked, failure("network", &error)),
        }
    }

    /// The interface is out of use when this returns, and deleted a while later.
    pub(super) fn detach_network(
        &mut self,
        id: &str,
        interface: &str,
        routes: &[DefaultRoute],
    ) -> Result<(), Failure> {
        let Some(running) = self.table.running(id) else {
            return Err(refusal("not_found", format!("container {id} is not running")));
        };
        let retired = self.pool.host().detach(running.handle.pidfd.as_fd(), interface, routes);
        self.janitor.delete(retired.map_err(|error| failure("network", &error))?);
        Ok(())
    }
}

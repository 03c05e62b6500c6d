//! Network namespaces made ready before any start wants them, held by fd and by nothing else.

use std::collections::HashMap;
use std::os::fd::AsFd;

use crate::dns::sockets::{self, Sockets};
use crate::error::Result;
use crate::keeper::protocol::Endpoint;
use crate::netns::{HostNetwork, Prepared};

/// Namespaces with only `lo` that are kept ready once the first was asked for.
const SPARES: usize = 2;

#[derive(Debug)]
pub struct NetPool {
    host: HostNetwork,
    /// Nothing but `lo`, which is up.
    spares: Vec<Prepared>,
    prepared: HashMap<u64, Prepared>,
    /// The resolver's sockets in prepared namespaces, by the same keys. Made again where a hand-over loses them.
    names: HashMap<u64, Sockets>,
}

impl NetPool {
    /// A pool for the network namespace of the calling thread.
    pub fn new() -> Result<Self> {
        let host = HostNetwork::open()?;
        Ok(Self { host, spares: Vec::new(), prepared: HashMap::new(), names: HashMap::new() })
    }

    /// Make a namespace ready under `key`; answers the host's end of its veth.
    pub fn prepare(&mut self, key: u64, endpoints: &[&Endpoint]) -> Result<String> {
        let prepared = self.host.prepare(endpoints)?;
        if endpoints.iter().any(|endpoint| endpoint.names) {
            self.names.insert(key, self.host.visit(prepared.netns.as_fd(), sockets::open)?);
        }
        let host_interface = prepared.host_interface.clone();
        self.insert(key, prepared);
        Ok(host_interface)
    }

    /// The host's side, to change the networks of what runs.
    #[must_use]
    pub fn host(&self) -> &HostNetwork {
        &self.host
    }

    /// Keep a namespace that is ready already.
    pub fn insert(&mut self, key: u64, prepared: Prepared) {
        self.prepared.insert(key, prepared);
    }

    /// The resolver's sockets in a namespace that no start has taken yet, `None` where there is no such namespace.
    pub fn take_names(&mut self, key: u64) -> Option<Result<Sockets>> {
        let prepared = self.prepared.get(&key)?;
        let made = self.names.remove(&key).map(Ok);
        Some(made.unwrap_or_else(|| self.host.visit(prepared.netns.as_fd(), sockets::open)))
    }

    #[must_use]
    pub fn contains(&self, key: u64) -> bool {
        self.prepared.contains_key(&key)
    }

    /// Out of the pool; dropping it lets the kernel take the namespace down in its own time.
    pub fn take(&mut self, key: u64) -> Option<Prepared> {
        self.names.remove(&key);
        self.prepared.remove(&key)
    }

    /// A namespace with only `lo`, if one is ready.
    pub fn take_spare(&mut self) -> Option<Prepared> {
        self.spares.pop()
    }

    #[must_use]
    pub fn wants_spare(&self) -> bool {
        self.spares.len() < SPARES
    }

    pub fn make_spare(&mut self) -> Result<()> {
        self.spares.push(self.host.loopback_only()?);
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Prepared)> {
        self.prepared.iter().map(|(key, prepared)| (*key, prepared))
    }
}

//! The keeper's protocol: one `MessagePack` map per `SOCK_SEQPACKET` packet, fds by `SCM_RIGHTS`.
//!
//! | from proad            | fds        | answer                          |
//! |-----------------------|------------|---------------------------------|
//! | hello                 |            | welcome (state of every process)|
//! | start                 | 0, 1: log  | started / failed                |
//! | exec                  |            | started / failed                |
//! | attach                | 1: client  | done / failed                   |
//! | signal, resize, `close_stdin`, forget, acknowledge | | done / failed |
//! | `net_prepare`, `net_attach` |        | `net_ready` / failed              |
//! | `net_detach`, `ports_hold` |         | done / failed                     |
//! | `net_release`           |            | done                            |
//! | `dns_set`, `dns_drop`     |            | done / failed                   |
//! | `hand_over`             |            | done, then the socket closes    |
//! | shutdown              |            | done, then the keeper exits     |
//!
//! Every request carries `seq`, its answer the same `seq`. Events (`exited`, `oom`) have no `seq`
//! and may come at any time after `welcome`. One proad at a time: a new connection replaces the old.
//! Mirror of `python/proa/schema/keeper.py`.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::ship::Shipping;
use crate::dns::table::{Membership, Sandbox, Upstream};
use crate::error::{Error, Result};
use crate::netns::DefaultRoute;
use crate::plan::{Plan, Process, Stdio};

pub const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    Hello {
        seq: u64,
        version: u32,
    },
    /// Start the container of `plan`. What its log lines are shipped by may come along, connected already.
    Start {
        seq: u64,
        plan: Box<Plan>,
        #[serde(default)]
        ship: Option<Box<Shipping>>,
    },
    /// Run `process` in the running container `id`. `exec_id` is unique per container.
    Exec {
        seq: u64,
        id: String,
        exec_id: String,
        process: Box<Process>,
        stdio: Stdio,
        /// After this it is killed, with its process group; 0 for never.
        #[serde(default)]
        timeout_ns: u64,
    },
    /// Serve a client on the fd that comes along. Before start (or exec), the client waits for it.
    Attach(Box<Attach>),
    Signal {
        seq: u64,
        id: String,
        exec_id: Option<String>,
        signal: i32,
    },
    Resize {
        seq: u64,
        id: String,
        exec_id: Option<String>,
        rows: u16,
        columns: u16,
    },
    CloseStdin {
        seq: u64,
        id: String,
        exec_id: Option<String>,
    },
    /// Drop waiting clients of an id that will not start, or what is kept of an exited one.
    Forget {
        seq: u64,
        id: String,
        exec_id: Option<String>,
    },
    /// proad has stored this exit: the ledger may drop it.
    Acknowledge {
        seq: u64,
        id: String,
        exec_id: Option<String>,
    },
    /// Make a network namespace ready: veth on `bridge`, addresses, routes, all up.
    NetPrepare {
        seq: u64,
        key: u64,
        endpoint: Box<Endpoint>,
        /// Its further interfaces.
        #[serde(default)]
        more: Vec<Endpoint>,
    },
    /// One more interface for a running container; its default routes are these from now on.
    NetAttach {
        seq: u64,
        id: String,
        endpoint: Box<Endpoint>,
        routes: Vec<DefaultRoute>,
    },
    /// Take an interface from a running container; its default routes are these from now on.
    NetDetach {
        seq: u64,
        id: String,
        interface: String,
        routes: Vec<DefaultRoute>,
    },
    /// Drop a prepared namespace that no start has taken.
    NetRelease {
        seq: u64,
        key: u64,
    },
    /// From now on the resolver knows this of a container, and nothing else.
    DnsSet {
        seq: u64,
        sandbox: Box<DnsSandbox>,
    },
    /// Forget a container and its names; an unknown one is no error.
    DnsDrop {
        seq: u64,
        id: String,
    },
    /// From now on container `id` holds these ports of the host, and no others.
    PortsHold {
        seq: u64,
        id: String,
        ports: Vec<HeldPort>,
    },
    /// Re-execute as a newer keeper: `argv` is the command line to run; state and fds are kept.
    HandOver {
        seq: u64,
        argv: Vec<String>,
    },
    /// End. With `kill` every container is killed first; without it a running one is an error.
    Shutdown {
        seq: u64,
        kill: bool,
    },
}

#[derive(Debug, Deserialize)]
pub struct Attach {
    pub seq: u64,
    pub id: String,
    pub exec_id: Option<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Replay the log before the live stream.
    pub logs: bool,
    /// Follow the live stream; false ends after `logs`.
    pub stream: bool,
    /// Docker's 8-byte stream headers; false for a tty.
    pub multiplexed: bool,
    /// Bytes that detach the client when typed, for a tty; empty for never.
    pub detach_keys: ByteBuf,
    /// Written to the client first: the HTTP response head.
    pub preface: ByteBuf,
    /// Input that was read from the client already.
    pub initial_input: ByteBuf,
}

/// A port of the host to hold.
#[derive(Debug, Clone, Deserialize)]
pub struct HeldPort {
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// An address of the host; `0.0.0.0` and `::` for every one of a family.
    pub address: String,
    pub port: u16,
    /// `172.17.0.2:80`: where what arrives is passed on; empty for nowhere.
    pub target: String,
}

/// One network interface of a container.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Endpoint {
    /// Name of the host's bridge or parent interface; empty for a namespace with only `lo`.
    pub bridge: String,
    /// `veth` (or empty), `macvlan`, `ipvlan`.
    #[serde(default)]
    pub kind: String,
    /// Of a macvlan: `bridge`, `private`, `vepa`, `passthru`; of an ipvlan: `l2`, `l3`, `l3s`, then perhaps
    /// `/bridge`, `/private`, `/vepa`.
    #[serde(default)]
    pub mode: String,
    /// Name inside: `eth0`.
    pub interface: String,
    /// Six bytes.
    pub mac: ByteBuf,
    pub mtu: u32,
    /// `10.0.0.2/16` style, v4 and v6.
    pub addresses: Vec<String>,
    /// Default gateways, v4 and v6; `0.0.0.0` and `::` for a route without one.
    pub gateways: Vec<String>,
    /// It does not reach other isolated ports of its bridge.
    #[serde(default)]
    pub isolated: bool,
    /// Frames may go back where they came from.
    #[serde(default)]
    pub hairpin: bool,
    /// Its container will be told to the resolver: what that needs is made ready, too.
    #[serde(default)]
    pub names: bool,
    /// (path below /proc/sys/net, value), set before the interface is up.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

/// A container that is served at 127.0.0.11 and found by its names, addresses in text.
#[derive(Debug, Deserialize)]
pub struct DnsSandbox {
    /// The container's.
    pub id: String,
    /// The prepared namespace that it will start in; none for a container that runs.
    pub key: Option<u64>,
    /// In the order in which names are looked up.
    pub networks: Vec<DnsNetwork>,
    /// None for a container with only internal networks.
    pub upstreams: Vec<DnsUpstream>,
    /// Names without a dot are not asked of the upstreams.
    pub ndots: bool,
}

#[derive(Debug, Deserialize)]
pub struct DnsNetwork {
    pub id: String,
    pub name: String,
    /// The first is what its addresses' reverse look-up answers.
    pub names: Vec<String>,
    pub addresses: Vec<String>,
    /// (alias, name): of the container's own, for names of this network.
    pub links: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
pub struct DnsUpstream {
    pub address: String,
    pub port: u16,
    /// It is asked from the host's network namespace, not from the container's.
    pub host: bool,
}

impl DnsSandbox {
    /// The same with every address and name understood.
    pub fn check(self) -> Result<Sandbox> {
        let address =
            |text: &String| text.parse().map_err(|_| Error::Invalid(format!("bad address {text:?}")));
        let membership = |network: DnsNetwork| {
            let addresses = network.addresses.iter().map(address).collect::<Result<_>>()?;
            let DnsNetwork { id, name, names, links, .. } = network;
            Ok(Membership { id, name, names, addresses, links })
        };
        let upstream = |upstream: DnsUpstream| {
            let DnsUpstream { port, host, .. } = upstream;
            Ok(Upstream { address: address(&upstream.address)?, port, host })
        };
        let sandbox = Sandbox {
            id: self.id,
            key: self.key,
            networks: self.networks.into_iter().map(membership).collect::<Result<_>>()?,
            upstreams: self.upstreams.into_iter().map(upstream).collect::<Result<_>>()?,
            ndots: self.ndots,
        };
        sandbox.check()?;
        Ok(sandbox)
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    Welcome {
        seq: u64,
        version: u32,
        pid: u32,
        processes: Vec<ProcessState>,
        prepared: Vec<u64>,
    },
    Started {
        seq: u64,
        pid: u32,
        started_at_ns: u64,
        warnings: Vec<String>,
    },
    NetReady {
        seq: u64,
        key: u64,
        host_interface: String,
    },
    Done {
        seq: u64,
    },
    Failed {
        seq: u64,
        error: Failure,
    },
    Exited(Exit),
    /// The kernel killed a process of the container for want of memory.
    Oom {
        id: String,
    },
}

/// Why a request failed: the step, what it was about, and the kernel's word.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// `exec`, `mount`, `cgroup`, `seccomp`, ... or `not_found`, `conflict`, `invalid`.
    pub step: String,
    /// Path, key or message; may be empty.
    pub subject: String,
    /// 0 where no call failed.
    pub errno: i32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exit {
    pub id: String,
    pub exec_id: Option<String>,
    /// 0 to 255; 128 + n for signal n.
    pub code: i32,
    pub reason: ExitReason,
    /// Any process of the container was killed for want of memory.
    pub oom: bool,
    /// Unix time in nanoseconds.
    pub finished_at_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    Exit,
    Signal,
    Oom,
    Timeout,
    EngineError,
}

/// One process the keeper knows of: running, or exited and not acknowledged.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessState {
    pub id: String,
    pub exec_id: Option<String>,
    pub pid: u32,
    pub started_at_ns: u64,
    pub exit: Option<Exit>,
}

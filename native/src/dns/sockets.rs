//! Port 53 of 127.0.0.11, without taking it from the container.
//!
//! A server in the container that listens on port 53 of every address could not start with a socket of ours on that
//! port. So the sockets have another one, and a table of constant rules in the namespace leads port 53 of this one
//! address there and back. They change ports and keep no state: there is no connection tracking in it. The sockets
//! are made before the container starts, so that nothing in it is faster.
//!
//! Source: the kernel's uapi header `netfilter/nf_tables.h`; ip(7), udp(7).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{bind, getsockname, listen, socket_with, AddressFamily, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::netlink::{Batch, Socket, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

/// Docker's.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// Reserved by IANA, so that no program expects to have it.
const OWN_PORT: u16 = 1011;
const BACKLOG: i32 = 64;
/// Bytes of queries that wait for their turn, as the kernel counts them: some 1,300 of them. The default is a fifth, which
/// programs that all start at once fill while the thread waits for a processor; what is dropped is asked again in five seconds.
const QUERIES: usize = 1 << 20;

/// The sockets of one container. They keep its network namespace.
#[derive(Debug)]
pub struct Sockets {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    /// Of the container, for questions to servers that only it can reach.
    pub netns: OwnedFd,
}

/// Make them in the calling thread's network namespace, which is `netns` and has `lo` up.
pub fn open(netns: OwnedFd) -> Result<Sockets> {
    let (udp, tcp) = bound(OWN_PORT).or_else(|error| match error {
        Error::Os { .. } if error.errno() == Errno::ADDRINUSE.raw_os_error() => bound(0),
        other => Err(other),
    })?;
    if let Err(error) = lead_here(local_port(&udp)?, local_port(&tcp)?) {
        // A kernel without nf_tables: then the port is the container's no more.
        report!("{error}: names are served on port 53 itself");
        let (udp, tcp) = bound(PORT)?;
        return Ok(Sockets { udp, tcp, netns });
    }
    Ok(Sockets { udp, tcp, netns })
}

fn bound(port: u16) -> Result<(OwnedFd, OwnedFd)> {
    let udp = socket(SocketType::DGRAM, port)?;
    // Ignored: without the privilege (of a rootless keeper) it is as long as the host lets it be.
    let _ = set_socket_recv_buffer_size_force(&udp, QUERIES / 2)
        .or_else(|_| set_socket_recv_buffer_size(&udp, QUERIES / 2));
    let tcp = socket(SocketType::STREAM, port)?;
    listen(&tcp, BACKLOG).map_err(|e| Error::os("listen at", format!("{ADDRESS}:{port}"), e))?;
    Ok((udp, tcp))
}

fn socket(kind: SocketType, port: u16) -> Result<OwnedFd> {
    let failed = |e| Error::os("bind to", format!("{ADDRESS}:{port}"), e);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None).map_err(failed)?;
    bind(&socket, &SocketAddrV4::new(ADDRESS, port)).map_err(failed)?;
    Ok(socket)
}

fn local_port(socket: &OwnedFd) -> Result<u16> {
    let name = getsockname(socket).map_err(|e| Error::os("getsockname", "resolver", e))?;
    let address = SocketAddr::try_from(name).map_err(|e| Error::os("getsockname", "resolver", e))?;
    Ok(address.port())
}

const TABLE: &str = "proa-resolver";
const CHAIN: &str = "output";

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const IPV4: u8 = 2;

const HOOK_OUTPUT: u32 = 3;
/// Before connection tracking (-200) looks at the packet.
const PRIORITY: i32 = -300;

const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const REGISTER: u32 = 1;
const CHECKSUM_INET: u32 = 1;

const TABLE_NAME: u16 = 1;
const EXPRESSION: u16 = 1;

/// One direction of one protocol.
#[derive(Clone, Copy)]
struct Change {
    protocol: u8,
    /// In the transport header.
    checksum_at: u32,
    /// Of 127.0.0.11 in the IPv4 header.
    address_at: u32,
    /// Of the port in the transport header.
    port_at: u32,
    from: u16,
    to: u16,
}

/// Lead port 53 to the sockets' own ports, and answers back, in the calling thread's network namespace. All or
/// nothing. Rules that are there already (of a container that was served before) are replaced, for which the kernel
/// takes some 10 ms of waiting, as for all that is deleted.
fn lead_here(udp: u16, tcp: u16) -> Result<()> {
    match write_rules(udp, tcp, true) {
        Err(error) if error.errno() == Errno::EXIST.raw_os_error() => write_rules(udp, tcp, false),
        result => result,
    }
}

fn write_rules(udp: u16, tcp: u16, anew: bool) -> Result<()> {
    const DESTINATION: (u32, u32) = (16, 2);
    const SOURCE: (u32, u32) = (12, 0);
    let mut batch = Batch::default();
    mark(&mut batch, BATCH_BEGIN);
    let first = if anew { NLM_F_EXCL } else { 0 };
    table(&mut batch, NEWTABLE, NLM_F_CREATE | first);
    if !anew {
        table(&mut batch, DELTABLE, 0);
        table(&mut batch, NEWTABLE, NLM_F_CREATE);
    }
    chain(&mut batch);
    for (protocol, own, checksum_at) in [(libc::IPPROTO_UDP, udp, 6), (libc::IPPROTO_TCP, tcp, 16)] {
        for ((address_at, port_at), from, to) in [(DESTINATION, PORT, own), (SOURCE, own, PORT)] {
            rule(&mut batch, Change { protocol: protocol as u8, checksum_at, address_at, port_at, from, to });
        }
    }
    batch.acknowledge();
    mark(&mut batch, BATCH_END);
    Socket::netfilter()?.run(batch)
}

fn table(batch: &mut Batch, kind: u16, flags: u16) {
    batch.message(kind, flags, &[IPV4, 0, 0, 0], "make nft table", TABLE);
    batch.text(TABLE_NAME, TABLE);
}

fn mark(batch: &mut Batch, kind: u16) {
    batch.message(kind, 0, &[0, 0, 0, 10], "nft transaction", TABLE);
}

fn chain(batch: &mut Batch) {
    batch.message(NEWCHAIN, NLM_F_CREATE, &[IPV4, 0, 0, 0], "make nft chain", CHAIN);
    batch.text(TABLE_NAME, TABLE);
    batch.text(3, CHAIN);
    batch.nest(4, |batch| {
        batch.attribute(1, &HOOK_OUTPUT.to_be_bytes());
        batch.attribute(2, &PRIORITY.to_be_bytes());
    });
    batch.text(7, "filter");
}

/// `meta l4proto P ip daddr 127.0.0.11 P dport FROM P dport set TO`, or with source in place of destination.
fn rule(batch: &mut Batch, change: Change) {
    batch.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &[IPV4, 0, 0, 0], "add nft rule to", CHAIN);
    batch.text(TABLE_NAME, TABLE);
    batch.text(2, CHAIN);
    batch.nest(4, |batch| {
        expression(batch, "payload", |batch| load(batch, NETWORK_HEADER, change.address_at, 4));
        expression(batch, "cmp", |batch| equals(batch, &ADDRESS.octets()));
        expression(batch, "meta", |batch| {
            batch.attribute(1, &REGISTER.to_be_bytes());
            batch.attribute(2, &META_L4PROTO.to_be_bytes());
        });
        expression(batch, "cmp", |batch| equals(batch, &[change.protocol]));
        expression(batch, "payload", |batch| load(batch, TRANSPORT_HEADER, change.port_at, 2));
        expression(batch, "cmp", |batch| equals(batch, &change.from.to_be_bytes()));
        expression(batch, "immediate", |batch| {
            batch.attribute(1, &REGISTER.to_be_bytes());
            batch.nest(2, |batch| batch.attribute(1, &change.to.to_be_bytes()));
        });
        expression(batch, "payload", |batch| {
            for (kind, value) in [(5, REGISTER), (2, TRANSPORT_HEADER), (3, change.port_at), (4, 2)] {
                batch.attribute(kind, &value.to_be_bytes());
            }
            batch.attribute(6, &CHECKSUM_INET.to_be_bytes());
            batch.attribute(7, &change.checksum_at.to_be_bytes());
        });
    });
}

fn expression(batch: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    batch.nest(EXPRESSION, |batch| {
        batch.text(1, name);
        batch.nest(2, fill);
    });
}

fn load(batch: &mut Batch, base: u32, offset: u32, length: u32) {
    for (kind, value) in [(1, REGISTER), (2, base), (3, offset), (4, length)] {
        batch.attribute(kind, &value.to_be_bytes());
    }
}

fn equals(batch: &mut Batch, value: &[u8]) {
    batch.attribute(1, &REGISTER.to_be_bytes());
    batch.attribute(2, &0u32.to_be_bytes());
    batch.nest(3, |batch| batch.attribute(1, value));
}

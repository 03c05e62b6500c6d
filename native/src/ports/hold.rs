//! A port of the host, held by a socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{bind, listen, socket_with, sockopt, AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const BACKLOG: i32 = 512;

/// One port to hold, and where to pass on what arrives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// `tcp` or `udp`; others have no socket to hold.
    pub protocol: String,
    /// Of the host; `0.0.0.0` and `::` for every one of a family.
    pub address: IpAddr,
    pub number: u16,
    /// The container's; `None` passes nothing on.
    pub target: Option<SocketAddr>,
}

/// A port and its socket; none for a protocol without one.
#[derive(Debug)]
pub struct Held {
    pub port: Port,
    pub socket: Option<OwnedFd>,
}

impl Port {
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.protocol == "tcp"
    }

    /// The same port of the host, wherever it leads.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.address == other.address && self.number == other.number
    }

    /// Bind it. The error's subject is `address:port/protocol`.
    pub fn hold(self) -> Result<Held> {
        let kind = match self.protocol.as_str() {
            "tcp" => SocketType::STREAM,
            "udp" => SocketType::DGRAM,
            _ => return Ok(Held { port: self, socket: None }),
        };
        let at = SocketAddr::new(self.address, self.number);
        let bound =
            open(&at, kind).map_err(|errno| Error::os("bind", format!("{at}/{}", self.protocol), errno));
        Ok(Held { socket: Some(bound?), port: self })
    }
}

fn open(at: &SocketAddr, kind: SocketType) -> std::result::Result<OwnedFd, rustix::io::Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, at)?;
    if kind == SocketType::STREAM {
        // Without it another listener with SO_REUSEADDR could bind the port, too.
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

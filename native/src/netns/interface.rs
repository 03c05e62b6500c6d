//! What an endpoint asks for, with every part known to be good.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::keeper::protocol::Endpoint;

/// What the interface is on the host's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A veth whose other end is a port of a bridge.
    Veth,
    /// (mode of `enum macvlan_mode`)
    Macvlan(u32),
    /// (mode of `enum ipvlan_mode`, flags)
    Ipvlan(u16, u16),
}

/// An endpoint whose parts are known to be good.
#[derive(Debug)]
pub(super) struct Interface<'e> {
    pub(super) name: &'e str,
    pub(super) kind: Kind,
    /// Empty for one of the kernel's choosing.
    pub(super) mac: &'e [u8],
    /// 0 for the parent's.
    pub(super) mtu: u32,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// An unspecified address is a route to whatever is on the link.
    pub(super) gateways: Vec<IpAddr>,
    pub(super) isolated: bool,
    pub(super) hairpin: bool,
    /// (path below /proc/sys/net, value)
    pub(super) sysctls: Vec<(&'e str, &'e str)>,
}

impl<'e> Interface<'e> {
    pub(super) fn check(endpoint: &'e Endpoint) -> Result<Self> {
        let name = check_name(&endpoint.interface)?;
        let kind = kind(&endpoint.kind, &endpoint.mode)?;
        if endpoint.mac.len() != 6 && (kind == Kind::Veth || !endpoint.mac.is_empty()) {
            return Err(Error::Invalid(format!("bad MAC address of {} bytes", endpoint.mac.len())));
        }
        let addresses = endpoint.addresses.iter().map(|text| parse_prefix(text)).collect::<Result<_>>()?;
        let gateways = endpoint.gateways.iter().map(|text| parse_gateway(text)).collect::<Result<_>>()?;
        let sysctls =
            endpoint.sysctls.iter().map(|(path, value)| sysctl(path, value)).collect::<Result<_>>()?;
        Ok(Self {
            name,
            kind,
            mac: &endpoint.mac,
            mtu: endpoint.mtu,
            addresses,
            gateways,
            isolated: endpoint.isolated,
            hairpin: endpoint.hairpin,
            sysctls,
        })
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|(address, _)| address.is_ipv6())
    }
}

pub(super) fn check_name(name: &str) -> Result<&str> {
    let good = |c: u8| c.is_ascii_graphic() && c != b'/' && c != b':';
    if name.is_empty() || name.len() > 15 || !name.bytes().all(good) || matches!(name, "." | ".." | "lo") {
        return Err(Error::Invalid(format!("bad interface name {name:?}")));
    }
    Ok(name)
}

fn kind(kind: &str, mode: &str) -> Result<Kind> {
    let found = match (kind, mode) {
        ("" | "veth", _) => Kind::Veth,
        ("macvlan", "private") => Kind::Macvlan(1),
        ("macvlan", "vepa") => Kind::Macvlan(2),
        ("macvlan", "bridge") => Kind::Macvlan(4),
        ("macvlan", "passthru") => Kind::Macvlan(8),
        ("ipvlan", mode) => {
            let (mode, flag) = mode.split_once('/').unwrap_or((mode, "bridge"));
            let mode = ["l2", "l3", "l3s"].iter().position(|known| *known == mode);
            let flag = ["bridge", "private", "vepa"].iter().position(|known| *known == flag);
            match (mode, flag) {
                (Some(mode), Some(flag)) => Kind::Ipvlan(mode as u16, flag as u16),
                _ => return Err(Error::Invalid(format!("bad ipvlan mode {mode:?}"))),
            }
        }
        _ => return Err(Error::Invalid(format!("bad interface kind {kind:?}, mode {mode:?}"))),
    };
    Ok(found)
}

/// `10.0.0.2/16`.
fn parse_prefix(text: &str) -> Result<(IpAddr, u8)> {
    let parse = || {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
    };
    parse().ok_or_else(|| Error::Invalid(format!("bad address {text:?}: must be like 10.0.0.2/16")))
}

pub(super) fn parse_gateway(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::Invalid(format!("bad gateway {text:?}")))
}

/// Only below /proc/sys/net, which is the namespace's own, and never up and out of it.
fn sysctl<'t>(path: &'t str, value: &'t str) -> Result<(&'t str, &'t str)> {
    let good = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(good) && !path.contains('\0') {
        return Ok((path, value));
    }
    Err(Error::Invalid(format!("bad sysctl {path:?}")))
}

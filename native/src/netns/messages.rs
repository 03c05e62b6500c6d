//! The route messages that make and change a container's interfaces.
//!
//! Sources: rtnetlink(7), veth(4); the kernel's uapi headers `if_link.h`, `if_addr.h`, `rtnetlink.h`.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::interface::{Interface, Kind};
use crate::netlink::{Batch, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
/// The group of interfaces that are out of use; any number but 0, where all are that were not put elsewhere.
const RETIRED: u32 = 0x7072_6f61;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(super) const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// No duplicate address detection: the engine has allocated the address.
const IFA_F_NODAD: u8 = 2;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;

/// `struct ifinfomsg`.
pub(super) fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

fn link_up(batch: &mut Batch, index: u32, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(index, IFF_UP, IFF_UP), "set up", name);
}

pub(super) fn named_up(batch: &mut Batch, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(0, IFF_UP, IFF_UP), "set up", name);
    batch.text(IFLA_IFNAME, name);
}

/// A bridge port needs no address of its own; without this each would join multicast groups and probe.
pub(super) fn no_link_local(batch: &mut Batch, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(0, 0, 0), "configure", name);
    batch.text(IFLA_IFNAME, name);
    batch.nest(IFLA_AF_SPEC, |batch| {
        batch.nest(libc::AF_INET6 as u16, |batch| {
            batch.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
}

pub(super) fn new_veth(
    batch: &mut Batch,
    name: &str,
    netns: &OwnedFd,
    interface: &Interface<'_>,
    master: u32,
) {
    let head = link_head(0, 0, 0);
    batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, "add veth", name);
    batch.text(IFLA_IFNAME, name);
    mtu(batch, interface);
    one_queue(batch);
    batch.attribute(IFLA_MASTER, &master.to_ne_bytes());
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.text(IFLA_INFO_KIND, "veth");
        batch.nest(IFLA_INFO_DATA, |batch| {
            batch.nest_after(VETH_INFO_PEER, &head, |batch| {
                batch.text(IFLA_IFNAME, interface.name);
                batch.attribute(IFLA_ADDRESS, interface.mac);
                mtu(batch, interface);
                one_queue(batch);
                batch.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
            });
        });
    });
}

fn mtu(batch: &mut Batch, interface: &Interface<'_>) {
    if interface.mtu != 0 {
        batch.attribute(IFLA_MTU, &interface.mtu.to_ne_bytes());
    }
}

/// What the port may do: not send to other isolated ports; get its own frames back.
pub(super) fn port_flags(batch: &mut Batch, index: u32, name: &str, interface: &Interface<'_>) {
    let mut head = link_head(index, 0, 0);
    head[0] = libc::AF_BRIDGE as u8;
    batch.message(RTM_SETLINK, 0, &head, "set bridge port", name);
    batch.nest(IFLA_PROTINFO, |batch| {
        batch.attribute(IFLA_BRPORT_MODE, &[u8::from(interface.hairpin)]);
        batch.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(interface.isolated)]);
    });
}

/// A macvlan or ipvlan of the host's interface `parent`, made in the namespace at once.
pub(super) fn new_slave(batch: &mut Batch, netns: &OwnedFd, interface: &Interface<'_>, parent: u32) {
    let head = link_head(0, 0, 0);
    batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, "add interface", interface.name);
    batch.text(IFLA_IFNAME, interface.name);
    if !interface.mac.is_empty() && matches!(interface.kind, Kind::Macvlan(_)) {
        batch.attribute(IFLA_ADDRESS, interface.mac);
    }
    mtu(batch, interface);
    batch.attribute(IFLA_LINK, &parent.to_ne_bytes());
    batch.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    batch.nest(IFLA_LINKINFO, |batch| match interface.kind {
        Kind::Macvlan(mode) => {
            batch.text(IFLA_INFO_KIND, "macvlan");
            batch.nest(IFLA_INFO_DATA, |batch| batch.attribute(IFLA_MACVLAN_MODE, &mode.to_ne_bytes()));
        }
        Kind::Ipvlan(mode, flags) => {
            batch.text(IFLA_INFO_KIND, "ipvlan");
            batch.nest(IFLA_INFO_DATA, |batch| {
                batch.attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
                batch.attribute(IFLA_IPVLAN_FLAGS, &flags.to_ne_bytes());
            });
        }
        Kind::Veth => {}
    });
}

/// Out of sight before it is out of the way: down at once, and under another name so that its own is free.
pub(super) fn retire(batch: &mut Batch, index: u32, interface: &str, other: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(index, 0, IFF_UP), "set down", interface);
    batch.message(RTM_NEWLINK, 0, &link_head(index, 0, 0), "rename", interface);
    batch.text(IFLA_IFNAME, other);
    batch.attribute(IFLA_GROUP, &RETIRED.to_ne_bytes());
}

/// All that were retired in a namespace until now go at once: the kernel waits as long for many as for one.
pub(super) fn delete_retired(batch: &mut Batch) {
    batch.message(RTM_DELLINK, 0, &link_head(0, 0, 0), "remove", "interfaces");
    batch.attribute(IFLA_GROUP, &RETIRED.to_ne_bytes());
}

/// Newer kernels give a veth a queue for every CPU, each a directory in sysfs that takes time to make and memory
/// to keep; packets between its ends go over no queue at all unless it runs XDP.
fn one_queue(batch: &mut Batch) {
    batch.attribute(IFLA_NUM_TX_QUEUES, &1u32.to_ne_bytes());
    batch.attribute(IFLA_NUM_RX_QUEUES, &1u32.to_ne_bytes());
}

pub(super) fn loopback_up(batch: &mut Batch) {
    link_up(batch, LOOPBACK, "lo");
}

/// What happens inside: up, addresses, default routes.
pub(super) fn fill(interface: &Interface<'_>, index: u32) -> Batch {
    let mut batch = Batch::default();
    link_up(&mut batch, index, interface.name);
    for (address, length) in &interface.addresses {
        new_address(&mut batch, *address, *length, index);
    }
    for gateway in &interface.gateways {
        default_route(&mut batch, *gateway, index);
    }
    batch
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    }
}

fn new_address(batch: &mut Batch, address: IpAddr, length: u8, index: u32) {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut head = vec![family(address), length, flags, 0];
    head.extend(index.to_ne_bytes());
    let subject = format!("{address}/{length}");
    batch.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head, "add address", &subject);
    batch.attribute(IFA_LOCAL, &octets(address));
    batch.attribute(IFA_ADDRESS, &octets(address));
    if let (IpAddr::V4(address), 0..=30) = (address, length) {
        let broadcast = u32::from(address) | u32::MAX >> length;
        batch.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
}

/// The default route of a family comes to be this one; an unspecified gateway is everything on the link.
pub(super) fn default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    let scope = if gateway.is_unspecified() { RT_SCOPE_LINK } else { 0 };
    let subject = format!("default via {gateway}");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    batch.message(RTM_NEWROUTE, flags, &route_head(family(gateway), scope), "add route", &subject);
    if !gateway.is_unspecified() {
        batch.attribute(RTA_GATEWAY, &octets(gateway));
    }
    batch.attribute(RTA_OIF, &index.to_ne_bytes());
}

pub(super) fn no_default_route(batch: &mut Batch, family: i32) {
    batch.message(RTM_DELROUTE, 0, &route_head(family as u8, 255), "remove route", "default");
}

/// `struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
fn route_head(family: u8, scope: u8) -> [u8; 12] {
    [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0]
}

//! Network namespaces, made ready: a veth on the bridge, addresses, routes, all up.
//!
//! Owns nothing that lasts: a namespace lives as long as the fd that [`Prepared`] holds or a process in it, and
//! its veth with it. There are no bind mounts; what is dropped, the kernel takes down by itself.
//!
//! Everything happens in one turn of the calling thread into the new namespace and back. The host's side is told
//! over a socket that was opened in the host's namespace and stays there.
//!
//! Sources: `network_namespaces(7)`, veth(4), rtnetlink(7), the kernel's networking/ip-sysctl.rst.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{open, openat, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType, UnshareFlags};

use crate::error::{Error, Result};
use crate::keeper::protocol::Endpoint;
use crate::netlink::{Batch, Socket, NLM_F_CREATE, NLM_F_EXCL};

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";

/// `lo` is the first interface of every namespace.
const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
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

/// A namespace that a start can take.
#[derive(Debug)]
pub struct Prepared {
    /// The namespace lives as long as this, or a process in it.
    pub netns: OwnedFd,
    /// Name of the veth's end on the host; empty without one.
    pub host_interface: String,
}

/// The host's side: its namespace and a socket in it. One per thread that prepares.
#[derive(Debug)]
pub struct HostNetwork {
    namespace: OwnedFd,
    socket: Socket,
    ipv6: bool,
}

impl HostNetwork {
    /// Remember the calling thread's network namespace as the host's.
    pub fn open() -> Result<Self> {
        Ok(Self {
            namespace: own_namespace()?,
            socket: Socket::open()?,
            ipv6: std::path::Path::new(IPV6_CONF).exists(),
        })
    }

    /// A new namespace with the endpoint's interface in it; with an empty bridge, only `lo`.
    ///
    /// `lo` is up and keeps `::1`. The interface accepts no router advertisements, and has no IPv6 at all unless
    /// the endpoint has an IPv6 address. On failure nothing is left.
    pub fn prepare(&self, endpoint: &Endpoint) -> Result<Prepared> {
        if endpoint.bridge.is_empty() {
            return self.loopback_only();
        }
        let interface = Interface::check(endpoint)?;
        let master = name_to_index(&self.socket, &endpoint.bridge)
            .map_err(|e| Error::os("find bridge", &endpoint.bridge, e))?;
        self.inside(|netns, inner| self.connect(netns, inner, &interface, master))
    }

    /// A new namespace with only `lo`, up.
    pub fn loopback_only(&self) -> Result<Prepared> {
        self.inside(|_, inner| {
            let mut batch = Batch::default();
            link_up(&mut batch, LOOPBACK, "lo");
            inner.run(batch).map(|()| String::new())
        })
    }

    /// Run `work` in a new namespace, with the namespace and a socket in it; then come back.
    fn inside(&self, work: impl FnOnce(&OwnedFd, &Socket) -> Result<String>) -> Result<Prepared> {
        unshare_network()?;
        let made = own_namespace().and_then(|netns| {
            let inner = Socket::open()?;
            let host_interface = work(&netns, &inner)?;
            Ok(Prepared { netns, host_interface })
        });
        self.come_back()?;
        made
    }

    /// A thread that stayed in a container's namespace would act there for the host; that must not be.
    fn come_back(&self) -> Result<()> {
        let back = || move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network));
        // ENOMEM is the one failure that is left for a privileged caller with a good fd.
        back().or_else(|_| back()).map_err(|e| Error::os("return to", "the host's network namespace", e))
    }

    /// Make the veth and fill the namespace, in which the calling thread is. Answers the host's end.
    fn connect(
        &self,
        netns: &OwnedFd,
        inner: &Socket,
        interface: &Interface<'_>,
        master: u32,
    ) -> Result<String> {
        let conf = self.ipv6.then(Ipv6Conf::open).transpose()?;
        if let Some(conf) = &conf {
            // New interfaces start from `default`; `lo`, which is there already, does not.
            conf.set("default", "accept_ra", "0")?;
        }
        let host_interface = self.make_veth(netns, interface, master)?;
        if let Some(conf) = conf.filter(|_| !interface.addresses.iter().any(|(address, _)| address.is_ipv6()))
        {
            conf.set(interface.name, "disable_ipv6", "1")?;
        }
        let index = name_to_index(inner, interface.name).map_err(|e| Error::os("find", interface.name, e))?;
        inner.run(fill(interface, index))?;
        Ok(host_interface)
    }

    /// The host's end comes to be on the bridge and up, the other one in the namespace.
    fn make_veth(&self, netns: &OwnedFd, interface: &Interface<'_>, master: u32) -> Result<String> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let name = random_name()?;
            let mut batch = Batch::default();
            new_veth(&mut batch, &name, netns, interface, master);
            if self.ipv6 {
                no_link_local(&mut batch, &name);
            }
            named_up(&mut batch, &name);
            match self.socket.run(batch) {
                Err(error) if error.errno() == Errno::EXIST.raw_os_error() && attempts < 8 => {}
                result => return result.map(|()| name),
            }
        }
    }
}

/// An endpoint whose parts are known to be good.
struct Interface<'e> {
    name: &'e str,
    mac: &'e [u8],
    mtu: u32,
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
}

impl<'e> Interface<'e> {
    fn check(endpoint: &'e Endpoint) -> Result<Self> {
        let name = endpoint.interface.as_str();
        let good = |c: u8| c.is_ascii_graphic() && c != b'/' && c != b':';
        if name.is_empty() || name.len() > 15 || !name.bytes().all(good) || matches!(name, "." | ".." | "lo")
        {
            return Err(Error::Invalid(format!("bad interface name {name:?}")));
        }
        if endpoint.mac.len() != 6 {
            return Err(Error::Invalid(format!("bad MAC address of {} bytes", endpoint.mac.len())));
        }
        let addresses = endpoint.addresses.iter().map(|text| parse_prefix(text)).collect::<Result<_>>()?;
        let gateway =
            |text: &String| text.parse().map_err(|_| Error::Invalid(format!("bad gateway {text:?}")));
        let gateways = endpoint.gateways.iter().map(gateway).collect::<Result<_>>()?;
        Ok(Self { name, mac: &endpoint.mac, mtu: endpoint.mtu, addresses, gateways })
    }
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

fn own_namespace() -> Result<OwnedFd> {
    open(OWN_NAMESPACE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", OWN_NAMESPACE, e))
}

// rustix calls its safe `unshare` deprecated because of CLONE_FILES, which is not used here.
#[allow(deprecated)]
fn unshare_network() -> Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET).map_err(|e| Error::os("unshare", "network namespace", e))
}

/// `vp` and eight hex digits.
fn random_name() -> Result<String> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::os("getrandom", "interface name", e))?;
    Ok(format!("vp{:08x}", u32::from_ne_bytes(bytes)))
}

/// The IPv6 switches of the namespace in which the thread was when it opened them: /proc/sys/net is that of
/// whoever looks it up. (netlink can read these, not set them.) One walk for all, since every namespace that was
/// ever looked at lengthens it.
struct Ipv6Conf(OwnedFd);

impl Ipv6Conf {
    fn open() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(IPV6_CONF, flags, Mode::empty()).map(Self).map_err(|e| Error::os("open", IPV6_CONF, e))
    }

    fn set(&self, interface: &str, key: &str, value: &str) -> Result<()> {
        let path = format!("{interface}/{key}");
        openat(&self.0, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| rustix::io::write(&fd, value.as_bytes()))
            .map(drop)
            .map_err(|e| Error::os(format!("write {value} to"), format!("{IPV6_CONF}/{path}"), e))
    }
}

/// `struct ifinfomsg`.
fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

fn link_up(batch: &mut Batch, index: u32, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(index, IFF_UP, IFF_UP), "set up", name);
}

fn named_up(batch: &mut Batch, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(0, IFF_UP, IFF_UP), "set up", name);
    batch.text(IFLA_IFNAME, name);
}

/// A bridge port needs no address of its own; without this each would join multicast groups and probe.
fn no_link_local(batch: &mut Batch, name: &str) {
    batch.message(RTM_NEWLINK, 0, &link_head(0, 0, 0), "configure", name);
    batch.text(IFLA_IFNAME, name);
    batch.nest(IFLA_AF_SPEC, |batch| {
        batch.nest(libc::AF_INET6 as u16, |batch| {
            batch.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
}

fn new_veth(batch: &mut Batch, name: &str, netns: &OwnedFd, interface: &Interface<'_>, master: u32) {
    let head = link_head(0, 0, 0);
    batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, "add veth", name);
    batch.text(IFLA_IFNAME, name);
    batch.attribute(IFLA_MTU, &interface.mtu.to_ne_bytes());
    one_queue(batch);
    batch.attribute(IFLA_MASTER, &master.to_ne_bytes());
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.text(IFLA_INFO_KIND, "veth");
        batch.nest(IFLA_INFO_DATA, |batch| {
            batch.nest_after(VETH_INFO_PEER, &head, |batch| {
                batch.text(IFLA_IFNAME, interface.name);
                batch.attribute(IFLA_ADDRESS, interface.mac);
                batch.attribute(IFLA_MTU, &interface.mtu.to_ne_bytes());
                one_queue(batch);
                batch.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
            });
        });
    });
}

/// Newer kernels give a veth a queue for every CPU, each a directory in sysfs that takes time to make and memory
/// to keep; packets between its ends go over no queue at all unless it runs XDP.
fn one_queue(batch: &mut Batch) {
    batch.attribute(IFLA_NUM_TX_QUEUES, &1u32.to_ne_bytes());
    batch.attribute(IFLA_NUM_RX_QUEUES, &1u32.to_ne_bytes());
}

/// What happens inside: all up, addresses, default routes.
fn fill(interface: &Interface<'_>, index: u32) -> Batch {
    let mut batch = Batch::default();
    link_up(&mut batch, LOOPBACK, "lo");
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

fn default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
    let mut head = vec![family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
    head.extend([0; 4]);
    let subject = format!("default via {gateway}");
    batch.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &head, "add route", &subject);
    batch.attribute(RTA_GATEWAY, &octets(gateway));
    batch.attribute(RTA_OIF, &index.to_ne_bytes());
}

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub interface: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Counters of the interfaces that a process sees, `lo` left out.
pub fn counters(pid: i32) -> Result<Vec<InterfaceCounters>> {
    let path = format!("/proc/{pid}/net/dev");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::os("read", &path, e))?;
    Ok(parse_net_dev(&text))
}

fn parse_net_dev(text: &str) -> Vec<InterfaceCounters> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if n.len() < 12 || name.trim() == "lo" {
            return None;
        }
        Some(InterfaceCounters {
            interface: name.trim().to_string(),
            rx_bytes: n[0],
            rx_packets: n[1],
            rx_errors: n[2],
            rx_dropped: n[3],
            tx_bytes: n[8],
            tx_packets: n[9],
            tx_errors: n[10],
            tx_dropped: n[11],
        })
    };
    text.lines().skip(2).filter_map(line).collect()
}

#[cfg(test)]
#[path = "netns_tests.rs"]
mod tests;

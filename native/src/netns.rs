//! Network namespaces, made ready: interfaces on the host's networks, addresses, routes, all up; and changed
//! while a container runs.
//!
//! Owns nothing that lasts: a namespace lives as long as the fd that [`Prepared`] holds or a process in it, and
//! its veth with it. There are no bind mounts; what is dropped, the kernel takes down by itself.
//!
//! Everything happens in one turn of the calling thread into the namespace and back. The host's side is told
//! over a socket that was opened in the host's namespace and stays there.
//!
//! Sources: `network_namespaces(7)`, veth(4), rtnetlink(7), the kernel's networking/ip-sysctl.rst.

mod counters;
mod interface;
mod messages;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{open, openat, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::thread::{
    move_into_link_name_space, move_into_thread_name_spaces, LinkNameSpaceType, ThreadNameSpaceType,
    UnshareFlags,
};

pub use counters::{counters, InterfaceCounters};
use interface::{check_name, parse_gateway, Interface, Kind};

use crate::error::{Error, Result};
use crate::keeper::protocol::Endpoint;
use crate::netlink::{Batch, Socket};

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";
const NET_SYSCTLS: &str = "/proc/sys/net";

/// A namespace that a start can take.
#[derive(Debug)]
pub struct Prepared {
    /// The namespace lives as long as this, or a process in it.
    pub netns: OwnedFd,
    /// Name of the first veth's end on the host; empty without one.
    pub host_interface: String,
}

/// A default route: the gateway, and the interface that it is behind.
pub type DefaultRoute = (String, String);

/// An interface that is out of use: down, and to be deleted when there is time, which takes the kernel long.
#[derive(Debug)]
pub struct Retired(Socket);

impl Retired {
    /// Delete all interfaces that are out of use in its namespace by now. Waits for the kernel's grace periods
    /// (15 ms and more).
    pub fn delete(&self) -> Result<()> {
        delete(&self.0)
    }
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

    /// A new namespace with an interface for each endpoint in it; with an empty bridge, only `lo`.
    ///
    /// `lo` is up and keeps `::1`. Interfaces accept no router advertisements, and have no IPv6 at all unless
    /// their endpoint has an IPv6 address. On failure nothing is left.
    pub fn prepare(&self, endpoints: &[&Endpoint]) -> Result<Prepared> {
        let real = endpoints.iter().filter(|endpoint| !endpoint.bridge.is_empty());
        let wanted = real.map(|endpoint| self.find(endpoint)).collect::<Result<Vec<_>>>()?;
        self.inside(|netns, inner| {
            let mut batch = Batch::default();
            messages::loopback_up(&mut batch);
            inner.run(batch)?;
            let made =
                wanted.iter().map(|(interface, link)| self.connect(netns, inner, interface, *link, true));
            Ok(made.collect::<Result<Vec<_>>>()?.into_iter().next().unwrap_or_default())
        })
    }

    /// A new namespace with only `lo`, up.
    pub fn loopback_only(&self) -> Result<Prepared> {
        self.prepare(&[])
    }

    /// One more interface for a process that runs, and its default routes as they are from now on.
    pub fn attach(
        &self,
        pidfd: BorrowedFd<'_>,
        endpoint: &Endpoint,
        routes: &[DefaultRoute],
    ) -> Result<String> {
        let (interface, link) = self.find(endpoint)?;
        let routes = check_routes(routes)?;
        self.within(pidfd, |netns, inner| {
            let host_interface = self.connect(netns, inner, &interface, link, false)?;
            let done = set_routes(inner, &routes);
            if done.is_err() {
                // Ignored: the routes' failure is the one to tell.
                let _ = retire(inner, interface.name).and_then(|()| delete(inner));
            }
            done.map(|()| host_interface)
        })
    }

    /// Take an interface from a process that runs; its default routes are these from now on.
    pub fn detach(&self, pidfd: BorrowedFd<'_>, interface: &str, routes: &[DefaultRoute]) -> Result<Retired> {
        let interface = check_name(interface)?;
        let routes = check_routes(routes)?;
        self.enter(pidfd, |_, inner| {
            retire(&inner, interface)?;
            set_routes(&inner, &routes)?;
            Ok(Retired(inner))
        })
    }

    fn find<'e>(&self, endpoint: &'e Endpoint) -> Result<(Interface<'e>, u32)> {
        let interface = Interface::check(endpoint)?;
        let link = name_to_index(&self.socket, &endpoint.bridge)
            .map_err(|e| Error::os("find interface", &endpoint.bridge, e))?;
        Ok((interface, link))
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

    fn within(
        &self,
        pidfd: BorrowedFd<'_>,
        work: impl FnOnce(&OwnedFd, &Socket) -> Result<String>,
    ) -> Result<String> {
        self.enter(pidfd, |netns, inner| work(netns, &inner))
    }

    /// Run `work` in the namespace of a process, with a socket in it; then come back.
    fn enter<T>(&self, pidfd: BorrowedFd<'_>, work: impl FnOnce(&OwnedFd, Socket) -> Result<T>) -> Result<T> {
        self.visit(pidfd, |netns| work(&netns, Socket::open()?))
    }

    /// Run `work` in the network namespace of `target` (a namespace, or a process's pidfd), with a descriptor of
    /// the namespace that is its own; then come back.
    pub fn visit<T>(&self, target: BorrowedFd<'_>, work: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
        self.step_into(target, || own_namespace().and_then(work))
    }

    /// Run `work` in the network namespace of `target`; then come back.
    pub fn step_into<T>(&self, target: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        move_into_thread_name_spaces(target, ThreadNameSpaceType::NETWORK)
            .map_err(|e| Error::os("enter", "the container's network namespace", e))?;
        let done = work();
        self.come_back()?;
        done
    }

    /// A thread that stayed in a container's namespace would act there for the host; that must not be.
    fn come_back(&self) -> Result<()> {
        let back = || move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network));
        // ENOMEM is the one failure that is left for a privileged caller with a good fd.
        back().or_else(|_| back()).map_err(|e| Error::os("return to", "the host's network namespace", e))
    }

    /// Make the interface and fill it, in the namespace in which the calling thread is. Answers the host's end.
    fn connect(
        &self,
        netns: &OwnedFd,
        inner: &Socket,
        interface: &Interface<'_>,
        link: u32,
        fresh: bool,
    ) -> Result<String> {
        let conf = self.ipv6.then(Ipv6Conf::open).transpose()?;
        if let Some(conf) = conf.as_ref().filter(|_| fresh) {
            // New interfaces start from `default`; `lo`, which is there already, does not.
            conf.set("default", "accept_ra", "0")?;
        }
        let host_interface = match interface.kind {
            Kind::Veth => self.make_veth(netns, interface, link)?,
            Kind::Macvlan(_) | Kind::Ipvlan(..) => {
                let mut batch = Batch::default();
                messages::new_slave(&mut batch, netns, interface, link);
                self.socket.run(batch)?;
                String::new()
            }
        };
        let filled = fill(inner, interface, conf);
        if filled.is_err() && !fresh {
            // Ignored: the first failure is the one to tell.
            let _ = retire(inner, interface.name).and_then(|()| delete(inner));
        }
        filled.map(|()| host_interface)
    }

    /// The host's end comes to be on the bridge and up, the other one in the namespace.
    fn make_veth(&self, netns: &OwnedFd, interface: &Interface<'_>, master: u32) -> Result<String> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let name = random_name("vp")?;
            let mut batch = Batch::default();
            messages::new_veth(&mut batch, &name, netns, interface, master);
            if self.ipv6 {
                messages::no_link_local(&mut batch, &name);
            }
            messages::named_up(&mut batch, &name);
            match self.socket.run(batch) {
                Err(error) if error.errno() == Errno::EXIST.raw_os_error() && attempts < 8 => {}
                Err(error) => return Err(error),
                Ok(()) => return self.set_port(interface, &name).map(|()| name),
            }
        }
    }

    fn set_port(&self, interface: &Interface<'_>, name: &str) -> Result<()> {
        if !interface.isolated && !interface.hairpin {
            return Ok(());
        }
        let index = name_to_index(&self.socket, name).map_err(|e| Error::os("find", name, e))?;
        let mut batch = Batch::default();
        messages::port_flags(&mut batch, index, name, interface);
        self.socket.run(batch)
    }
}

/// Addresses, routes and switches of a new interface, in whose namespace the calling thread is.
fn fill(inner: &Socket, interface: &Interface<'_>, conf: Option<Ipv6Conf>) -> Result<()> {
    if let Some(conf) = conf.filter(|_| !interface.has_ipv6()) {
        conf.set(interface.name, "disable_ipv6", "1")?;
    }
    for (path, value) in &interface.sysctls {
        set_sysctl(path, value)?;
    }
    inner.run(messages::fill(interface, index_of(inner, interface.name)?))
}

fn set_sysctl(path: &str, value: &str) -> Result<()> {
    let path = format!("{NET_SYSCTLS}/{path}");
    open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| rustix::io::write(&fd, value.as_bytes()))
        .map(drop)
        .map_err(|e| Error::os(format!("write {value} to"), path, e))
}

fn index_of(inner: &Socket, interface: &str) -> Result<u32> {
    name_to_index(inner, interface).map_err(|e| Error::os("find", interface, e))
}

/// Take an interface out of use.
fn retire(inner: &Socket, interface: &str) -> Result<()> {
    let index = index_of(inner, interface)?;
    let mut batch = Batch::default();
    messages::retire(&mut batch, index, interface, &random_name("gone")?);
    inner.run(batch)
}

fn delete(inner: &Socket) -> Result<()> {
    let mut batch = Batch::default();
    messages::delete_retired(&mut batch);
    match inner.run(batch) {
        // An earlier call has deleted them with its own.
        Err(error) if error.errno() == libc::ENODEV => Ok(()),
        result => result,
    }
}

fn check_routes(routes: &[DefaultRoute]) -> Result<Vec<(IpAddr, &str)>> {
    let check = |(gateway, interface): &'_ DefaultRoute| -> Result<IpAddr> {
        check_name(interface)?;
        parse_gateway(gateway)
    };
    routes.iter().map(|route| Ok((check(route)?, route.1.as_str()))).collect()
}

/// The default routes are these; a family without one has none any more.
fn set_routes(inner: &Socket, routes: &[(IpAddr, &str)]) -> Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mine = routes.iter().find(|(gateway, _)| gateway.is_ipv4() == (family == libc::AF_INET));
        let mut batch = Batch::default();
        if let Some((gateway, interface)) = mine {
            messages::default_route(&mut batch, *gateway, index_of(inner, interface)?);
            inner.run(batch)?;
            continue;
        }
        messages::no_default_route(&mut batch, family);
        // There was none, or there could not be one.
        let fine = [libc::ESRCH, libc::ENETUNREACH, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
        match inner.run(batch) {
            Err(error) if fine.contains(&error.errno()) => {}
            result => result?,
        }
    }
    Ok(())
}

/// The calling thread's network namespace.
pub fn own_namespace() -> Result<OwnedFd> {
    open(OWN_NAMESPACE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", OWN_NAMESPACE, e))
}

// rustix calls its safe `unshare` deprecated because of CLONE_FILES, which is not used here.
#[allow(deprecated)]
fn unshare_network() -> Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNET).map_err(|e| Error::os("unshare", "network namespace", e))
}

/// The prefix and eight hex digits.
fn random_name(prefix: &str) -> Result<String> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::os("getrandom", "interface name", e))?;
    Ok(format!("{prefix}{:08x}", u32::from_ne_bytes(bytes)))
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

#[cfg(test)]
#[path = "netns_tests.rs"]
mod tests;

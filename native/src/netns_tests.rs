//! Real namespaces, in a "host" namespace and on a bridge of the test's own: nothing can be left behind.

use std::thread;

use super::messages::*;
use super::*;
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL};

const BRIDGE: &str = "brtest";

/// Run `test` on a thread in a fresh network namespace that plays the host, with a bridge in it.
fn on_a_bridge(test: impl FnOnce(&HostNetwork) + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root for network namespaces");
        return;
    }
    let run = || {
        unshare_network().unwrap_or_else(|e| panic!("{e}"));
        let host = HostNetwork::open().unwrap_or_else(|e| panic!("{e}"));
        let mut batch = Batch::default();
        batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_head(0, 0, 0), "add bridge", BRIDGE);
        batch.text(IFLA_IFNAME, BRIDGE);
        batch.nest(IFLA_LINKINFO, |batch| batch.text(IFLA_INFO_KIND, "bridge"));
        named_up(&mut batch, BRIDGE);
        host.socket.run(batch).unwrap_or_else(|e| panic!("{e}"));
        test(&host);
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn endpoint() -> Endpoint {
    Endpoint {
        bridge: BRIDGE.into(),
        interface: "eth0".into(),
        mac: vec![0x02, 0x42, 10, 0, 0, 2].into(),
        mtu: 1400,
        addresses: vec!["10.0.0.2/16".into()],
        gateways: vec!["10.0.0.1".into()],
        ..Endpoint::default()
    }
}

/// What `read` finds inside the namespace.
fn inside<T>(host: &HostNetwork, prepared: &Prepared, read: impl FnOnce() -> T) -> T {
    let enter = move_into_link_name_space(prepared.netns.as_fd(), Some(LinkNameSpaceType::Network));
    enter.unwrap_or_else(|e| panic!("{e}"));
    let found = read();
    host.come_back().unwrap_or_else(|e| panic!("{e}"));
    found
}

fn failure(result: Result<Prepared>) -> Error {
    result.map_or_else(|error| error, |prepared| panic!("made {prepared:?}"))
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn interfaces() -> Vec<String> {
    let text = file("/proc/thread-self/net/dev");
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_string())).collect()
}

#[test]
fn an_endpoint_is_ready_to_use() {
    on_a_bridge(|host| {
        let prepared = host.prepare(&[&endpoint()]).unwrap_or_else(|e| panic!("{e}"));
        assert!(prepared.host_interface.starts_with("vp") && prepared.host_interface.len() == 10);
        assert!(interfaces().contains(&prepared.host_interface));
        assert!(
            !file("/proc/thread-self/net/if_inet6").contains(&prepared.host_interface),
            "no fe80 on a port"
        );
        inside(host, &prepared, || {
            assert!(interfaces().contains(&"eth0".to_string()));
            let routes = file("/proc/thread-self/net/route");
            // Destination, gateway (host byte order) of the default route; the connected one.
            assert!(routes.contains("eth0\t00000000\t0100000A"), "{routes}");
            assert!(routes.contains("eth0\t0000000A"), "{routes}");
            let local = file("/proc/thread-self/net/fib_trie");
            assert!(local.contains("10.0.0.2") && local.contains("127.0.0.1"), "{local}");
            if host.ipv6 {
                let six = file("/proc/thread-self/net/if_inet6");
                assert!(six.contains("00000000000000000000000000000001") && !six.contains("eth0"), "{six}");
                assert_eq!(file("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").trim(), "1");
                assert_eq!(file("/proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
                assert_eq!(file("/proc/sys/net/ipv6/conf/lo/disable_ipv6").trim(), "0");
            }
            assert_eq!(file("/proc/sys/net/ipv4/conf/eth0/forwarding").trim().len(), 1);
        });
    });
}

#[test]
fn ipv6_comes_with_an_ipv6_address() {
    on_a_bridge(|host| {
        if !host.ipv6 {
            return eprintln!("skipped: this kernel has no IPv6");
        }
        let mut endpoint = endpoint();
        endpoint.addresses.push("fd00:1::2/64".into());
        endpoint.gateways.push("fd00:1::1".into());
        let prepared = host.prepare(&[&endpoint]).unwrap_or_else(|e| panic!("{e}"));
        inside(host, &prepared, || {
            let six = file("/proc/thread-self/net/if_inet6");
            let line = six.lines().find(|line| line.starts_with("fd000001")).unwrap_or_default();
            // Fields: address, index, prefix, scope, flags (02: no duplicate detection, 40: tentative).
            let flags = line.split_whitespace().nth(4).unwrap_or_default();
            assert_eq!(u8::from_str_radix(flags, 16).unwrap_or(0xff) & 0x42, 0x02, "{six}");
            let routes = file("/proc/thread-self/net/ipv6_route");
            assert!(routes.contains("fd000001000000000000000000000001"), "{routes}");
            assert_eq!(file("/proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
        });
    });
}

#[test]
fn an_empty_bridge_is_only_loopback() {
    on_a_bridge(|host| {
        let endpoint = Endpoint { bridge: String::new(), ..endpoint() };
        let prepared = host.prepare(&[&endpoint]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(prepared.host_interface, "");
        inside(host, &prepared, || {
            assert!(!interfaces().contains(&"eth0".to_string()));
            assert!(file("/proc/thread-self/net/fib_trie").contains("127.0.0.1"));
        });
    });
}

#[test]
fn a_failure_says_what_failed_and_leaves_nothing() {
    on_a_bridge(|host| {
        let before = interfaces();
        let missing = Endpoint { bridge: "nosuch".into(), ..endpoint() };
        let error = failure(host.prepare(&[&missing]));
        assert!(error.to_string().starts_with("find interface nosuch: "), "{error}");
        // The gateway is not on the link.
        let unreachable = Endpoint { gateways: vec!["192.0.2.1".into()], ..endpoint() };
        let error = failure(host.prepare(&[&unreachable]));
        assert!(error.to_string().starts_with("add route default via 192.0.2.1: "), "{error}");
        assert_eq!(error.errno(), Errno::NETUNREACH.raw_os_error());
        // The kernel takes a dropped namespace down by itself; the thread is back in the host's.
        let after = interfaces();
        assert!(after.iter().all(|name| before.contains(name) || name.starts_with("vp")), "{after:?}");
        assert!(after.contains(&BRIDGE.to_string()));
    });
}

#[test]
fn bad_endpoints_are_refused_before_any_call() {
    let bad = [
        Endpoint { interface: "a/b".into(), ..endpoint() },
        Endpoint { interface: "..".into(), ..endpoint() },
        Endpoint { interface: "sixteen-letters-".into(), ..endpoint() },
        Endpoint { mac: vec![1, 2].into(), ..endpoint() },
        Endpoint { addresses: vec!["10.0.0.2/33".into()], ..endpoint() },
        Endpoint { addresses: vec!["10.0.0.2".into()], ..endpoint() },
        Endpoint { gateways: vec!["x".into()], ..endpoint() },
    ];
    for endpoint in bad {
        assert!(matches!(Interface::check(&endpoint), Err(Error::Invalid(_))), "{endpoint:?}");
    }
}

#[test]
fn counters_are_read_from_proc() {
    let text = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes\n\
        \x20   lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n\
        \x20 eth0:    1234      10    1    2    0     0          0         0     5678      20    3    4    0     0       0          0\n";
    let counters = counters::parse_net_dev(text);
    assert_eq!(counters.len(), 1);
    let eth0 = &counters[0];
    assert_eq!((eth0.interface.as_str(), eth0.rx_bytes, eth0.rx_packets), ("eth0", 1234, 10));
    assert_eq!((eth0.rx_errors, eth0.rx_dropped, eth0.tx_bytes), (1, 2, 5678));
    assert_eq!((eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped), (20, 3, 4));
}

/// Not a test of speed: prints the cost of a prepared namespace. `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_prepare() {
    on_a_bridge(|host| {
        let mut kept = Vec::new();
        let mut times = Vec::new();
        let cpu = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            now.tv_sec * 1_000_000 + now.tv_nsec / 1000
        };
        let before = cpu();
        for index in 0..100u8 {
            let endpoint = Endpoint {
                mac: vec![2, 0x42, 10, 0, 1, index].into(),
                addresses: vec![format!("10.0.1.{index}/16")],
                ..endpoint()
            };
            let start = std::time::Instant::now();
            kept.push(host.prepare(&[&endpoint]).unwrap_or_else(|e| panic!("{e}")));
            times.push(start.elapsed());
        }
        let mean = (cpu() - before) / 100;
        times.sort();
        eprintln!(
            "prepare: p50 {:?}, p10 {:?}, p90 {:?}; {mean} us of CPU each",
            times[50], times[10], times[90]
        );
    });
}

/// A process in the namespace, as a container's init.
fn init_in(host: &HostNetwork, prepared: &Prepared) -> (std::process::Child, OwnedFd) {
    let child = inside(host, prepared, || {
        std::process::Command::new("sleep").arg("60").spawn().unwrap_or_else(|e| panic!("{e}"))
    });
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap_or_else(|| panic!("no pid"));
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    (child, pidfd.unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn several_endpoints_are_several_interfaces_with_one_default_route() {
    on_a_bridge(|host| {
        let second = Endpoint {
            interface: "eth1".into(),
            addresses: vec!["10.1.0.2/16".into()],
            gateways: vec![],
            isolated: true,
            sysctls: vec![("ipv4/conf/eth1/log_martians".into(), "1".into())],
            ..endpoint()
        };
        let prepared = host.prepare(&[&endpoint(), &second]).unwrap_or_else(|e| panic!("{e}"));
        inside(host, &prepared, || {
            let found = interfaces();
            assert!(found.contains(&"eth0".into()) && found.contains(&"eth1".into()), "{found:?}");
            let routes = file("/proc/thread-self/net/route");
            assert_eq!(routes.matches("\t00000000\t0100000A").count(), 1, "{routes}");
            assert_eq!(file("/proc/sys/net/ipv4/conf/eth1/log_martians").trim(), "1");
        });
    });
}

#[test]
fn an_interface_comes_and_goes_while_a_process_runs() {
    on_a_bridge(|host| {
        let prepared = host.prepare(&[&endpoint()]).unwrap_or_else(|e| panic!("{e}"));
        let (mut child, pidfd) = init_in(host, &prepared);
        let second = Endpoint {
            interface: "eth1".into(),
            addresses: vec!["10.1.0.2/16".into()],
            gateways: vec![],
            ..endpoint()
        };
        let routes = [("10.1.0.1".to_string(), "eth1".to_string())];
        for _ in 0..3 {
            let name = host.attach(pidfd.as_fd(), &second, &routes).unwrap_or_else(|e| panic!("attach: {e}"));
            assert!(interfaces().contains(&name));
            inside(host, &prepared, || {
                let found = file("/proc/thread-self/net/route");
                assert!(found.contains("eth1\t00000000\t0100010A"), "{found}");
                assert!(!found.contains("eth0\t00000000"), "one default route: {found}");
            });
            let back = [("10.0.0.1".to_string(), "eth0".to_string())];
            let retired = host.detach(pidfd.as_fd(), "eth1", &back).unwrap_or_else(|e| panic!("detach: {e}"));
            inside(host, &prepared, || {
                let found = file("/proc/thread-self/net/route");
                assert!(found.contains("eth0\t00000000\t0100000A") && !found.contains("eth1"), "{found}");
            });
            retired.delete().unwrap_or_else(|e| panic!("{e}"));
            assert!(!interfaces().contains(&name), "both ends are gone");
        }
        let ended = child.kill().and_then(|()| child.wait());
        assert!(ended.is_ok(), "{ended:?}");
    });
}

#[test]
fn macvlan_and_ipvlan_sit_on_a_parent() {
    on_a_bridge(|host| {
        for (kind, mode, mac) in [("macvlan", "bridge", true), ("ipvlan", "l2", false)] {
            let on_parent = Endpoint {
                kind: kind.into(),
                mode: mode.into(),
                mac: if mac { endpoint().mac } else { Vec::new().into() },
                ..endpoint()
            };
            match host.prepare(&[&on_parent]) {
                Ok(prepared) => inside(host, &prepared, || {
                    assert!(interfaces().contains(&"eth0".to_string()));
                    let routes = file("/proc/thread-self/net/route");
                    assert!(routes.contains("eth0\t00000000\t0100000A"), "{routes}");
                }),
                Err(error) if error.errno() == libc::EOPNOTSUPP => {
                    eprintln!("skipped: this kernel has no {kind}");
                }
                Err(error) => panic!("{kind}: {error}"),
            }
        }
    });
}

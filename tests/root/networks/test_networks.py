"""Networks of a real proad, on a machine of its own: its network namespace, and another one outside of it."""

import json
import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, eventually
from machines import ECHO, HOST, OUTSIDE, WEB, Talk, address, docker, fetch, refused
from netns import Namespace

from proa.network import hosts, link

PATIENT = ("busybox", "timeout", "1")


def test_a_published_port_from_everywhere(clean: Instance, host: Namespace, outside: Namespace) -> None:
    docker(clean, "network", "create", "n1")
    docker(
        clean, "run", "-d", "--name", "web", "-h", "web", "--network", "n1", "-p", "8080:80", "busybox", *WEB
    )
    docker(clean, "run", "-d", "--name", "beside", "--network", "n1", "busybox", "sleep", "60")
    docker(clean, "run", "-d", "--name", "elsewhere", "busybox", "sleep", "60")
    assert eventually(lambda: not refused(host, "127.0.0.1", 8080))
    for where, at in (
        (outside, HOST),
        (outside, "2001:db8::1"),  # the container has only IPv4: passed on
        (host, "127.0.0.1"),
        (host, "::1"),
        (host, HOST),
    ):
        assert fetch(where, at, 8080) == "web", at
    for container in ("web", "beside", "elsewhere"):
        page = docker(clean, "exec", container, "busybox", "wget", "-qO-", f"http://{HOST}:8080/name")
        assert page == "web", container
    with host.run(socket.socket) as other, pytest.raises(OSError, match="in use"):
        host.run(other.bind, ("0.0.0.0", 8080))
    docker(clean, "rm", "-f", "web")
    assert refused(outside, HOST, 8080)


def test_ipv6_is_translated_where_the_container_has_it(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", "--ipv6", "six")
    docker(
        clean, "run", "-d", "--name", "web", "-h", "six", "--network", "six", "-p", "8080:80", "busybox", *WEB
    )
    own = address(clean, "web", "six", "GlobalIPv6Address")
    assert own.startswith("fd")
    assert eventually(lambda: not refused(host, own, 80))
    assert fetch(outside, "2001:db8::1", 8080) == "six"
    assert fetch(host, "::1", 8080) == "six"
    assert refused(outside, own, 80), "nothing comes in unasked"
    assert "2001:db8::1" in docker(
        clean, "exec", "web", "busybox", "traceroute6", "-n", "-m1", "-q1", "2001:db8::1"
    )


def test_networks_do_not_reach_each_other(clean: Instance, host: Namespace, outside: Namespace) -> None:
    for name, more in (("one", ()), ("two", ()), ("inside", ("--internal",))):
        docker(clean, "network", "create", *more, name)
        docker(clean, "run", "-d", "--name", f"web-{name}", "--network", name, "busybox", *WEB)
    targets = {name: address(clean, f"web-{name}", name) for name in ("one", "two", "inside")}
    for name, at in targets.items():
        assert eventually(lambda at=at: not refused(host, at, 80)), name
        assert refused(outside, at, 80)
    for source in targets:
        for target, at in targets.items():
            done = clean.run(
                "exec", f"web-{source}", *PATIENT, "busybox", "wget", "-qO-", f"http://{at}:80/name"
            )
            assert (done.returncode == 0) == (source == target), (source, target)
    with closing(outside.run(socket.create_server, (OUTSIDE, 9000))) as server:
        server.settimeout(30)
        for source in targets:
            clean.run("exec", "-d", f"web-{source}", "busybox", "nc", OUTSIDE, "9000")
            if source == "inside":
                server.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    server.accept()
            else:
                server.accept()[0].close()


def test_containers_of_a_network_without_icc_reach_only_the_host(clean: Instance, host: Namespace) -> None:
    docker(clean, "network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
    for name in ("a1", "a2"):
        docker(clean, "run", "-d", "--name", name, "--network", "apart", "busybox", *WEB)
    at = address(clean, "a1", "apart")
    assert eventually(lambda: not refused(host, at, 80))
    done = clean.run("exec", "a2", *PATIENT, "busybox", "wget", "-qO-", f"http://{at}:80/name")
    assert done.returncode != 0


def test_options_show_inside(clean: Instance, host: Namespace) -> None:
    docker(
        clean,
        *(
            "network",
            "create",
            "--subnet",
            "10.9.0.0/16",
            "--ip-range",
            "10.9.5.0/24",
            "--gateway",
            "10.9.0.3",
        ),
        *("-o", "com.docker.network.driver.mtu=1280", "-o", "com.docker.network.bridge.name=mybr0", "opt"),
    )
    docker(
        clean,
        *("run", "-d", "--name", "op", "--network", "name=opt,ip=10.9.7.7,mac-address=02:00:00:00:00:07"),
        *("busybox", "sleep", "60"),
    )
    shown = docker(clean, "exec", "op", "busybox", "ip", "addr", "show", "eth0")
    assert "mtu 1280" in shown
    assert "10.9.7.7/16" in shown
    assert "02:00:00:00:00:07" in shown
    assert "via 10.9.0.3" in docker(clean, "exec", "op", "busybox", "ip", "route")
    assert "mtu 1280" in host.ip("link", "show", "mybr0")
    docker(clean, "run", "-d", "--name", "other", "--network", "opt", "busybox", "sleep", "60")
    assert address(clean, "other", "opt").startswith("10.9.5.")
    done = clean.run("run", "--rm", "--network", "opt", "--ip", "10.9.7.7", "busybox", "true")
    assert (done.returncode, "Address already in use" in done.stderr) == (125, True)


@pytest.mark.timeout(480)
def test_a_thousand_comings_and_goings_leave_nothing(clean: Instance, host: Namespace) -> None:
    docker(clean, "network", "create", "home")
    docker(clean, "network", "create", "--subnet", "10.8.0.0/29", "away")
    docker(clean, "run", "-d", "--name", "goer", "--network", "home", "busybox", "sleep", "600")
    before = settled(clean, host)
    for _ in range(1000):
        clean.api.call("POST", "/networks/away/connect", {"Container": "goer"})
        clean.api.call("POST", "/networks/away/disconnect", {"Container": "goer"})
    # The kernel takes its time for a thousand interfaces, more where it still clears away others' namespaces.
    assert eventually(lambda: settled_at(clean, host, before), 300), (counted(clean, host), before)
    assert eventually(lambda: "gone" not in docker(clean, "exec", "goer", "busybox", "ip", "-o", "link"), 60)
    shown = clean.api.call("GET", "/networks/away")
    assert shown["Containers"] == {}


def settled(daemon: Instance, host: Namespace) -> tuple[int, ...]:
    """What there is once the pool has refilled itself: the same many times in a row."""
    seen: list[tuple[int, ...]] = []

    def quiet() -> bool:
        seen.append(counted(daemon, host))
        return len(seen) > 30 and len(set(seen[-30:])) == 1

    assert eventually(quiet, 30)
    return seen[-1]


def settled_at(daemon: Instance, host: Namespace, before: tuple[int, ...]) -> bool:
    """No more than there was: what other tests left to the kernel may have gone meanwhile."""
    return all(now <= then for now, then in zip(counted(daemon, host), before, strict=True))


def counted(daemon: Instance, host: Namespace) -> tuple[int, ...]:
    """Interfaces of the host, elements of the firewall's sets, and namespaces that the keeper holds."""
    return host.run(links), rules(host), namespaces(daemon.keeper_pid())


def namespaces(pid: int) -> int:
    """How many network namespaces a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return sum(link_.startswith("net:[") for link_ in found)


def links() -> int:
    return len(link.interfaces())


def rules(host: Namespace) -> int:
    """Elements of all sets."""
    sets = json.loads(host.command("nft", "-j", "list", "ruleset"))["nftables"]
    found: list[Any] = [kind for entry in sets for kind in entry.values()]
    return sum(len(kind.get("elem", ())) for kind in found if isinstance(kind, dict))


def test_a_flushed_firewall_is_there_again_and_connections_live(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "run", "-d", "--name", "echo", "-p", "7777:7", "busybox", *ECHO)
    assert eventually(lambda: not refused(outside, HOST, 7777))
    at = address(clean, "echo", "bridge")
    with closing(Talk(outside, HOST, 7777)) as talk:
        before = host.command("nft", "list", "ruleset")
        for _ in range(3):
            host.command("nft", "flush", "ruleset")
            assert eventually(lambda: host.command("nft", "list", "ruleset") == before)
            assert talk.goes_on(), talk.failure
        table = clean.config.firewall_table
        with suppress(AssertionError):  # it belongs to proad alone where the kernel can have it so
            host.command("nft", "flush", "chain", "inet", table, "forward")
        assert eventually(lambda: host.command("nft", "list", "ruleset") == before)
        assert refused(outside, at, 7), "what is dropped is dropped again"
        assert not refused(outside, HOST, 7777)
        assert talk.goes_on(), talk.failure


def test_a_killed_daemon_takes_no_connection_and_no_port_along(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", "kept")
    docker(clean, "run", "-d", "--name", "echo", "--network", "kept", "-p", "7777:7", "busybox", *ECHO)
    assert eventually(lambda: not refused(outside, HOST, 7777))
    with closing(Talk(outside, HOST, 7777)) as four, closing(Talk(host, "::1", 7777)) as six:
        host.run(clean.kill_daemon)
        for talk in (four, six):
            assert talk.goes_on(), talk.failure
        with host.run(socket.socket) as other, pytest.raises(OSError, match="in use"):
            host.run(other.bind, ("0.0.0.0", 7777))
        assert not refused(host, "::1", 7777)
        host.run(clean.start)
        for talk in (four, six):
            assert talk.goes_on(), talk.failure
    assert not refused(outside, HOST, 7777)
    assert address(clean, "echo", "kept")
    done = clean.run("run", "-d", "-p", "7777:7", "busybox", "true")
    assert "port is already allocated" in done.stderr
    docker(clean, "rm", "-f", "echo")
    assert refused(outside, HOST, 7777)


def test_a_host_that_has_lost_everything_has_it_again(clean: Instance, host: Namespace) -> None:
    """As after a restart of the machine: the database is there, bridges and rules are not."""
    docker(clean, "network", "create", "--ipv6", "kept")
    shown = docker(clean, "network", "inspect", "kept")
    keeper = clean.keeper_pid()
    host.run(clean.kill_daemon)
    os.kill(keeper, 9)
    host.run(hosts.tear_down, clean.config)
    host.run(clean.start)
    assert docker(clean, "network", "inspect", "kept") == shown
    docker(
        clean,
        "run",
        "-d",
        "--name",
        "web",
        "-h",
        "again",
        "--network",
        "kept",
        "-p",
        "8080:80",
        "busybox",
        *WEB,
    )
    assert eventually(lambda: not refused(host, "127.0.0.1", 8080))
    assert fetch(host, "127.0.0.1", 8080) == "again"


def test_macvlan_and_its_vlan_are_on_the_parents_wire(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    host.ip("link", "add", "trunk", "type", "veth", "peer", "name", "wire", "netns", str(outside.tid))
    try:
        host.ip("link", "set", "trunk", "up")
        outside.ip("link", "set", "wire", "up")
        outside.ip("addr", "add", "192.0.2.1/24", "dev", "wire")
        done = clean.run(
            *("network", "create", "-d", "macvlan", "--subnet", "192.0.2.0/24", "--gateway", "192.0.2.1"),
            *("-o", "parent=trunk", "mac"),
        )
        if "not supported" in done.stderr:
            pytest.skip("this kernel has no macvlan")
        docker(clean, "run", "-d", "--name", "mac", "-h", "mac", "--network", "mac", "busybox", *WEB)
        at = address(clean, "mac", "mac")
        assert eventually(lambda: not refused(outside, at, 80))
        assert fetch(outside, at, 80) == "mac"
        docker(clean, "rm", "-f", "mac")
    finally:
        with suppress(AssertionError):
            host.ip("link", "del", "trunk")

"""Networks of a real proad, on a machine of its own: its network namespace, and another one outside of it."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, eventually, instance, require_root
from netns import Namespace

from proa.network import hosts, link

OUTSIDE = "203.0.113.2"
HOST = "203.0.113.1"
WEB = ("sh", "-c", "mkdir -p /w; hostname >/w/name; exec httpd -f -p 80 -h /w")
PATIENT = ("busybox", "timeout", "1")
ECHO = ("busybox", "nc", "-ll", "-p", "7", "-e", "cat")
"""Sends back what it gets, as long as the connection lasts."""


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    require_root()
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to look at what was made")
    with closing(Namespace()) as made:
        yield made


@pytest.fixture(scope="module")
def outside(host: Namespace) -> Iterator[Namespace]:
    """Another machine, which even has routes to the containers."""
    with closing(Namespace()) as made:
        host.ip("link", "add", "wan0", "type", "veth", "peer", "name", "far", "netns", str(made.tid))
        for where, name, number in ((host, "wan0", 1), (made, "far", 2)):
            where.ip("addr", "add", f"203.0.113.{number}/24", "dev", name)
            where.ip("addr", "add", f"2001:db8::{number}/64", "dev", name, "nodad")
            where.ip("link", "set", name, "up")
        host.ip("route", "add", "default", "via", OUTSIDE)
        made.ip("route", "add", "172.16.0.0/12", "via", HOST)
        made.ip("route", "add", "10.0.0.0/8", "via", HOST)
        made.ip("route", "add", "fd00::/8", "via", "2001:db8::1")
        yield made


@pytest.fixture(scope="module")
def daemon(host: Namespace, outside: Namespace) -> Iterator[Instance]:
    """A proad that was started in the host's namespace, so that it is its own."""
    root = Path(tempfile.mkdtemp(prefix="proa-nets-"))
    made = instance(root, "--debug")
    running = host.run(made.__enter__)
    try:
        yield running
    finally:
        host.run(made.__exit__, None, None, None)


@pytest.fixture
def clean(daemon: Instance) -> Iterator[Instance]:
    yield daemon
    for container in daemon.api.call("GET", "/containers/json?all=1"):
        daemon.api.call("DELETE", f"/containers/{container['Id']}?force=1")
    for network in daemon.api.call("GET", "/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            daemon.api.call("DELETE", f"/networks/{network['Id']}")


def docker(daemon: Instance, *words: str) -> str:
    done = daemon.run(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


def address(daemon: Instance, container: str, network: str, key: str = "IPAddress") -> str:
    found = daemon.api.call("GET", f"/containers/{container}/json")
    return found["NetworkSettings"]["Networks"][network][key]


def fetch(where: Namespace, at: str, port: int) -> str:
    """The page that WEB serves."""

    def get() -> str:
        with socket.create_connection((at, port), timeout=5) as made:
            made.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: made.recv(4096), b"")).split(b"\r\n\r\n")[1].decode().strip()

    return where.run(get)


def refused(where: Namespace, at: str, port: int) -> bool:
    def get() -> bool:
        try:
            socket.create_connection((at, port), timeout=0.5).close()
        except OSError:
            return True
        return False

    return where.run(get)


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
        server.settimeout(5)
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


def run_web(daemon: Instance, name: str, *options: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "-h", name, *options, "busybox", *WEB)


def modes(four: str, six: str = "nat") -> tuple[str, ...]:
    option = "com.docker.network.bridge.gateway_mode"
    return ("--ipv6", "-o", f"{option}_ipv4={four}", "-o", f"{option}_ipv6={six}")


def answers(where: Namespace, at: str) -> bool:
    done = where.run(
        lambda: subprocess.run(["busybox", "ping", "-c1", "-W1", at], capture_output=True, check=False)
    )
    return done.returncode == 0


def test_a_routed_network_is_reached_at_its_own_addresses(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", *modes("routed"), "routed")
    run_web(clean, "web", "--network", "routed", "-p", "8080:80")
    run_web(clean, "shy", "--network", "routed")
    own, shy = address(clean, "web", "routed"), address(clean, "shy", "routed")
    six = address(clean, "web", "routed", "GlobalIPv6Address")
    assert eventually(lambda: not refused(outside, own, 80))
    assert fetch(outside, own, 80) == "web"
    assert refused(outside, shy, 80), "what is not published is not open"
    assert refused(outside, own, 7)
    assert answers(outside, own)
    assert answers(outside, shy)
    assert refused(outside, HOST, 8080), "nothing is translated"
    assert refused(outside, six, 80), "the other family has a mode of its own"
    assert fetch(outside, "2001:db8::1", 8080) == "web"
    # No port of the host is needed, so that another may have the same.
    docker(clean, "network", "create", *modes("routed", "routed"), "both")
    for name in ("one", "two"):
        run_web(clean, name, "--network", "both", "-p", "8080:80")
        at = address(clean, name, "both", "GlobalIPv6Address")
        assert eventually(lambda at=at: not refused(outside, at, 80))
        assert answers(outside, at)
    shown = clean.api.call("GET", "/containers/one/json")["NetworkSettings"]["Ports"]["80/tcp"]
    assert [port["HostPort"] for port in shown] == ["", ""]
    docker(clean, "rm", "-f", "web")
    assert refused(outside, own, 80)
    # Its own way out is its own, too.
    with closing(outside.run(socket.create_server, (OUTSIDE, 9000))) as server:
        server.settimeout(5)
        clean.run("exec", "-d", "shy", "busybox", "nc", OUTSIDE, "9000")
        connection, (peer, _) = server.accept()
        connection.close()
        assert peer == shy


def test_an_unprotected_network_is_open_in_its_family(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", *modes("nat", "nat-unprotected"), "open")
    run_web(clean, "web", "--network", "open", "-p", "8080:8080")
    six = address(clean, "web", "open", "GlobalIPv6Address")
    assert eventually(lambda: not refused(outside, six, 80))
    assert refused(outside, address(clean, "web", "open"), 80)


def test_an_isolated_network_has_no_gateway(clean: Instance, host: Namespace) -> None:
    done = clean.run("network", "create", *modes("isolated"), "apart")
    assert "gateway mode 'isolated' can only be used for an internal network" in done.stderr
    name = ("-o", "com.docker.network.bridge.name=apart0")
    docker(clean, "network", "create", "--internal", *modes("isolated", "isolated"), *name, "apart")
    run_web(clean, "web", "--network", "apart")
    docker(clean, "run", "-d", "--name", "beside", "--network", "apart", "busybox", "sleep", "60")
    shown = host.ip("-o", "addr", "show", "apart0")
    assert " inet " not in shown
    assert "scope global" not in shown
    assert refused(host, address(clean, "web", "apart"), 80)
    fetched = ("busybox", "wget", "-qO-", "http://web/name")
    assert eventually(lambda: clean.run("exec", "beside", *fetched).stdout.strip() == "web")


def test_trusted_interfaces_reach_every_port(clean: Instance, host: Namespace, outside: Namespace) -> None:
    option = "com.docker.network.bridge.trusted_host_interfaces"
    for name, trusted in (("near", "eth9:wan0"), ("far", "eth9")):
        docker(clean, "network", "create", "-o", f"{option}={trusted}", name)
        run_web(clean, f"web-{name}", "--network", name)
    near, far = address(clean, "web-near", "near"), address(clean, "web-far", "far")
    assert eventually(lambda: not refused(outside, near, 80))
    assert eventually(lambda: not refused(host, far, 80))
    assert refused(outside, far, 80)


def test_published_addresses_of_a_network(clean: Instance, host: Namespace, outside: Namespace) -> None:
    option = "com.docker.network.bridge.host_binding_ipv4"
    docker(clean, "network", "create", "-o", f"{option}=127.0.0.1", "bound")
    run_web(clean, "web", "--network", "bound", "-p", "8080:80")
    assert eventually(lambda: not refused(host, "127.0.0.1", 8080))
    assert refused(outside, HOST, 8080)
    assert docker(clean, "port", "web") == "80/tcp -> 127.0.0.1:8080"


def test_sctp_is_translated(clean: Instance, host: Namespace) -> None:
    """Not every kernel speaks it; the firewall passes it on all the same."""
    docker(clean, "run", "-d", "--name", "one", "-p", "8080:80/sctp", "busybox", "sleep", "60")
    at = address(clean, "one", "bridge")
    assert f"sctp . 8080 : {at} . 80" in host.command("nft", "list", "ruleset")
    assert docker(clean, "port", "one").splitlines()[0] == "80/sctp -> 0.0.0.0:8080"
    docker(clean, "run", "-d", "--name", "two", "-p", "8080:80/tcp", "busybox", "sleep", "60")
    done = clean.run("run", "-d", "-p", "8080:80/sctp", "busybox", "true")
    assert "port is already allocated" in done.stderr
    docker(clean, "rm", "-f", "one")
    assert "sctp . 8080" not in host.command("nft", "list", "ruleset")


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
    before = settled(host)
    for _ in range(1000):
        clean.api.call("POST", "/networks/away/connect", {"Container": "goer"})
        clean.api.call("POST", "/networks/away/disconnect", {"Container": "goer"})
    # The kernel takes its time for a thousand interfaces, more where it still clears away others' namespaces.
    assert eventually(lambda: settled_at(host, before), 300), (host.run(links), rules(host), before)
    assert eventually(lambda: "gone" not in docker(clean, "exec", "goer", "busybox", "ip", "-o", "link"), 60)
    shown = clean.api.call("GET", "/networks/away")
    assert shown["Containers"] == {}


def settled(host: Namespace) -> tuple[int, int]:
    """Interfaces and elements once the pool has refilled itself: the same many times in a row."""
    seen: list[tuple[int, int]] = []

    def quiet() -> bool:
        seen.append((host.run(links), rules(host)))
        return len(seen) > 30 and len(set(seen[-30:])) == 1

    assert eventually(quiet, 30)
    return seen[-1]


def settled_at(host: Namespace, before: tuple[int, int]) -> bool:
    """No more than there was: what other tests left to the kernel may have gone meanwhile."""
    return host.run(links) <= before[0] and rules(host) <= before[1]


def links() -> int:
    return len(link.interfaces())


def rules(host: Namespace) -> int:
    """Elements of all sets."""
    sets = json.loads(host.command("nft", "-j", "list", "ruleset"))["nftables"]
    found: list[Any] = [kind for entry in sets for kind in entry.values()]
    return sum(len(kind.get("elem", ())) for kind in found if isinstance(kind, dict))


class Talk:
    """A connection that carries a line back and forth, for as long as it is asked to."""

    def __init__(self, where: Namespace, at: str, port: int) -> None:
        self.socket = where.run(lambda: socket.create_connection((at, port), timeout=10))
        self.lines = 0
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.socket.sendall(b"ping\n")
                assert self.socket.recv(5) == b"ping\n"
                self.lines += 1
        except Exception as exc:
            self.failure = exc

    def goes_on(self) -> bool:
        lines = self.lines
        return eventually(lambda: self.failure is not None or self.lines > lines + 5) and not self.failure

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.socket.close()


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

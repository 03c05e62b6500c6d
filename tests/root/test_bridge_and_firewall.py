"""The default bridge and the firewall, in network namespaces of their own: a host, a container, an outside.

Each namespace is a thread that has left the test's; nothing of the machine's own network is touched.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from netns import Namespace

from proa.network import docker_user, firewall, link
from proa.network.ipam import Subnet, parse_address

BRIDGE, TABLE = "proa-test", "proa_test"
SUBNET = Subnet.parse("172.30.0.0/16")
GATEWAY = parse_address("172.30.0.1")


@pytest.fixture
def host() -> Iterator[Namespace]:
    if os.geteuid():
        pytest.skip("needs root for network namespaces")
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to look at what was made")
    with closing(Namespace()) as made:
        yield made


@pytest.fixture
def outside(host: Namespace) -> Iterator[Namespace]:
    """Another machine at the host's uplink; it even has a route to the containers."""
    with closing(Namespace()) as made:
        host.ip("link", "add", "wan0", "type", "veth", "peer", "name", "far", "netns", str(made.tid))
        host.ip("addr", "add", "203.0.113.1/24", "dev", "wan0")
        host.ip("link", "set", "wan0", "up")
        made.ip("addr", "add", "203.0.113.2/24", "dev", "far")
        made.ip("link", "set", "far", "up")
        made.ip("route", "add", str(SUBNET), "via", "203.0.113.1")
        yield made


@pytest.fixture
def bridged(host: Namespace) -> Namespace:
    host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1500)
    host.run(link.enable_forwarding)
    host.run(firewall.install, TABLE, [firewall.FirewallNetwork(bridges=(BRIDGE,), masquerade=(SUBNET,))])
    return host


@pytest.fixture
def containers(bridged: Namespace) -> Iterator[list[Namespace]]:
    made = []
    try:
        for number in (2, 3):
            inside = Namespace()
            made.append(inside)
            name = f"c{number}"
            bridged.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(inside.tid))
            bridged.ip("link", "set", name, "master", BRIDGE, "up")
            inside.ip("addr", "add", f"172.30.0.{number}/16", "dev", "eth0")
            inside.ip("link", "set", "eth0", "up")
            inside.ip("route", "add", "default", "via", "172.30.0.1")
        yield made
    finally:
        for inside in made:
            inside.close()


def listener(kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("", 9000))
    if kind == socket.SOCK_STREAM:
        made.listen()
    made.settimeout(10)
    return made


def peer_seen(server: socket.socket) -> str:
    connection, (address, _) = server.accept()
    connection.close()
    return address


def connect(address: str) -> None:
    socket.create_connection((address, 9000), timeout=10).close()


# ---- the bridge ---------------------------------------------------------------------------------


def test_the_bridge_is_made_once_and_found_again(host: Namespace) -> None:
    made = host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1400)
    assert host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1400) == made
    found = host.run(link.find_bridge, BRIDGE)
    assert found is not None
    assert (found.index, found.subnet, found.gateway) == (made, SUBNET, GATEWAY)
    (shown,) = json.loads(host.ip("-j", "-d", "addr", "show", BRIDGE))
    assert (shown["address"], shown["mtu"]) == ("02:42:ac:1e:00:01", 1400)
    assert shown["linkinfo"]["info_kind"] == "bridge"
    inet = [a for a in shown["addr_info"] if a["family"] == "inet"]
    assert [(a["local"], a["prefixlen"], a["broadcast"]) for a in inet] == [
        ("172.30.0.1", 16, "172.30.255.255")
    ]
    assert "UP" in shown["flags"]


def test_another_address_takes_the_place_of_the_old(host: Namespace) -> None:
    host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1500)
    other = Subnet.parse("10.9.0.0/24")
    host.run(link.ensure_bridge, BRIDGE, [(other.first + 1, 24, 32)], 1500)
    found = host.run(link.find_bridge, BRIDGE)
    assert found is not None
    assert (found.subnet, found.gateway) == (other, other.first + 1)


def test_it_accepts_no_router_advertisements(host: Namespace) -> None:
    host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1500)
    path = Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")
    if host.run(path.exists):
        assert host.run(path.read_text).strip() == "0"


def test_removing_what_is_not_there(host: Namespace) -> None:
    assert host.run(link.find_bridge, BRIDGE) is None
    host.run(link.remove_link, BRIDGE)
    host.run(link.ensure_bridge, BRIDGE, [(GATEWAY, 16, 32)], 1500)
    host.run(link.remove_link, BRIDGE)
    assert host.run(link.find_bridge, BRIDGE) is None


def test_ranges_in_use_are_addresses_and_routes(host: Namespace, outside: Namespace) -> None:
    host.ip("route", "add", "10.77.0.0/16", "via", "203.0.113.2")
    host.ip("route", "add", "default", "via", "203.0.113.2")
    used = {str(subnet) for subnet in host.run(link.used_subnets)}
    assert {"203.0.113.0/24", "10.77.0.0/16", "127.0.0.0/8"} <= used
    assert "0.0.0.0/0" not in used


def test_a_name_that_the_kernel_refuses(host: Namespace) -> None:
    with pytest.raises(OSError, match="create bridge"):
        host.run(link.ensure_bridge, "a/b", [(GATEWAY, 16, 32)], 1500)


# ---- the firewall -------------------------------------------------------------------------------


def ruleset(host: Namespace) -> str:
    return host.command("nft", "list", "ruleset")


def test_the_table_is_written_as_a_whole_and_again(bridged: Namespace) -> None:
    first = ruleset(bridged)
    for line in (
        f'elements = {{ "{BRIDGE}" }}',
        f'elements = {{ "{BRIDGE}" . "{BRIDGE}" }}',
        "elements = { 127.0.0.0/8, 172.30.0.0/16 }",
        "oifname @bridges ct state established,related accept",
        "oifname @bridges ct status dnat accept",
        "iifname . oifname @links accept",
        "oifname @bridges drop",
        "ip saddr @masquerade oifname != @bridges masquerade",
    ):
        assert line in first
    bridged.run(firewall.install, TABLE, [firewall.FirewallNetwork(bridges=(BRIDGE,), masquerade=(SUBNET,))])
    assert ruleset(bridged) == first


def test_a_failed_transaction_changes_nothing(bridged: Namespace) -> None:
    before = ruleset(bridged)
    halves = (SUBNET, Subnet.parse("172.30.0.0/17"))
    overlapping = [firewall.FirewallNetwork(bridges=("b0",), masquerade=(subnet,)) for subnet in halves]
    with pytest.raises(OSError, match="nft set masquerade"):
        bridged.run(firewall.install, TABLE, overlapping)
    assert ruleset(bridged) == before


def test_removal_leaves_other_tables_alone(bridged: Namespace) -> None:
    bridged.command("nft", "add", "table", "ip", "mine")
    for _ in range(2):
        bridged.run(firewall.remove, TABLE)
    assert ruleset(bridged).split() == ["table", "ip", "mine", "{", "}"]


def test_containers_reach_out_under_the_hosts_address(
    containers: list[Namespace], outside: Namespace
) -> None:
    with closing(outside.run(listener)) as server:
        containers[0].run(connect, "203.0.113.2")
        assert outside.run(peer_seen, server) == "203.0.113.1"


def test_containers_reach_each_other_under_their_own(containers: list[Namespace]) -> None:
    with closing(containers[1].run(listener)) as server:
        containers[0].run(connect, "172.30.0.3")
        assert containers[1].run(peer_seen, server) == "172.30.0.2"


def test_the_host_and_its_containers_reach_each_other(
    containers: list[Namespace], bridged: Namespace
) -> None:
    with closing(containers[0].run(listener)) as server:
        bridged.run(connect, "172.30.0.2")
        assert containers[0].run(peer_seen, server) == "172.30.0.1"
    with closing(bridged.run(listener)) as server:
        containers[0].run(connect, "172.30.0.1")
        assert bridged.run(peer_seen, server) == "172.30.0.2"


def test_nothing_comes_in_unasked(containers: list[Namespace], outside: Namespace) -> None:
    target = containers[0]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"unasked", ("172.30.0.2", 9000))

    with closing(target.run(listener, socket.SOCK_DGRAM)) as mailbox:
        outside.run(send)
        # What goes the other way after it has come: the datagram would have been delivered by then.
        with closing(outside.run(listener)) as server:
            target.run(connect, "203.0.113.2")
            outside.run(peer_seen, server)
        mailbox.setblocking(False)
        with pytest.raises(BlockingIOError):
            mailbox.recv(100)


def test_without_the_firewall_it_would(
    containers: list[Namespace], bridged: Namespace, outside: Namespace
) -> None:
    """The route and the forwarding of the test before are real."""
    bridged.run(firewall.remove, TABLE)
    with closing(containers[0].run(listener)) as server:
        outside.run(connect, "172.30.0.2")
        assert containers[0].run(peer_seen, server) == "203.0.113.2"


# ---- published ports ----------------------------------------------------------------------------


def published(*, address: str = "172.30.0.2", at: str = "", protocol: str = "tcp") -> firewall.Translation:
    return firewall.Translation(
        protocol=protocol,
        host_address=parse_address(at) if at else None,
        host_port=8080,
        address=parse_address(address),
        port=9000,
    )


def reach(address: str) -> None:
    socket.create_connection((address, 8080), timeout=10).close()


@pytest.mark.parametrize("at", ["", "203.0.113.1"])
def test_a_published_port_from_outside(
    containers: list[Namespace], bridged: Namespace, outside: Namespace, at: str
) -> None:
    bridged.run(firewall.change, TABLE, [published(at=at)])
    with closing(containers[0].run(listener)) as server:
        outside.run(reach, "203.0.113.1")
        assert containers[0].run(peer_seen, server) == "203.0.113.2"


@pytest.mark.parametrize(
    ("address", "seen"),
    [("127.0.0.1", "172.30.0.1"), ("172.30.0.1", "172.30.0.1"), ("127.9.9.9", "172.30.0.1")],
)
def test_a_published_port_from_the_host(
    containers: list[Namespace], bridged: Namespace, address: str, seen: str
) -> None:
    bridged.run(firewall.change, TABLE, [published()])
    with closing(containers[0].run(listener)) as server:
        bridged.run(reach, address)
        assert containers[0].run(peer_seen, server) == seen


@pytest.mark.parametrize("who", [0, 1], ids=["itself", "another"])
def test_a_published_port_from_containers(containers: list[Namespace], bridged: Namespace, who: int) -> None:
    bridged.run(firewall.change, TABLE, [published()])
    bridged.run(link.allow_hairpin, ["c2"])
    with closing(containers[0].run(listener)) as server:
        containers[who].run(reach, "172.30.0.1")
        containers[0].run(peer_seen, server)


def test_a_port_on_localhost_only_is_not_there_for_others(
    containers: list[Namespace], bridged: Namespace, outside: Namespace
) -> None:
    bridged.run(firewall.change, TABLE, [published(at="127.0.0.1")])
    with closing(containers[0].run(listener)) as server:
        bridged.run(reach, "127.0.0.1")
        containers[0].run(peer_seen, server)
    with pytest.raises(ConnectionRefusedError):
        outside.run(reach, "203.0.113.1")


def test_datagrams_are_published_apart(
    containers: list[Namespace], bridged: Namespace, outside: Namespace
) -> None:
    bridged.run(firewall.change, TABLE, [published(protocol="udp")])

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"asked", ("203.0.113.1", 8080))

    with closing(containers[0].run(listener, socket.SOCK_DGRAM)) as mailbox:
        outside.run(send)
        assert mailbox.recv(100) == b"asked"
    with pytest.raises(ConnectionRefusedError):
        outside.run(reach, "203.0.113.1")


def test_a_port_that_is_taken_back(
    containers: list[Namespace], bridged: Namespace, outside: Namespace
) -> None:
    ports = [published(), published(at="203.0.113.1")]
    bridged.run(firewall.change, TABLE, ports)
    bridged.run(firewall.unpublish, TABLE, ports[:1])
    for _ in range(2):
        bridged.run(firewall.unpublish, TABLE, ports)
    with pytest.raises(ConnectionRefusedError):
        outside.run(reach, "203.0.113.1")


def test_ports_survive_a_table_written_anew(
    containers: list[Namespace], bridged: Namespace, outside: Namespace
) -> None:
    networks = [firewall.FirewallNetwork(bridges=(BRIDGE,), masquerade=(SUBNET,))]
    bridged.run(firewall.install, TABLE, networks, [published()])
    with closing(containers[0].run(listener)) as server:
        outside.run(reach, "203.0.113.1")
        containers[0].run(peer_seen, server)


def test_containers_do_not_reach_the_hosts_localhost(containers: list[Namespace], bridged: Namespace) -> None:
    containers[0].command("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
    containers[0].ip("addr", "del", "127.0.0.1/8", "dev", "lo")
    containers[0].ip("route", "add", "127.0.0.0/8", "via", "172.30.0.1", "src", "172.30.0.2")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"unasked", ("127.0.0.1", 9000))

    with closing(bridged.run(listener, socket.SOCK_DGRAM)) as mailbox:
        containers[0].run(send)
        with closing(containers[0].run(listener)) as server:
            bridged.run(connect, "172.30.0.2")
            containers[0].run(peer_seen, server)
        mailbox.setblocking(False)
        with pytest.raises(BlockingIOError):
            mailbox.recv(100)


# ---- beside dockerd -----------------------------------------------------------------------------


DOCKERS_FIREWALL = """
table ip filter {
    chain DOCKER-USER { counter return; }
    chain FORWARD { type filter hook forward priority 0; policy drop; counter jump DOCKER-USER; }
}
"""


def test_a_way_through_dockers_firewall(
    containers: list[Namespace], bridged: Namespace, outside: Namespace, tmp_path: Path
) -> None:
    (tmp_path / "docker.nft").write_text(DOCKERS_FIREWALL)
    bridged.command("nft", "-f", str(tmp_path / "docker.nft"))
    before = ruleset(bridged)
    for _ in range(2):
        bridged.run(docker_user.let_through, [BRIDGE])
    rules = bridged.command("nft", "list", "chain", "ip", "filter", "DOCKER-USER")
    assert rules.count("accept") == 2
    assert f'iifname "{BRIDGE}" counter' in rules
    assert f'oifname "{BRIDGE}" counter' in rules
    with closing(outside.run(listener)) as server:
        containers[0].run(connect, "203.0.113.2")
        assert outside.run(peer_seen, server) == "203.0.113.1"
    for _ in range(2):
        bridged.run(docker_user.withdraw, [BRIDGE])
    after = ruleset(bridged)
    assert re.sub(r"packets \d+ bytes \d+", "", after) == re.sub(r"packets \d+ bytes \d+", "", before)


def test_a_host_without_dockers_firewall_is_left_alone(host: Namespace) -> None:
    host.run(docker_user.let_through, [BRIDGE])
    host.run(docker_user.withdraw, [BRIDGE])
    assert ruleset(host) == ""

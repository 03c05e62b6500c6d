"""Gateway modes: what of the host a published port takes, and what the firewall is told of a network."""

from pathlib import Path

import pytest
from fake_host import Host, opened
from fake_keeper import FakeKeeper

from proa.errors import InvalidParameter
from proa.metadata import Metadata
from proa.network import EndpointWish, Networking, NetworkRecord, NetworkWish, PortWish, firewall, hosts
from proa.network.ipam import IPV4, IPV6
from proa.network.ports import Ports
from proa.schema.config import DaemonConfig
from proa.schema.network import NetworkCreateRequest

BRIDGE = "com.docker.network.bridge."
WEB = PortWish(protocol="tcp", container_port=80, first=8080, last=8080)


async def made(networking: Networking, name: str, *, six: bool = False, **modes: str) -> NetworkRecord:
    options = {f"{BRIDGE}gateway_mode_{family}": mode for family, mode in modes.items()}
    return await networking.create(NetworkCreateRequest(name=name, options=options, enable_i_pv6=six))


def wish(*networks: EndpointWish) -> NetworkWish:
    return NetworkWish(mode="bridge", endpoints=networks, hostname="box", ports=(WEB,))


def test_a_routed_family_takes_no_port_of_the_host() -> None:
    ports = Ports((40000, 40010), ipv6=True)
    for _ in range(2):
        assert [p.host_port for p in ports.take(WEB, (), (False, True))] == [0, 0]
    six, four = ports.take(WEB, (), (False,))
    assert (six.host_address, six.host_port, four.host_address, four.host_port) == ("::", 8080, "0.0.0.0", 0)
    ports.give_back((six, four))
    assert len(ports.take(WEB)) == 2


async def test_two_containers_of_a_routed_network_have_the_same_port(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "routed", ipv4="routed")
    for name in ("c1", "c2"):
        sandbox = await network.connect(name, wish(EndpointWish(network="routed")))
        assert [(p.host_address, p.host_port) for p in sandbox.ports] == [("0.0.0.0", 0)]
        (shown,) = sandbox.settings().ports["80/tcp"]  # type: ignore[index,misc]
        assert shown.host_port == ""
    assert keeper.ports == {}
    assert all(isinstance(rule, firewall.Opening) for rule in host.rules)
    assert len(host.rules) == 2
    await network.disconnect("c1")
    assert len(host.rules) == 1
    await network.disconnect("c2")
    await network.close()


async def test_ports_change_with_the_mode_of_the_way_in(
    database: Metadata, host: Host, tmp_path: Path
) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    routed = await made(network, "routed", ipv4="routed")
    await made(network, "nat")
    at_first = wish(EndpointWish(network="nat"))
    sandbox = await network.connect("c1", at_first)
    network.write_files(str(tmp_path), at_first, sandbox)
    assert {p.host_port for p in sandbox.ports} == {8080}
    both = wish(*at_first.endpoints, EndpointWish(network="routed", priority=1))
    sandbox = await network.attach("c1", str(tmp_path), both, "one")
    assert {p.host_port for p in sandbox.ports} == {0}
    assert (keeper.ports, host.targets()) == ({}, {})
    sandbox = await network.detach("c1", str(tmp_path), at_first, routed.id)
    assert {p.host_port for p in sandbox.ports} == {8080}
    assert list(host.targets()) == [8080]
    await network.disconnect("c1")
    assert (keeper.ports, host.rules) == ({}, {})
    await network.close()


async def test_what_the_firewall_is_told(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    mixed = await made(network, "mixed", six=True, ipv4="routed")
    told = hosts.firewall_network(DaemonConfig(exec_root="/tmp/x"), mixed)
    assert (told.routed, told.unprotected) == ((IPV4,), ())
    assert [subnet.bits for subnet in told.masquerade] == [IPV6], "what is routed leaves as it is"
    options = {
        f"{BRIDGE}gateway_mode_ipv6": "nat-unprotected",
        f"{BRIDGE}trusted_host_interfaces": "eth0:tun1",
    }
    request = NetworkCreateRequest(name="open", options=options, enable_i_pv6=True)
    told = hosts.firewall_network(DaemonConfig(exec_root="/tmp/x"), await network.create(request))
    assert (told.routed, told.unprotected, told.trusted) == ((), (IPV6,), ("eth0", "tun1"))
    for key, value in (("trusted_host_interfaces", "eth0:a/b"), ("gateway_mode_ipv4", "tunnel")):
        with pytest.raises(InvalidParameter):
            await network.create(NetworkCreateRequest(name="bad", options={f"{BRIDGE}{key}": value}))
    await network.close()

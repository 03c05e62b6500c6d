"""Connecting and disconnecting, without a bridge of the host."""

import asyncio
import socket

import msgspec
import pytest
from fake_host import Host, opened
from fake_keeper import FakeKeeper

from proa.errors import Forbidden, NotFound, System
from proa.metadata import Metadata
from proa.network import (
    EndpointWish,
    NetworkWish,
    PortWish,
    firewall,
)
from proa.schema.network import IPAM, IPAMConfig, NetworkCreateRequest, PortBinding
from proa.schema.plan import ContainerNamespace, HostNamespace, NoNetwork, PreparedNetwork

DEFAULT = (EndpointWish(network="bridge"),)
BRIDGE = NetworkWish(mode="bridge", endpoints=DEFAULT, hostname="box")


async def test_modes_without_an_interface(database: Metadata) -> None:
    network = opened(database, FakeKeeper())
    none = await network.connect("c1", NetworkWish(mode="none"))
    host = await network.connect("c2", NetworkWish(mode="host"))
    other = await network.connect("c3", NetworkWish(mode="container", container="c1"))
    assert (none.plan_network, host.plan_network) == (NoNetwork(), HostNamespace())
    assert other.plan_network == ContainerNamespace("c1")
    assert list(none.networks()) == ["none"]
    assert list(host.networks()) == ["host"]
    assert other.networks() == {}
    await network.close()


async def test_a_bridge_endpoint_and_what_inspect_shows(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=2)
    sandbox = await network.connect("c1", BRIDGE)
    (endpoint,) = sandbox.endpoints
    assert sandbox.plan_network == PreparedNetwork(sandbox.key)
    assert sandbox.key in keeper.prepared
    shown = sandbox.settings(["80/tcp", "53"])
    assert (shown.ip_address, shown.gateway, shown.ip_prefix_len) == (endpoint.address, "172.30.0.1", 16)
    assert shown.ports == {"80/tcp": None, "53/tcp": None}
    assert shown.networks is not None
    assert shown.networks["bridge"] == endpoint.settings()
    assert list(network.endpoints(endpoint.network_id)) == ["c1"]
    await network.disconnect("c1")
    await network.disconnect("c1")
    assert network.endpoints(endpoint.network_id) == {}
    await network.remove()
    assert keeper.prepared == {}
    assert host.calls[-1][0] == "tear_down"


async def test_the_next_daemon_remembers_and_holds_what_runs(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    first = opened(database, keeper, network_pool_size=2)
    sandbox = await first.connect("c1", BRIDGE)
    keeper.start(sandbox.key)
    ids = {n.name: n.id for n in first.networks}
    await first.close()
    second = opened(database, keeper, network_pool_size=2)
    assert {n.name: n.id for n in second.networks} == ids
    second.adopt("c1", sandbox)
    await second.keeper_changed(list(keeper.prepared))
    await second.start()
    assert host.remembered[-1] == "172.30.0.0/16"
    others = [(await second.connect(f"x{n}", BRIDGE)).address for n in range(5)]
    assert sandbox.address not in others
    assert len(set(others)) == 5
    await second.close()


async def test_a_key_that_a_start_is_about_to_take_stays(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=2)
    sandbox = await network.connect("c1", BRIDGE)
    await network.keeper_changed(list(keeper.prepared))
    assert (await network.connect("c2", BRIDGE)).address != sandbox.address
    assert sandbox.key not in keeper.released
    await network.close()


async def test_a_host_that_refuses_is_told_and_tried_again(database: Metadata, host: Host) -> None:
    host.refusal = PermissionError(1, "create bridge proa0: Operation not permitted")
    network = opened(database, FakeKeeper())
    for count in (1, 2):
        with pytest.raises(System, match=r"default bridge .*Operation not permitted"):
            await network.connect("c1", BRIDGE)
        assert len(host.remembered) == count + 1, "once at the daemon's start"
    assert (await network.connect("c2", NetworkWish(mode="none"))).mode == "none"
    host.refusal = None
    assert (await network.connect("c1", BRIDGE)).address
    await network.close()


async def test_no_default_bridge_at_all(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), bridge="none")
    with pytest.raises(NotFound, match="network bridge not found"):
        await network.connect("c1", BRIDGE)
    await network.close()


async def test_what_a_stopped_container_shows(database: Metadata) -> None:
    network = opened(database, FakeKeeper())
    shown = network.stopped_settings(BRIDGE)
    assert shown.networks is not None
    endpoint = shown.networks["bridge"]
    assert endpoint is not None
    assert endpoint.network_id == next(n.id for n in network.networks if n.name == "bridge")
    assert endpoint.ip_address == ""
    await network.close()


# ---- published ports ----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def publishing(*ports: PortWish) -> NetworkWish:
    return NetworkWish(mode="bridge", endpoints=DEFAULT, hostname="box", ports=ports)


async def test_ports_are_held_shown_and_given_back(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=2)
    number = free_port()
    wish = publishing(
        PortWish(protocol="tcp", container_port=80, host_address="127.0.0.1", first=number, last=number),
        PortWish(protocol="udp", container_port=53),
    )
    sandbox = await network.connect("c1", wish)
    shown = sandbox.settings(["80/tcp", "99/tcp"]).ports
    assert shown is not None
    assert shown["80/tcp"] == [PortBinding(host_ip="127.0.0.1", host_port=str(number))]
    assert shown["99/tcp"] is None
    random, six = shown["53/udp"] or ()
    assert (random.host_ip, six.host_ip) == ("0.0.0.0", "::")
    assert int(random.host_port) == int(six.host_port) >= 1024
    assert host.targets() == {port.host_port: sandbox.address for port in sandbox.ports}
    (passed_on,) = {held.target for held in keeper.ports["c1"] if held.address == "::"}
    assert passed_on == f"{sandbox.address}:53", "what comes by IPv6 is passed on to IPv4"
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", number))
    with pytest.raises(System, match=f"Bind for 127.0.0.1:{number} failed: port is already allocated"):
        await network.connect("c2", wish)
    await network.disconnect("c1")
    await network.connect("c3", wish)
    await network.disconnect("c3")
    await network.close()


async def test_a_port_that_is_about_to_be_free_is_waited_for(database: Metadata, host: Host) -> None:
    """Who has seen one container end may start the next."""
    network = opened(database, FakeKeeper(), network_pool_size=2)
    number = free_port()
    wish = publishing(PortWish(protocol="tcp", container_port=80, first=number, last=number))
    await network.connect("c1", wish)
    ending = asyncio.ensure_future(network.disconnect("c1"))
    await asyncio.sleep(0)
    assert not ending.done()
    assert (await network.connect("c2", wish)).ports[0].host_port == number
    await ending
    await network.disconnect("c2")
    await network.close()


async def test_an_address_of_ones_own(database: Metadata, host: Host) -> None:
    """One that the last container is about to give back is waited for; the pool gives way."""
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=3)
    subnet = IPAM(config=[IPAMConfig(subnet="10.9.0.0/24")])
    await network.create(NetworkCreateRequest(name="own", ipam=subnet))

    def asking(address: str) -> NetworkWish:
        return NetworkWish(
            mode="bridge", endpoints=(EndpointWish(network="own", ipv4=address),), hostname="b"
        )

    first = await network.connect("c0", asking(""))
    assert first.address == "10.9.0.2"
    for _ in range(30):
        await asyncio.sleep(0)  # the pools fill
    assert len(keeper.prepared) == 3 + 1 + 3
    sandbox = await network.connect("c1", asking("10.9.0.4"))
    assert sandbox.address == "10.9.0.4"
    with pytest.raises(Forbidden, match="Address already in use"):
        await network.connect("c2", asking("10.9.0.4"))
    await network.disconnect("c1")
    assert (await network.connect("c1", asking("10.9.0.4"))).address == "10.9.0.4"
    for container in ("c0", "c1"):
        await network.disconnect(container)
    await network.close()


async def test_a_port_of_a_program_of_the_host(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=2)
    with socket.socket() as program:
        program.bind(("127.0.0.1", 0))
        program.listen()
        number = program.getsockname()[1]
        one = PortWish(protocol="tcp", container_port=80, host_address="127.0.0.1", first=number, last=number)
        with pytest.raises(
            System, match=r"driver failed programming external connectivity.*address already in"
        ):
            await network.connect("c1", publishing(one))
        several = msgspec.structs.replace(one, last=number + 20)
        (port,) = (await network.connect("c2", publishing(several))).ports
        assert number < port.host_port <= number + 20
    await network.disconnect("c2")
    await network.close()


async def test_a_firewall_that_refuses_leaves_no_port_held(
    database: Metadata, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(table: str, add: object, remove: object = ()) -> None:
        raise OSError(12, "change nft set publish: Cannot allocate memory")

    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=2)
    number = free_port()
    wish = publishing(
        PortWish(protocol="tcp", container_port=80, host_address="127.0.0.1", first=number, last=number)
    )
    with monkeypatch.context() as patched:
        patched.setattr(firewall, "change", refuse)
        with pytest.raises(System, match="change nft set publish"):
            await network.connect("c1", wish)
    assert (await network.connect("c2", wish)).ports
    await network.disconnect("c2")
    await network.close()


async def test_a_table_that_was_flushed_is_written_again_before_the_port(
    database: Metadata, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=2)
    await network.start()
    host.calls.clear()

    def missing(table: str, add: object, remove: object = ()) -> None:
        raise OSError(2, "change nft set publish: No such file or directory")

    monkeypatch.setattr(firewall, "change", missing)
    await network.connect("c1", publishing(PortWish(protocol="tcp", container_port=80)))
    assert ("install",) in host.calls
    await network.disconnect("c1")
    await network.close()


async def test_the_next_daemon_holds_the_ports_again(database: Metadata, host: Host) -> None:
    first = opened(database, FakeKeeper(), network_pool_size=2)
    number = free_port()
    wish = publishing(
        PortWish(protocol="tcp", container_port=80, host_address="127.0.0.1", first=number, last=number)
    )
    sandbox = await first.connect("c1", wish)
    await first.disconnect("c1")
    await first.close()
    second = opened(database, FakeKeeper(), network_pool_size=2)
    second.adopt("c1", sandbox)
    with pytest.raises(System, match="port is already allocated"):
        await second.connect("c2", wish)
    await second.disconnect("c1")
    await second.close()

"""Containers on networks of their users' own: several at once, and while they run."""

from pathlib import Path

import pytest
from fake_host import Host, opened
from fake_keeper import FakeKeeper

from proa.errors import Forbidden, InvalidParameter, NotFound, System, Unavailable
from proa.metadata import Metadata
from proa.network import EndpointWish, Networking, NetworkWish, PortWish
from proa.schema.network import IPAM, IPAMConfig, NetworkCreateRequest


async def made(networking: Networking, name: str, *subnets: str, **fields: object) -> str:
    config = [IPAMConfig(subnet=subnet) for subnet in subnets]
    request = NetworkCreateRequest(name=name, ipam=IPAM(config=config), **fields)  # type: ignore[arg-type]
    return (await networking.create(request)).id


def wish(*endpoints: EndpointWish, **fields: object) -> NetworkWish:
    return NetworkWish(mode="bridge", endpoints=endpoints, hostname="box", **fields)  # type: ignore[arg-type]


async def test_several_networks_are_one_namespace(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "front", "10.1.0.0/24")
    await made(network, "back", "10.2.0.0/24", "fd00:2::/64", enable_i_pv6=True)
    front = EndpointWish(network="front", ipv4="10.1.0.9", aliases=("web",))
    sandbox = await network.connect("c" * 64, wish(front, EndpointWish(network="back", priority=5)), "box1")
    first, second = keeper.prepared[sandbox.key], keeper.more[sandbox.key][0]
    assert (first.interface, first.addresses, first.gateways) == ("eth0", ("10.1.0.9/24",), ())
    assert second.interface == "eth1"
    assert second.addresses == ("10.2.0.2/24", "fd00:2::2/64")
    assert second.gateways == ("10.2.0.1", "fd00:2::1"), "the higher priority has the default routes"
    assert sandbox.endpoints[0].names == ("box1", "web", "c" * 12, "box")
    told = keeper.names["c" * 64]
    assert told.key == sandbox.key
    assert [(n.name, n.addresses) for n in told.networks] == [
        ("front", ("10.1.0.9",)),
        ("back", ("10.2.0.2", "fd00:2::2")),
    ]
    with pytest.raises(Forbidden, match="Address already in use"):
        await network.connect("d" * 64, wish(front))
    await network.close()


async def test_a_namespace_that_cannot_be_made_costs_no_address(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "front", "10.1.0.0/24")
    asked = wish(EndpointWish(network="front", ipv4="10.1.0.9"))
    keeper.down = True
    with pytest.raises(Unavailable):
        await network.connect("c1", asked)
    keeper.down = False
    assert (await network.connect("c1", asked)).address == "10.1.0.9"
    with pytest.raises(NotFound, match="network nosuch not found"):
        await network.connect("c2", wish(EndpointWish(network="nosuch")))
    await network.close()


async def test_ports_go_with_the_default_route(database: Metadata, host: Host, tmp_path: Path) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "a", "10.1.0.0/24")
    b = await made(network, "b", "10.2.0.0/24")
    asked = wish(EndpointWish(network="a"), ports=(PortWish(protocol="tcp", container_port=80),))
    sandbox = await network.connect("c1", asked)
    network.write_files(str(tmp_path), asked, sandbox)
    (number,) = host.targets()
    more = wish(*asked.endpoints, EndpointWish(network="b", priority=1), ports=asked.ports)
    sandbox = await network.attach("c1", str(tmp_path), more, "one")
    assert host.targets() == {number: "10.2.0.2"}
    assert keeper.routes["c1"] == (("10.2.0.1", "eth1"),)
    assert "10.2.0.2\tbox\n" in (tmp_path / "hosts").read_text()
    with pytest.raises(Forbidden, match="endpoint with name one already exists in network b"):
        await network.attach("c1", str(tmp_path), more, "one")
    sandbox = await network.detach("c1", str(tmp_path), asked, b)
    assert host.targets() == {number: "10.1.0.2"}
    assert [e.network_name for e in sandbox.endpoints] == ["a"]
    assert keeper.attached == {}
    assert "10.2.0.2" not in (tmp_path / "hosts").read_text()
    await network.disconnect("c1")
    assert host.rules == {}
    await network.close()


async def test_names_come_and_go_and_what_the_container_wrote_stays(
    database: Metadata, host: Host, tmp_path: Path
) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    b = await made(network, "b", "10.2.0.0/24")
    asked = wish(EndpointWish(network="bridge"))
    sandbox = await network.connect("c1", asked)
    network.write_files(str(tmp_path), asked, sandbox)
    before = (tmp_path / "resolv.conf").read_text()
    with (tmp_path / "hosts").open("a") as hosts:
        hosts.write("192.0.2.7\tmine\n")
    assert keeper.names == {}
    await network.attach("c1", str(tmp_path), wish(*asked.endpoints, EndpointWish(network="b")), "one")
    assert "nameserver 127.0.0.11\n" in (tmp_path / "resolv.conf").read_text()
    assert [told.name for told in keeper.names["c1"].networks] == ["b"]
    await network.detach("c1", str(tmp_path), asked, b)
    assert (tmp_path / "resolv.conf").read_text() == before, "all of it, and nothing after it"
    assert keeper.names["c1"].networks == (), "it is served still, for who has read of it"
    assert "192.0.2.7\tmine\n" in (tmp_path / "hosts").read_text()
    await network.disconnect("c1")
    await network.close()


async def test_a_failed_attach_leaves_all_as_it_was(database: Metadata, host: Host, tmp_path: Path) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "a", "10.1.0.0/24")
    await made(network, "b", "10.2.0.0/30")
    asked = wish(EndpointWish(network="a"))
    sandbox = await network.connect("c1", asked)
    more = wish(*asked.endpoints, EndpointWish(network="b"))
    keeper.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await network.attach("c1", str(tmp_path), more, "one")
    keeper.down = False
    network.write_files(str(tmp_path), asked, sandbox)
    assert (await network.attach("c1", str(tmp_path), more, "one")).endpoints[1].address == "10.2.0.2"
    await network.close()


async def test_an_internal_network_has_no_way_out(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    await made(network, "inside", "10.1.0.0/24", internal=True)
    asked = wish(EndpointWish(network="inside"), ports=(PortWish(protocol="tcp", container_port=80),))
    sandbox = await network.connect("c1", asked)
    assert keeper.prepared[sandbox.key].gateways == ()
    assert (sandbox.ports, host.rules) == ((), {})
    assert keeper.names["c1"].upstreams == ()
    await network.close()


async def test_what_a_network_cannot_give(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    await made(network, "chosen")
    await made(network, "mine", "10.1.0.0/24")
    none_chosen = (
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    )
    elsewhere = "no configured subnet or ip-range contain the IP address 10.9.0.9"
    for asked, told in (
        (EndpointWish(network="chosen", ipv4="172.18.0.9"), [none_chosen]),
        (EndpointWish(network="mine", ipv4="10.9.0.9", ipv6="fd00::9"), [elsewhere, none_chosen]),
        (EndpointWish(network="mine", ipv4="10.1.0.9"), []),
        (EndpointWish(network="nosuch", ipv4="10.1.0.9"), []),
    ):
        assert list(network.faults(asked)) == told
    with pytest.raises(InvalidParameter, match=f"^invalid endpoint settings:\n{elsewhere}"):
        await network.connect("c1", wish(EndpointWish(network="mine", ipv4="10.9.0.9")))
    await network.close()


async def test_a_network_that_is_used_up_is_named(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    id_ = await made(network, "tiny", "10.1.0.0/30")
    await network.connect("c1", wish(EndpointWish(network="tiny")))
    told = rf"no available IPv4 addresses on this network's address pools: tiny \({id_}\)"
    with pytest.raises(System, match=told):
        await network.connect("c2", wish(EndpointWish(network="tiny")))
    await network.close()


async def test_another_gateway_than_the_bridge(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    config = IPAMConfig(subnet="10.1.0.0/24", auxiliary_addresses={"DefaultGatewayIPv4": "10.1.0.2"})
    await network.create(NetworkCreateRequest(name="far", ipam=IPAM(config=[config])))
    sandbox = await network.connect("c1", wish(EndpointWish(network="far")))
    assert (sandbox.address, sandbox.routes()) == ("10.1.0.3", (("10.1.0.2", "eth0"),))
    await network.close()


async def test_a_running_container_leaves_none_for_a_network_and_comes_back(
    database: Metadata, host: Host, tmp_path: Path
) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=0)
    a = await made(network, "a", "10.1.0.0/24")
    alone = NetworkWish(mode="none", hostname="box", ports=(PortWish(protocol="tcp", container_port=80),))
    sandbox = await network.connect("c1", alone)
    network.write_files(str(tmp_path), alone, sandbox)
    (none,) = (e.network_id for e in sandbox.endpoints)
    free = wish(ports=alone.ports)
    assert (await network.detach("c1", str(tmp_path), free, none)).endpoints == ()
    sandbox = await network.attach(
        "c1", str(tmp_path), wish(EndpointWish(network="a"), ports=alone.ports), "one"
    )
    assert keeper.attached["c1", "eth0"].addresses == ("10.1.0.2/24",)
    assert list(host.targets().values()) == ["10.1.0.2"], "what it publishes is published now"
    assert "nameserver 127.0.0.11\n" in (tmp_path / "resolv.conf").read_text()
    await network.detach("c1", str(tmp_path), free, a)
    assert host.targets() == {}
    assert network.attach_none("c1").endpoints[0].network_id == none
    assert list(network.endpoints(none)) == ["c1"]
    await network.disconnect("c1")
    await network.close()


async def test_the_next_daemon_knows_networks_and_who_is_on_them(database: Metadata, host: Host) -> None:
    keeper = FakeKeeper()
    first = opened(database, keeper, network_pool_size=0)
    network_id = await made(first, "a", "10.1.0.0/29")
    sandbox = await first.connect("c1", wish(EndpointWish(network="a")))
    await first.close()
    second = opened(database, keeper, network_pool_size=0)
    second.adopt("c1", sandbox)
    await second.keeper_changed([sandbox.key])
    await second.start()
    assert list(second.endpoints(network_id)) == ["c1"]
    assert sandbox.key not in keeper.released
    others = [(await second.connect(f"x{n}", wish(EndpointWish(network="a")))).address for n in range(4)]
    assert sandbox.address not in others
    await second.close()


async def test_a_bridge_that_was_deleted_is_made_again_and_who_runs_comes_back(
    database: Metadata, host: Host
) -> None:
    keeper = FakeKeeper()
    network = opened(database, keeper, network_pool_size=2)
    id_ = await made(network, "a", "10.1.0.0/24", options={"com.docker.network.bridge.name": "mine"})
    asked = wish(EndpointWish(network="a"))
    running = await network.connect("c1", asked)
    ready = {key for key in keeper.prepared if key != running.key}
    host.gone = {"mine"}
    host.calls.clear()
    raised = host.call

    def call(*what: object) -> None:
        raised(*what)
        host.gone = set()

    host.call = call  # type: ignore[method-assign]
    fresh = await network.connect("c2", asked)
    assert fresh.key not in ready, "what was ready on the old one is of no use"
    (end,) = (endpoint.host_interface for endpoint in running.endpoints)
    assert ("put_back", {end: ("mine", False)}) in host.calls
    assert [e.network_id for e in fresh.endpoints] == [id_]
    await network.close()

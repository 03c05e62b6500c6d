"""The pool of prepared namespaces: ready ones at once, never one twice, in step with the keeper."""

import asyncio

import pytest
from fake_keeper import FakeKeeper

from proa.errors import System, Unavailable
from proa.network.network import Network
from proa.network.pool import MAXIMUM, Pool
from proa.network.records import NetworkRecord, SubnetRecord
from proa.network.sandbox import Endpoint, EndpointWish
from proa.schema.config import DaemonConfig


class NoHost:
    """No side of a host is needed to prepare."""

    async def raise_up(self, network: Network) -> NetworkRecord:
        raise AssertionError

    async def add_shard(self, network: Network) -> None:
        raise AssertionError


def network(
    keeper: FakeKeeper, *, size: int = 4, bridge: str = "b0", subnet: str = "10.0.0.0/24", six: str = ""
) -> Network:
    subnets = [SubnetRecord(subnet=subnet, gateway="10.0.0.1")]
    if six:
        subnets.append(SubnetRecord(subnet=six, gateway=f"{six.partition('/')[0]}1"))
    record = NetworkRecord(id="a" * 64, name="bridge", driver="bridge", subnets=tuple(subnets))
    made = Network(record, DaemonConfig(bridge=bridge, network_pool_size=size), keeper, NoHost())
    made._standing.add(bridge)
    return made


def pool(keeper: FakeKeeper, **kind: object) -> Pool:
    return network(keeper, **kind).pool  # type: ignore[arg-type]


async def until(condition) -> None:
    """Let the loop run what is due; timers included, since nothing here waits for the clock."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not reached")


async def test_it_fills_and_hands_out_what_is_ready() -> None:
    keeper = FakeKeeper()
    made = pool(keeper)
    made.fill()
    await until(lambda: len(made) == 4)
    keeper.open.clear()
    taken = await made.take()
    assert taken.endpoint.address == "10.0.0.2"
    assert taken.endpoint.mac == "02:42:0a:00:00:02"
    endpoint = keeper.prepared[taken.key]
    assert (endpoint.bridge, endpoint.addresses, endpoint.gateways) == ("b0", ("10.0.0.2/24",), ("10.0.0.1",))
    assert endpoint.mac == bytes.fromhex("02420a000002")
    await made.close()


async def test_where_none_is_ready_one_is_made_and_the_pool_grows() -> None:
    made = pool(FakeKeeper(), size=2)
    taken = await made.take()
    assert taken.endpoint.address in ("10.0.0.2", "10.0.0.3")
    assert made.size == 4
    await until(lambda: len(made) == 4)
    await made.close()


async def test_it_grows_to_a_bound_and_shrinks_back() -> None:
    keeper = FakeKeeper()
    made = pool(keeper, size=8, subnet="10.0.0.0/16")
    await asyncio.gather(*(made.take() for _ in range(MAXIMUM)))
    assert made.size == MAXIMUM
    for _ in range(200):
        made.fill()
        await until(lambda: len(made) >= made.size)
        await made.take()
    assert made.size == 8
    await made.close()


async def test_many_at_once_get_one_each() -> None:
    made = pool(FakeKeeper())
    taken = await asyncio.gather(*(made.take() for _ in range(20)))
    assert len({t.key for t in taken}) == len({t.endpoint.address for t in taken}) == 20
    await made.close()


async def test_a_keeper_that_is_down_costs_no_address() -> None:
    keeper = FakeKeeper()
    made = pool(keeper, size=0, subnet="10.0.0.0/30")
    keeper.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await made.take()
    keeper.down = False
    assert (await made.take()).endpoint.address == "10.0.0.2"
    await made.close()


async def test_a_new_keeper_has_none_of_it() -> None:
    keeper = FakeKeeper()
    made = pool(keeper)
    made.fill()
    await until(lambda: len(made) == 4)
    keeper.die()
    await made.keeper_changed(set())
    await until(lambda: len(made) == 4)
    assert len(keeper.prepared) == 4
    await made.close()


async def test_a_new_daemon_takes_over_what_the_old_one_prepared() -> None:
    keeper = FakeKeeper()
    old = pool(keeper)
    old.fill()
    await until(lambda: len(old) == 4)
    await old.close()
    later = network(keeper)
    # A running container's: it is not the pool's to give.
    later.hold_endpoint(Endpoint(id="e", network_id="a" * 64, network_name="bridge", address="10.0.0.2"))
    new = later.pool
    assert len(await new.keeper_changed(set(keeper.prepared))) == 3
    await until(lambda: len(new) == 4)
    addresses = [(await new.take()).endpoint.address for _ in range(4)]
    assert addresses == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    await new.close()


async def test_what_was_prepared_for_another_bridge_is_not_taken_over() -> None:
    keeper = FakeKeeper()
    old = pool(keeper, bridge="other")
    old.fill()
    await until(lambda: len(old) == 4)
    await old.close()
    new = pool(keeper)
    assert await new.keeper_changed(set(keeper.prepared)) == set()
    await new.close()


async def test_endpoints_with_ipv6_are_ready_too_and_end_with_their_daemon() -> None:
    keeper = FakeKeeper()
    made = pool(keeper, six="fd00::/64")
    made.fill()
    await until(lambda: len(made) == 4)
    taken = await made.take()
    assert (taken.endpoint.address, taken.endpoint.ipv6) == ("10.0.0.2", "fd00::2")
    assert keeper.prepared[taken.key].addresses == ("10.0.0.2/24", "fd00::2/64")
    assert await pool(keeper, six="fd00::/64").keeper_changed(set(keeper.prepared)) == set()
    await made.close()


async def test_a_pool_that_is_not_eager_fills_once_it_is_used() -> None:
    keeper = FakeKeeper()
    source = network(keeper)
    made = Pool(keeper, source, size=3, eager=False)
    made.fill()
    assert made.size == 0
    await made.take()
    await until(lambda: len(made) == 3)
    await made.close()


async def test_closing_with_release_leaves_nothing_at_the_keeper() -> None:
    keeper = FakeKeeper()
    made = pool(keeper)
    made.fill()
    await until(lambda: len(made) == 4)
    await made.close(release=True)
    assert keeper.prepared == {}


async def test_where_addresses_are_used_up_it_gives_up_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    keeper = FakeKeeper()
    made = network(keeper, subnet="10.0.0.0/29")  # the gateway's and five more
    made.pool.fill()
    await until(lambda: len(made.pool) == 4)
    first = await made.pool.take()
    others = [
        await made.new_endpoint(EndpointWish(network="bridge", mac=f"02:00:00:00:00:0{n}")) for n in range(4)
    ]
    assert len({endpoint.address for endpoint in (first.endpoint, *others)}) == 5
    with pytest.raises(System, match="no available IPv4 addresses on this network's address pools: bridge"):
        await made.new_endpoint(EndpointWish(network="bridge"))
    assert caplog.records == [], "and it does not try again and again"
    made.free_endpoint(others[0])
    assert (await made.pool.take()).endpoint.address == others[0].address
    await made.close()


async def test_the_last_address_may_be_the_one_that_is_being_made_ready() -> None:
    keeper = FakeKeeper()
    made = network(keeper, subnet="10.0.0.0/30")
    keeper.open.clear()
    made.pool.fill()
    await until(lambda: not made.spare)
    taking = asyncio.ensure_future(made.pool.take())
    await asyncio.sleep(0)
    keeper.open.set()
    assert (await taking).endpoint.address == "10.0.0.2"
    await made.close()

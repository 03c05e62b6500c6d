"""The pool of prepared namespaces: ready ones at once, never one twice, in step with the keeper."""

import asyncio

import pytest
from fake_keeper import FakeKeeper

from proa.errors import Unavailable
from proa.network.ipam import Addresses, Subnet, parse_address, to_text
from proa.network.pool import MAXIMUM, Pool


def pool(keeper: FakeKeeper, *, size: int = 4, bridge: str = "b0", subnet: str = "10.0.0.0/24") -> Pool:
    gateway = parse_address("10.0.0.1")
    addresses = Addresses(Subnet.parse(subnet), (gateway,))
    return Pool(keeper, addresses, bridge=bridge, gateway=gateway, mtu=1500, size=size)


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
    assert to_text(taken.address) == "10.0.0.2"
    assert taken.mac == "02:42:0a:00:00:02"
    endpoint = keeper.prepared[taken.key]
    assert (endpoint.bridge, endpoint.addresses, endpoint.gateways) == ("b0", ("10.0.0.2/24",), ("10.0.0.1",))
    assert endpoint.mac == bytes.fromhex("02420a000002")
    await made.close()


async def test_where_none_is_ready_one_is_made_and_the_pool_grows() -> None:
    made = pool(FakeKeeper(), size=2)
    taken = await made.take()
    assert to_text(taken.address) in ("10.0.0.2", "10.0.0.3")
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
    assert len({t.key for t in taken}) == len({t.address for t in taken}) == 20
    await made.close()


async def test_an_address_comes_free_when_it_is_given_back() -> None:
    keeper = FakeKeeper()
    made = pool(keeper, size=0, subnet="10.0.0.0/30")
    taken = await made.take()
    await made.give_back(taken.key)
    assert keeper.released == [taken.key]
    assert (await made.take()).address == taken.address
    await made.close()


async def test_a_keeper_that_is_down_costs_no_address() -> None:
    keeper = FakeKeeper()
    made = pool(keeper, size=0, subnet="10.0.0.0/30")
    keeper.down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await made.take()
    keeper.down = False
    assert to_text((await made.take()).address) == "10.0.0.2"
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
    new = pool(keeper)
    new.hold(parse_address("10.0.0.2"))  # a running container's: it is not the pool's to give
    await new.keeper_changed(set(keeper.prepared))
    await until(lambda: len(new) == 4)
    addresses = [to_text((await new.take()).address) for _ in range(4)]
    assert addresses == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    await new.close()


async def test_what_was_prepared_for_another_bridge_is_dropped() -> None:
    keeper = FakeKeeper()
    old = pool(keeper, bridge="other")
    old.fill()
    await until(lambda: len(old) == 4)
    await old.close()
    stale = set(keeper.prepared)
    new = pool(keeper)
    await new.keeper_changed(stale)
    assert set(keeper.released) == stale
    await new.close()


async def test_a_hardware_address_of_ones_own_is_made_for_it() -> None:
    keeper = FakeKeeper()
    made = pool(keeper)
    taken = await made.take("02:00:00:00:00:09")
    assert keeper.prepared[taken.key].mac == bytes.fromhex("020000000009")
    later = pool(keeper)
    await later.keeper_changed({taken.key})
    assert taken.key in keeper.released
    await made.close()
    await later.close()


async def test_closing_with_release_leaves_nothing_at_the_keeper() -> None:
    keeper = FakeKeeper()
    made = pool(keeper)
    made.fill()
    await until(lambda: len(made) == 4)
    made.give_back_soon((await made.take()).key)
    await made.close(release=True)
    assert keeper.prepared == {}

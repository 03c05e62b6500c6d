"""Subnets that are free, addresses that are handed out."""

import random

import pytest

from proa.errors import Forbidden, InvalidParameter, System
from proa.network.ipam import (
    DEFAULT_POOLS,
    IPV6,
    Addresses,
    Subnet,
    choose_subnet,
    mac_of,
    parse_address,
    parse_cidr,
    to_text,
    ula_pool,
)


def subnets(*texts: str) -> list[Subnet]:
    return [Subnet.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ([], "172.17.0.0/16"),
        (["172.17.0.0/16"], "172.18.0.0/16"),
        (["172.17.5.0/24", "172.18.0.0/28"], "172.19.0.0/16"),
        (["172.16.0.0/12"], "192.168.0.0/20"),
        (["172.16.0.0/12", "192.168.1.0/24"], "192.168.16.0/20"),
        (["10.0.0.0/8"], "172.17.0.0/16"),
    ],
)
def test_the_first_free_range_of_dockers_pools(used: list[str], expected: str) -> None:
    assert str(choose_subnet(DEFAULT_POOLS, subnets(*used))) == expected


def test_pools_of_ones_own() -> None:
    assert str(choose_subnet([("10.9.0.0/16", 24)], subnets("10.9.0.0/23"))) == "10.9.2.0/24"
    with pytest.raises(System, match="all predefined address pools have been fully subnetted"):
        choose_subnet([("10.9.0.0/24", 24)], subnets("10.0.0.0/8"))
    with pytest.raises(InvalidParameter, match="cannot be cut into"):
        choose_subnet([("10.9.0.0/24", 16)], [])


@pytest.mark.parametrize(
    "text", ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/x", "1.2.3/24", "::1/129", "::1::/64", "1.2.3.4/0"]
)
def test_what_is_no_subnet(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_cidr(text)


def test_hardware_address_of_an_address() -> None:
    assert mac_of(parse_address("172.17.0.2")) == "02:42:ac:11:00:02"


def test_addresses_rotate() -> None:
    addresses = Addresses(Subnet.parse("10.0.0.0/29"), (parse_address("10.0.0.1"),))
    first = [to_text(addresses.take()) for _ in range(3)]
    assert first == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    addresses.free(parse_address("10.0.0.2"))
    assert [to_text(addresses.take()) for _ in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(System, match="no available IPv4 addresses on this network's address pools"):
        addresses.take()


def test_addresses_that_are_held() -> None:
    addresses = Addresses(Subnet.parse("10.0.0.0/29"))
    assert addresses.hold(parse_address("10.0.0.3"))
    assert not addresses.hold(parse_address("10.0.0.3"))
    assert not addresses.hold(parse_address("10.0.1.3"))
    assert to_text(addresses.take()) == "10.0.0.4"


def test_network_and_broadcast_never_come_free() -> None:
    addresses = Addresses(Subnet.parse("10.0.0.0/30"))
    addresses.free(parse_address("10.0.0.0"))
    addresses.free(parse_address("10.0.0.3"))
    assert [to_text(addresses.take()) for _ in range(2)] == ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(System):
        addresses.take()


def test_ipv6_subnets_come_from_a_pool_of_the_hosts_own() -> None:
    pool = ula_pool(b"\x01\x02\x03\x04\x05")
    assert pool == ("fd01:203:405::/48", 64)
    pools = [*DEFAULT_POOLS, pool]
    first = choose_subnet(pools, [], IPV6)
    assert str(first) == "fd01:203:405::/64"
    assert str(choose_subnet(pools, [first], IPV6)) == "fd01:203:405:1::/64"
    assert not first.overlaps(Subnet.parse("0.0.0.0/1"))


def test_an_ipv6_space_hands_out_and_has_no_broadcast() -> None:
    addresses = Addresses(Subnet.parse("fd00::/126"), (1,))
    assert [to_text(addresses.take(), IPV6) for _ in range(2)] == ["fd00::1", "fd00::2"]


def test_a_range_within_is_handed_out_and_the_rest_only_when_asked_for() -> None:
    subnet, only = Subnet.parse("10.0.0.0/16"), Subnet.parse("10.0.5.0/30")
    addresses = Addresses(subnet, (parse_address("10.0.0.1"),), only)
    assert [to_text(addresses.take()) for _ in range(4)] == [f"10.0.5.{n}" for n in range(4)]
    with pytest.raises(System, match="no available IPv4 addresses"):
        addresses.take()
    addresses.take_this(parse_address("10.0.9.9"))
    with pytest.raises(Forbidden, match="Address already in use"):
        addresses.take_this(parse_address("10.0.9.9"))
    with pytest.raises(InvalidParameter, match="It does not belong to any of this network's subnets"):
        addresses.take_this(parse_address("10.1.0.1"))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_address_has_two_holders(seed: int) -> None:
    """Against a plain set: takes, wishes and returns in any order, until the space is full and beyond."""
    choose = random.Random(seed)
    subnet = Subnet.parse(choose.choice(["10.0.0.0/27", "10.0.0.0/28", "fd00::/123"]))
    reserved = (subnet.first + 1,)
    addresses = Addresses(subnet, reserved)
    ends = {subnet.first, subnet.last} if subnet.bits == 32 else {subnet.first}
    free = set(range(subnet.first, subnet.last + 1)) - ends - set(reserved)
    room, held = len(free), set[int]()
    for _ in range(400):
        action = choose.random()
        if action < 0.5:
            if free:
                taken = addresses.take()
                assert taken in free
            else:
                with pytest.raises(System):
                    addresses.take()
                continue
        elif action < 0.7:
            wanted = choose.randrange(subnet.first - 2, subnet.last + 3)
            if wanted not in free:
                with pytest.raises((Forbidden, InvalidParameter)):
                    addresses.take_this(wanted)
                continue
            addresses.take_this(wanted)
            taken = wanted
        else:
            gone = choose.choice(sorted(held)) if held else subnet.first
            addresses.free(gone)
            if gone in held:
                held.remove(gone)
                free.add(gone)
            continue
        free.remove(taken)
        held.add(taken)
        assert addresses.held == held
        assert addresses.available == len(free) == room - len(held)

"""Subnets that are free, addresses that are handed out."""

import pytest

from proa.errors import InvalidParameter, System
from proa.network.ipam import (
    DEFAULT_POOLS,
    Addresses,
    Subnet,
    choose_subnet,
    mac_of,
    parse_address,
    parse_cidr,
    to_text,
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


@pytest.mark.parametrize("text", ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/x", "1.2.3/24", "::1/64", "1.2.3.4/0"])
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

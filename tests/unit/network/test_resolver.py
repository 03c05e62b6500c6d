"""How a container with the resolver at 127.0.0.11 is configured."""

import pytest

from proa.network.files import DnsDefaults, Resolver, format_resolv_conf
from proa.network.resolver import resolv_conf, upstreams
from proa.network.sandbox import NetworkWish
from proa.schema.keeper import DnsUpstream

NOTHING = DnsDefaults()


def test_the_hosts_loopback_servers_are_asked_from_the_host() -> None:
    host = Resolver(servers=("127.0.0.53", "192.0.2.1", "::1"))
    assert upstreams(NetworkWish(mode="bridge"), NOTHING, host) == (
        DnsUpstream(address="127.0.0.53", host=True),
        DnsUpstream(address="192.0.2.1"),
        DnsUpstream(address="::1", host=True),
    )


def test_a_containers_own_loopback_server_is_asked_inside() -> None:
    wish = NetworkWish(mode="bridge", dns=("127.0.0.1",))
    assert upstreams(wish, NOTHING, Resolver(servers=("127.0.0.53",))) == (DnsUpstream(address="127.0.0.1"),)


def test_the_daemons_servers_come_before_the_hosts() -> None:
    defaults = DnsDefaults(servers=("198.51.100.1",))
    host = Resolver(servers=("192.0.2.1",))
    assert upstreams(NetworkWish(mode="bridge"), defaults, host) == (DnsUpstream(address="198.51.100.1"),)


def test_neither_itself_nor_what_is_no_address_nor_more_than_three_are_asked() -> None:
    host = Resolver(
        servers=("127.0.0.11", "resolver.example", "192.0.2.1", "2001:db8::1", "192.0.2.3", "192.0.2.4")
    )
    own = NetworkWish(mode="bridge", dns=host.servers)
    assert [up.address for up in upstreams(own, NOTHING, Resolver())] == [
        "192.0.2.1",
        "2001:db8::1",
        "192.0.2.3",
    ]


def test_a_host_without_servers_has_dockers_defaults() -> None:
    assert [up.address for up in upstreams(NetworkWish(mode="bridge"), NOTHING, Resolver())] == [
        "8.8.8.8",
        "8.8.4.4",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [((), "options ndots:0\n"), (("edns0",), "options edns0 ndots:0\n"), (("ndots:2",), "options ndots:2\n")],
)
def test_the_file_names_the_resolver_and_keeps_the_rest(options: tuple[str, ...], line: str) -> None:
    configured = Resolver(servers=("192.0.2.1",), search=("example.com",), options=options)
    assert format_resolv_conf(resolv_conf(configured)) == f"nameserver 127.0.0.11\nsearch example.com\n{line}"

"""resolv.conf, hosts and hostname as a container gets them."""

from pathlib import Path

import pytest

from proa.network.files import (
    DnsDefaults,
    HostFiles,
    Resolver,
    format_hosts,
    format_resolv_conf,
    make_files,
    parse_resolv_conf,
    resolver_of,
    write_files,
)
from proa.network.sandbox import Endpoint, NetworkWish, Sandbox
from proa.schema.plan import HostNamespace, NoNetwork, PreparedNetwork

HOST = Resolver(servers=("127.0.0.1", "9.9.9.9", "::1"), search=("lan",), options=("ndots:2",))


def wish(**options: object) -> NetworkWish:
    return NetworkWish(mode="bridge", hostname="box", **options)  # type: ignore[arg-type]


def test_parsing() -> None:
    text = "# c\nnameserver 1.1.1.1 # mine\nnameserver\n;x\ndomain a\nsearch b c\noptions ndots:1 rotate\n"
    assert parse_resolv_conf(text) == Resolver(
        servers=("1.1.1.1",), search=("b", "c"), options=("ndots:1", "rotate")
    )


@pytest.mark.parametrize(
    ("asked", "defaults", "host", "expected"),
    [
        ({}, {}, HOST, ("9.9.9.9",)),
        ({}, {}, Resolver(servers=("127.0.0.53",)), ("8.8.8.8", "8.8.4.4")),
        ({}, {}, Resolver(), ("8.8.8.8", "8.8.4.4")),
        ({"dns": ("1.1.1.1",)}, {"servers": ("2.2.2.2",)}, HOST, ("1.1.1.1",)),
        ({"dns": ("127.0.0.1",)}, {}, HOST, ("127.0.0.1",)),
        ({}, {"servers": ("2.2.2.2",)}, HOST, ("2.2.2.2",)),
    ],
)
def test_servers(asked, defaults, host, expected) -> None:
    found = resolver_of(wish(**asked), DnsDefaults(**defaults), host, own_namespace=True)
    assert found.servers == expected


def test_the_hosts_namespace_reaches_the_hosts_loopback() -> None:
    assert resolver_of(wish(), DnsDefaults(), HOST, own_namespace=False) == HOST


def test_search_and_options() -> None:
    found = resolver_of(
        wish(dns_search=("a",), dns_options=("rotate",)), DnsDefaults(), HOST, own_namespace=True
    )
    assert format_resolv_conf(found) == "nameserver 9.9.9.9\nsearch a\noptions rotate\n"
    none = resolver_of(wish(dns_search=(".",)), DnsDefaults(), HOST, own_namespace=True)
    assert none.search == ()


def test_hosts() -> None:
    text = format_hosts(
        wish(domainname="lan", extra_hosts=("db:1.2.3.4", "v6:[::5]", "up:host-gateway")),
        ["172.17.0.2"],
        host_gateway="172.17.0.1",
    )
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    assert text.endswith("1.2.3.4\tdb\n::5\tv6\n172.17.0.1\tup\n172.17.0.2\tbox.lan box\n")


@pytest.fixture
def host_files(tmp_path: Path) -> HostFiles:
    (tmp_path / "host-resolv").write_text("nameserver 127.0.0.1\nnameserver 9.9.9.9\n")
    (tmp_path / "host-hosts").write_text("10.0.0.1 rack\n")
    return HostFiles(str(tmp_path / "host-resolv"), str(tmp_path / "host-hosts"))


def sandbox(mode: str) -> Sandbox:
    endpoint = Endpoint(
        id="e", network_id="n", network_name=mode, address="10.0.0.7" if mode == "bridge" else ""
    )
    network = {"bridge": PreparedNetwork(1), "host": HostNamespace(), "none": NoNetwork()}[mode]
    return Sandbox(id="s", mode=mode, plan_network=network, endpoints=(endpoint,))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["bridge", "none", "host"])
def test_the_three_files(tmp_path: Path, host_files: HostFiles, mode: str) -> None:
    for _ in range(2):  # a restart writes them again, in place
        write_files(str(tmp_path), wish(), sandbox(mode), host=host_files, defaults=DnsDefaults())
    assert (tmp_path / "hostname").read_text() == "box\n"
    hosts = (tmp_path / "hosts").read_text()
    assert ("10.0.0.7\tbox" in hosts) is (mode == "bridge")
    assert ("10.0.0.1 rack" in hosts) is (mode == "host")
    servers = (tmp_path / "resolv.conf").read_text()
    assert ("127.0.0.1" in servers) is (mode == "host")
    assert (tmp_path / "hosts").stat().st_mode & 0o777 == 0o644


def test_a_changed_host_file_is_seen(tmp_path: Path, host_files: HostFiles) -> None:
    assert host_files.resolver().servers == ("127.0.0.1", "9.9.9.9")
    (tmp_path / "host-resolv").write_text("nameserver 7.7.7.7\n")
    assert host_files.resolver().servers == ("7.7.7.7",)


def test_a_host_without_the_file(tmp_path: Path) -> None:
    assert HostFiles(str(tmp_path / "missing")).resolver() == Resolver()


def test_the_files_are_there_before_a_start_fills_them(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    for directory, mode in ((own, "bridge"), (shared, "container")):
        directory.mkdir()
        make_files(str(directory), NetworkWish(mode=mode))  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in own.iterdir()} == {
        "hostname": b"",
        "hosts": b"",
        "resolv.conf": b"",
    }
    assert {file.stat().st_mode & 0o777 for file in own.iterdir()} == {0o644}
    assert list(shared.iterdir()) == []

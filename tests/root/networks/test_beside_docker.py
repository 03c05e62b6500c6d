"""Beside dockerd's firewall, which comes, is flushed and comes again: containers stay reachable."""

import shutil
from collections.abc import Iterator

import pytest
from instance import Instance, eventually
from machines import HOST, docker, refused, run_web
from netns import Namespace

TOOLS = ("iptables", "ip6tables")


@pytest.fixture
def dockers(host: Namespace) -> Iterator[Namespace]:
    """The host once more: what dockerd does to its firewall is undone afterwards."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to do as dockerd does")
    if "nf_tables" not in host.command("iptables", "--version"):
        pytest.skip("these iptables are the old ones, whose rules nftables does not see")
    yield host
    host.command("sh", "-c", "nft delete table ip filter; nft delete table ip6 filter; true")


def comes(host: Namespace) -> None:
    """What dockerd does when it starts: everything is dropped but what its chains let through."""
    for tool in TOOLS:
        host.command(tool, "-P", "FORWARD", "DROP")
        host.command(tool, "-N", "DOCKER-USER")
        host.command(tool, "-A", "DOCKER-USER", "-j", "RETURN")
        host.command(tool, "-I", "FORWARD", "-j", "DOCKER-USER")


def rules(host: Namespace, tool: str) -> set[str]:
    return {line for line in host.command(tool, "-S", "DOCKER-USER").splitlines() if "ACCEPT" in line}


def expected(*bridges: str) -> set[str]:
    return {f"-A DOCKER-USER -{way} {bridge} -j ACCEPT" for bridge in bridges for way in "io"}


def bridges_of(daemon: Instance, *networks: str) -> list[str]:
    default = daemon.api.call("GET", "/networks/bridge")["Options"]["com.docker.network.bridge.name"]
    return [default, *(f"br-{daemon.api.call('GET', f'/networks/{name}')['Id'][:12]}" for name in networks)]


def all_pass(host: Namespace, *bridges: str) -> bool:
    return all(rules(host, tool) == expected(*bridges) for tool in TOOLS)


def test_dockerd_starts_after_proad(clean: Instance, dockers: Namespace, outside: Namespace) -> None:
    docker(clean, "network", "create", "--ipv6", "six")
    run_web(clean, "web", "--network", "six", "-p", "8080:80")
    assert eventually(lambda: not refused(outside, HOST, 8080))
    assert eventually(lambda: not refused(outside, "2001:db8::1", 8080))
    bridges = bridges_of(clean, "six")
    comes(dockers)
    assert eventually(lambda: all_pass(dockers, *bridges))
    assert not refused(outside, HOST, 8080)
    assert not refused(outside, "2001:db8::1", 8080)
    # One network more, and one less.
    docker(clean, "network", "create", "more")
    assert all_pass(dockers, *bridges_of(clean, "six", "more"))
    docker(clean, "network", "rm", "more")
    assert all_pass(dockers, *bridges)


@pytest.mark.parametrize("how", ["its rules go", "ours go", "the whole table goes and comes"])
def test_the_way_is_closed_and_open_again(
    clean: Instance, dockers: Namespace, outside: Namespace, how: str
) -> None:
    run_web(clean, "web", "-p", "8080:80")
    assert eventually(lambda: not refused(outside, HOST, 8080))
    bridges = bridges_of(clean)
    comes(dockers)
    assert eventually(lambda: all_pass(dockers, *bridges))
    for tool in TOOLS:
        if how == "its rules go":
            dockers.command(tool, "-F", "DOCKER-USER")
        elif how == "ours go":
            dockers.command(tool, "-D", "DOCKER-USER", "-o", bridges[0], "-j", "ACCEPT")
        else:
            dockers.command("nft", "delete", "table", "ip" if tool == "iptables" else "ip6", "filter")
    if how == "the whole table goes and comes":
        comes(dockers)
    assert eventually(lambda: all_pass(dockers, *bridges))
    assert not refused(outside, HOST, 8080)


def test_an_administrators_rule_stays_before_ours(
    clean: Instance, dockers: Namespace, outside: Namespace
) -> None:
    run_web(clean, "web", "-p", "8080:80")
    assert eventually(lambda: not refused(outside, HOST, 8080))
    comes(dockers)
    assert eventually(lambda: all_pass(dockers, *bridges_of(clean)))
    dockers.command("iptables", "-I", "DOCKER-USER", "-i", "wan0", "-j", "DROP")
    assert refused(outside, HOST, 8080)
    assert all_pass(dockers, *bridges_of(clean))

"""How a network is reached from outside: gateway modes, trusted interfaces, addresses of published ports."""

import socket
import subprocess
from contextlib import closing

from instance import Instance, eventually
from machines import HOST, OUTSIDE, address, docker, fetch, refused, run_web
from netns import Namespace


def modes(four: str, six: str = "nat") -> tuple[str, ...]:
    option = "com.docker.network.bridge.gateway_mode"
    return ("--ipv6", "-o", f"{option}_ipv4={four}", "-o", f"{option}_ipv6={six}")


def answers(where: Namespace, at: str) -> bool:
    done = where.run(
        lambda: subprocess.run(["busybox", "ping", "-c1", "-W1", at], capture_output=True, check=False)
    )
    return done.returncode == 0


def test_a_routed_network_is_reached_at_its_own_addresses(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", *modes("routed"), "routed")
    run_web(clean, "web", "--network", "routed", "-p", "8080:80")
    run_web(clean, "shy", "--network", "routed")
    own, shy = address(clean, "web", "routed"), address(clean, "shy", "routed")
    six = address(clean, "web", "routed", "GlobalIPv6Address")
    assert eventually(lambda: not refused(outside, own, 80))
    assert fetch(outside, own, 80) == "web"
    assert refused(outside, shy, 80), "what is not published is not open"
    assert refused(outside, own, 7)
    assert answers(outside, own)
    assert answers(outside, shy)
    assert refused(outside, HOST, 8080), "nothing is translated"
    assert refused(outside, six, 80), "the other family has a mode of its own"
    assert fetch(outside, "2001:db8::1", 8080) == "web"
    # No port of the host is needed, so that another may have the same.
    docker(clean, "network", "create", *modes("routed", "routed"), "both")
    for name in ("one", "two"):
        run_web(clean, name, "--network", "both", "-p", "8080:80")
        at = address(clean, name, "both", "GlobalIPv6Address")
        assert eventually(lambda at=at: not refused(outside, at, 80))
        assert answers(outside, at)
    shown = clean.api.call("GET", "/containers/one/json")["NetworkSettings"]["Ports"]["80/tcp"]
    assert [port["HostPort"] for port in shown] == ["", ""]
    docker(clean, "rm", "-f", "web")
    assert refused(outside, own, 80)
    # Its own way out is its own, too.
    with closing(outside.run(socket.create_server, (OUTSIDE, 9000))) as server:
        server.settimeout(30)
        clean.run("exec", "-d", "shy", "busybox", "nc", OUTSIDE, "9000")
        connection, (peer, _) = server.accept()
        connection.close()
        assert peer == shy


def test_an_unprotected_network_is_open_in_its_family(
    clean: Instance, host: Namespace, outside: Namespace
) -> None:
    docker(clean, "network", "create", *modes("nat", "nat-unprotected"), "open")
    run_web(clean, "web", "--network", "open", "-p", "8080:8080")
    six = address(clean, "web", "open", "GlobalIPv6Address")
    assert eventually(lambda: not refused(outside, six, 80))
    assert refused(outside, address(clean, "web", "open"), 80)


def test_an_isolated_network_has_no_gateway(clean: Instance, host: Namespace) -> None:
    done = clean.run("network", "create", *modes("isolated"), "apart")
    assert "gateway mode 'isolated' can only be used for an internal network" in done.stderr
    name = ("-o", "com.docker.network.bridge.name=apart0")
    docker(clean, "network", "create", "--internal", *modes("isolated", "isolated"), *name, "apart")
    run_web(clean, "web", "--network", "apart")
    docker(clean, "run", "-d", "--name", "beside", "--network", "apart", "busybox", "sleep", "60")
    shown = host.ip("-o", "addr", "show", "apart0")
    assert " inet " not in shown
    assert "scope global" not in shown
    assert refused(host, address(clean, "web", "apart"), 80)
    fetched = ("busybox", "wget", "-qO-", "http://web/name")
    assert eventually(lambda: clean.run("exec", "beside", *fetched).stdout.strip() == "web")


def test_trusted_interfaces_reach_every_port(clean: Instance, host: Namespace, outside: Namespace) -> None:
    option = "com.docker.network.bridge.trusted_host_interfaces"
    for name, trusted in (("near", "eth9:wan0"), ("far", "eth9")):
        docker(clean, "network", "create", "-o", f"{option}={trusted}", name)
        run_web(clean, f"web-{name}", "--network", name)
    near, far = address(clean, "web-near", "near"), address(clean, "web-far", "far")
    assert eventually(lambda: not refused(outside, near, 80))
    assert eventually(lambda: not refused(host, far, 80))
    assert refused(outside, far, 80)


def test_published_addresses_of_a_network(clean: Instance, host: Namespace, outside: Namespace) -> None:
    option = "com.docker.network.bridge.host_binding_ipv4"
    docker(clean, "network", "create", "-o", f"{option}=127.0.0.1", "bound")
    run_web(clean, "web", "--network", "bound", "-p", "8080:80")
    assert eventually(lambda: not refused(host, "127.0.0.1", 8080))
    assert refused(outside, HOST, 8080)
    assert docker(clean, "port", "web") == "80/tcp -> 127.0.0.1:8080"


def test_sctp_is_translated(clean: Instance, host: Namespace) -> None:
    """Not every kernel speaks it; the firewall passes it on all the same."""
    docker(clean, "run", "-d", "--name", "one", "-p", "8080:80/sctp", "busybox", "sleep", "60")
    at = address(clean, "one", "bridge")
    assert f"sctp . 8080 : {at} . 80" in host.command("nft", "list", "ruleset")
    assert docker(clean, "port", "one").splitlines()[0] == "80/sctp -> 0.0.0.0:8080"
    docker(clean, "run", "-d", "--name", "two", "-p", "8080:80/tcp", "busybox", "sleep", "60")
    done = clean.run("run", "-d", "-p", "8080:80/sctp", "busybox", "true")
    assert "port is already allocated" in done.stderr
    docker(clean, "rm", "-f", "one")
    assert "sctp . 8080" not in host.command("nft", "list", "ruleset")

"""Containers join networks and leave them, by docker's command line; what is told when they cannot."""

import contextlib
import random
import threading
import time

import pytest
from instance import Instance, eventually
from machines import WEB, address, docker, fetch, refused
from netns import Namespace


def found(daemon: Instance, container: str, name: str) -> bool:
    """Whether the container's resolver has the name."""
    asked = ("busybox", "timeout", "5", "busybox", "nslookup", "-type=a", name, "127.0.0.11")
    return daemon.run("exec", container, *asked).returncode == 0


def refusal(daemon: Instance, *words: str) -> str:
    done = daemon.run(*words)
    assert done.returncode != 0, words
    return (
        done.stderr.removeprefix("docker: ")
        .removeprefix("Error response from daemon: ")
        .split("\n\n")[0]
        .strip()
    )


def test_a_container_leaves_none_for_a_network_and_stays_there_over_a_restart(
    clean: Instance, host: Namespace
) -> None:
    docker(clean, "network", "create", "n1")
    docker(clean, "run", "-d", "--name", "alone", "--network", "none", "-p", "8081:80", "busybox", *WEB)
    told = (
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )
    assert refusal(clean, "network", "connect", "n1", "alone") == told
    docker(clean, "network", "disconnect", "none", "alone")
    assert clean.api.call("GET", "/containers/alone/json")["NetworkSettings"]["Networks"] == {}
    docker(clean, "network", "connect", "--alias", "web", "n1", "alone")
    docker(clean, "run", "-d", "--name", "other", "--network", "n1", "busybox", "sleep", "60")
    assert found(clean, "other", "web")
    assert "eth0" in docker(clean, "exec", "alone", "busybox", "ip", "addr")
    shown = clean.api.call("GET", "/containers/alone/json")["NetworkSettings"]
    assert shown["Ports"]["80/tcp"][0]["HostPort"] == "8081"
    docker(clean, "restart", "-t", "0", "alone")
    assert address(clean, "alone", "n1")
    docker(clean, "network", "disconnect", "n1", "alone")
    docker(clean, "network", "connect", "none", "alone")
    assert list(clean.api.call("GET", "/containers/alone/json")["NetworkSettings"]["Networks"]) == ["none"]


def test_a_hostname_is_a_name_on_every_network(clean: Instance, host: Namespace) -> None:
    docker(clean, "network", "create", "n1")
    docker(
        clean, "run", "-d", "--name", "one", "-h", "box.example", "--network", "n1", "busybox", "sleep", "60"
    )
    docker(clean, "run", "-d", "--name", "two", "--network", "n1", "busybox", "sleep", "60")
    assert found(clean, "two", "box.example")
    names = clean.api.call("GET", "/containers/one/json")["NetworkSettings"]["Networks"]["n1"]["DNSNames"]
    assert names == ["one", docker(clean, "ps", "-q", "--filter", "name=one"), "box.example"]


def test_switches_of_an_interface_as_docker_s_command_line_sends_them(
    clean: Instance, host: Namespace
) -> None:
    docker(clean, "network", "create", "n1")
    option = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    made = docker(
        clean,
        "run",
        "--rm",
        "--network",
        f"name=n1,{option}",
        "busybox",
        "cat",
        "/proc/sys/net/ipv4/conf/eth0/log_martians",
    )
    assert made == "1"


def test_what_is_told(clean: Instance, host: Namespace) -> None:
    """Docker 28's words."""
    docker(clean, "network", "create", "n1")
    docker(clean, "network", "create", "--subnet", "10.71.0.0/24", "mine")
    docker(clean, "run", "-d", "--name", "one", "--network", "mine", "busybox", "sleep", "60")
    docker(clean, "run", "-d", "--name", "hosts", "--network", "host", "busybox", "sleep", "60")
    none_chosen = (
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    )
    start = "failed to set up container networking: "
    for words, told in (
        (("connect", "--ip", "10.71.0.9", "n1", "one"), f"invalid endpoint settings:\n{none_chosen}"),
        (
            ("connect", "--ip", "x", "n1", "one"),
            f"invalid endpoint settings:\n* invalid IPv4 address: x\n* {none_chosen}",
        ),
        (("connect", "mine", "one"), "endpoint with name one already exists in network mine"),
        (
            ("connect", "host", "one"),
            "cannot connect container to host network - container must be created in host network mode",
        ),
        (
            ("disconnect", "host", "hosts"),
            "cannot disconnect container from host network - container was created in host network mode",
        ),
    ):
        assert refusal(clean, "network", *words) == told
    for words, told in (
        (
            ("--network", "mine", "--ip", "10.72.0.9"),
            "invalid config for network mine: invalid endpoint settings:\n"
            "no configured subnet or ip-range contain the IP address 10.72.0.9",
        ),
        (("--network", "nosuch"), f"{start}network nosuch not found"),
        (("--network", "mine", "--ip", "10.71.0.2"), f"{start}Address already in use"),
    ):
        assert refusal(clean, "run", "--rm", *words, "busybox", "true") == told
    docker(clean, "stop", "-t", "0", "one")
    docker(clean, "network", "connect", "mine", "one")  # it is so already
    docker(clean, "network", "disconnect", "mine", "one")
    assert refusal(clean, "network", "disconnect", "mine", "one").endswith(
        "is not connected to the network mine"
    )


def test_a_bridge_that_somebody_deletes(clean: Instance, host: Namespace) -> None:
    """The next start on the network makes it again, and who runs there is on it again."""
    docker(clean, "network", "create", "-o", "com.docker.network.bridge.name=mybr1", "n1")
    docker(
        clean, "run", "-d", "--name", "web", "-h", "web", "--network", "n1", "-p", "8082:80", "busybox", *WEB
    )
    assert eventually(lambda: not refused(host, "127.0.0.1", 8082))
    host.ip("link", "del", "mybr1")
    assert refused(host, "127.0.0.1", 8082)
    page = docker(
        clean, "run", "--rm", "--network", "n1", "busybox", "busybox", "wget", "-qO-", "http://web/name"
    )
    assert page == "web"
    assert fetch(host, "127.0.0.1", 8082) == "web"
    host.ip("link", "del", "mybr1")
    clean.kill_daemon()
    host.run(clean.start)
    assert eventually(lambda: not refused(host, "127.0.0.1", 8082)), "so does the next daemon"
    assert fetch(host, "127.0.0.1", 8082) == "web"


def test_an_interface_that_somebody_deletes(clean: Instance, host: Namespace) -> None:
    docker(clean, "network", "create", "-o", "com.docker.network.bridge.name=mybr2", "n1")
    docker(
        clean, "run", "-d", "--name", "web", "-h", "web", "--network", "n1", "-p", "8083:80", "busybox", *WEB
    )
    for line in host.ip("-o", "link", "show", "master", "mybr2").splitlines():
        host.ip("link", "del", line.split(": ")[1].partition("@")[0])
    docker(clean, "restart", "-t", "0", "web")
    assert eventually(lambda: not refused(host, "127.0.0.1", 8083))
    assert fetch(host, "127.0.0.1", 8083) == "web"
    docker(clean, "rm", "-f", "web")
    docker(clean, "network", "rm", "n1")
    assert "mybr2" not in host.ip("-o", "link")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_daemon_that_is_killed_over_a_change_of_networks(
    clean: Instance, host: Namespace, seed: int
) -> None:
    """What was begun is undone or done: inside there is what inspect tells of, and the networks can go."""
    chance = random.Random(seed)
    docker(clean, "run", "-d", "--name", "one", "busybox", "sleep", "600")
    for number in range(4):
        name = f"k{number}"
        docker(clean, "network", "create", name)
        thread = threading.Thread(target=_come_and_go, args=(clean, name))
        thread.start()
        time.sleep(chance.uniform(0, 0.05))  # a moment of the work, not a wait for anything
        clean.kill_daemon()
        thread.join()
        host.run(clean.start)
        shown = clean.api.call("GET", "/containers/one/json")["NetworkSettings"]["Networks"]
        inside = docker(clean, "exec", "one", "busybox", "ip", "-o", "link").splitlines()
        assert len([line for line in inside if ": eth" in line]) == len(shown), (shown, inside)
        if name in shown:
            docker(clean, "network", "disconnect", name, "one")
        docker(clean, "network", "rm", name)


def _come_and_go(daemon: Instance, network: str) -> None:
    with contextlib.suppress(
        OSError, RuntimeError, ValueError
    ):  # whatever the killed daemon leaves of an answer
        api = daemon.api
        while True:
            for verb in ("connect", "disconnect"):
                api.call("POST", f"/networks/{network}/{verb}", {"Container": "one"})

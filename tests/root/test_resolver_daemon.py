"""Names through the whole daemon: what docker's own commands make is found, and outlives the daemon."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dns_client import AAAA, NO_ERROR, SERVER_FAILURE, Client
from instance import Instance, eventually, instance


@pytest.fixture
def own() -> Iterator[Instance]:
    """A daemon that may be killed."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-dns-"))) as running:
        yield running


def docker(daemon: Instance, *words: str) -> str:
    done = daemon.run(*words, cli="proa")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_of_networks_made_by_command(own: Instance) -> None:
    docker(own, "network", "create", "shop")
    docker(own, "network", "create", "--internal", "inner")
    web = docker(
        own,
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "shop",
        "--network-alias",
        "www",
        "busybox",
        "sleep",
        "900",
    )
    docker(own, "run", "-d", "--name", "app", "--network", "shop", "busybox", "sleep", "900")
    settings = own.api.call("GET", f"/containers/{web}/json")["NetworkSettings"]["Networks"]["shop"]
    address = settings["IPAddress"]
    resolv_conf = docker(own, "exec", "app", "cat", "/etc/resolv.conf")
    assert "nameserver 127.0.0.11" in resolv_conf
    assert "ndots:0" in resolv_conf
    pid = own.api.call("GET", "/containers/app/json")["State"]["Pid"]
    client = Client(pid)
    try:
        for name in ("web", "www", web[:12], "web.shop"):
            assert client.ask(name).addresses() == [address], name
        assert client.ask("web", AAAA).code == NO_ERROR

        own.kill_daemon()
        assert client.ask("web").addresses() == [address]
        own.start()
        assert client.ask("www").addresses() == [address]

        docker(own, "network", "connect", "inner", "app")
        docker(own, "network", "disconnect", "shop", "app")
        assert client.ask("web").code == SERVER_FAILURE
        docker(own, "network", "connect", "--alias", "other", "inner", "web")
        assert client.ask("other").code == NO_ERROR
        docker(own, "rm", "-f", "web")
        assert eventually(lambda: client.ask("other").code == SERVER_FAILURE)
    finally:
        client.close()
    docker(own, "rm", "-f", "app")
    docker(own, "network", "rm", "shop", "inner")

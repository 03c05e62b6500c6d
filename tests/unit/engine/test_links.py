"""Links of the default network: what they give at start, and what they cannot."""

from types import SimpleNamespace

import pytest

from proa.engine.links import NOTHING, linked, shown
from proa.errors import Conflict, InvalidParameter, NotFound
from proa.network import Endpoint, Sandbox
from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.plan import PreparedNetwork


def container(name: str, *, links: list[str] | None = None, running: bool = True, network: str = "bridge"):
    endpoint = Endpoint(id="e", network_id="n", network_name=network, address="172.17.0.5")
    config = ContainerConfig(
        hostname="f00d", env=["USER=me", "PATH=/bin"], exposed_ports={"5432/tcp": {}, "53/udp": {}}
    )
    resolved = SimpleNamespace(
        config=config, host_config=HostConfig(network_mode="bridge", links=links or None)
    )
    return SimpleNamespace(
        record=SimpleNamespace(name=name, resolved=resolved),
        state=SimpleNamespace(
            running=running,
            sandbox=Sandbox(id="s", mode="bridge", plan_network=PreparedNetwork(1), endpoints=(endpoint,)),
        ),
    )


def registry(*containers):
    by_name = {c.record.name: c for c in containers}

    def lookup(name: str):
        if name not in by_name:
            raise NotFound(f"No such container: {name}")
        return by_name[name]

    return SimpleNamespace(lookup=lookup)


def test_hosts_and_environment() -> None:
    found = linked(container("web", links=["pg:db-one"]), registry(container("pg")))
    assert found.hosts == ("db-one f00d pg:172.17.0.5",)
    assert set(found.env) >= {
        "DB_ONE_PORT=udp://172.17.0.5:53",
        "DB_ONE_PORT_5432_TCP=tcp://172.17.0.5:5432",
        "DB_ONE_PORT_5432_TCP_ADDR=172.17.0.5",
        "DB_ONE_PORT_5432_TCP_PORT=5432",
        "DB_ONE_PORT_5432_TCP_PROTO=tcp",
        "DB_ONE_NAME=/web/db-one",
        "DB_ONE_ENV_USER=me",
    }
    assert not any(entry.startswith("DB_ONE_ENV_PATH") for entry in found.env)


def test_without_links_there_is_nothing() -> None:
    assert linked(container("web"), registry()) is NOTHING


@pytest.mark.parametrize(
    ("child", "error", "text"),
    [
        (container("pg", running=False), Conflict, "Cannot link to a non running container: /pg AS /web/db"),
        (container("pg", network="mine"), InvalidParameter, "does not belong to the default network"),
        (container("other"), InvalidParameter, "could not get container for pg: No such container: pg"),
    ],
)
def test_what_cannot_be_linked_to(child, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        linked(container("web", links=["pg:db"]), registry(child))


def test_how_inspect_shows_them() -> None:
    web = container("web", links=["pg:db", "pg", "gone:x"])
    assert shown(web, registry(container("pg"))) == ["/pg:/web/db", "/pg:/web/pg"]
    assert shown(container("web"), registry()) is None

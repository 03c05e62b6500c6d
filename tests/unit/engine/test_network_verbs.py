"""The verbs of /networks: the predefined three, and who is on them."""

from pathlib import Path

import pytest

from proa.engine.networks import NetworkVerbs
from proa.errors import InvalidParameter, NotFound
from proa.metadata import Metadata
from proa.network import SCHEMA, Endpoint, Networking, Sandbox
from proa.schema.config import DaemonConfig
from proa.schema.keeper import KeeperEndpoint
from proa.schema.plan import PreparedNetwork


class NoKeeper:
    """Nothing is prepared in these tests."""

    async def prepare(self, key: int, endpoint: KeeperEndpoint) -> str:
        raise AssertionError

    async def release(self, key: int) -> None:
        raise AssertionError


@pytest.fixture
def networking(tmp_path: Path) -> Networking:
    return Networking(DaemonConfig(), Metadata(tmp_path / "db", {"network": SCHEMA}), NoKeeper())


@pytest.fixture
def verbs(networking: Networking) -> NetworkVerbs:
    return NetworkVerbs(networking, container_name=lambda id_: f"name-of-{id_}")


async def test_the_predefined_ones(verbs: NetworkVerbs) -> None:
    found = await verbs.list({})
    assert [(n.name, n.driver, n.scope) for n in found] == [
        ("bridge", "bridge", "local"),
        ("host", "host", "local"),
        ("none", "null", "local"),
    ]
    assert found[0].options is not None
    assert found[0].options["com.docker.network.bridge.name"] == "proa0"
    assert found[0].created.endswith("Z")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"name": ["o"]}, ["host", "none"]),
        ({"driver": ["bridge"]}, ["bridge"]),
        ({"type": ["custom"]}, []),
        ({"type": ["builtin"]}, ["bridge", "host", "none"]),
        ({"scope": ["swarm"]}, []),
        ({"label": ["x"]}, []),
        ({"dangling": ["true"]}, []),
    ],
)
async def test_filters(verbs: NetworkVerbs, filters: dict[str, list[str]], names: list[str]) -> None:
    assert [n.name for n in await verbs.list(filters)] == names


@pytest.mark.parametrize("filters", [{"odd": ["1"]}, {"type": ["odd"]}])
async def test_filters_that_are_refused(verbs: NetworkVerbs, filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        await verbs.list(filters)


async def test_inspect_shows_who_is_on_it(verbs: NetworkVerbs, networking: Networking) -> None:
    (bridge, *_) = networking.networks
    endpoint = Endpoint(
        id="e",
        network_id=bridge.id,
        network_name="bridge",
        mac="02:42:0a:00:00:02",
        address="10.0.0.2",
        prefix=16,
    )
    networking.adopt(
        "c1", Sandbox(id="s", mode="bridge", plan_network=PreparedNetwork(1), endpoints=(endpoint,))
    )
    for ref in ("bridge", bridge.id, bridge.id[:12]):
        shown = await verbs.inspect(ref)
        assert shown.containers is not None
        container = shown.containers["c1"]
        assert container is not None
        assert (container.name, container.i_pv4_address) == ("name-of-c1", "10.0.0.2/16")


async def test_one_that_is_not_there(verbs: NetworkVerbs) -> None:
    with pytest.raises(NotFound, match=r"^network mine not found$"):
        await verbs.inspect("mine")

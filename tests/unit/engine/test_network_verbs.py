"""The verbs of /networks: which there are, who is on them, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from proa.engine.networks import NetworkVerbs
from proa.errors import Conflict, Forbidden, InvalidParameter, NotFound
from proa.metadata import Metadata
from proa.network import SCHEMA, Endpoint, Networking, Sandbox, docker_user, firewall, hosts, link
from proa.schema.config import DaemonConfig
from proa.schema.network import IPAM, IPAMConfig, NetworkCreateRequest
from proa.schema.plan import PreparedNetwork


class NoKeeper:
    """Nothing is prepared in these tests."""

    async def release(self, key: int) -> None:
        raise AssertionError


class Told:
    """The events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def emit(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        self.events.append((type_, action, attributes.get("name", "")))


@pytest.fixture
def networking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Networking:
    for name in ("raise_bridge", "raise_parent", "take_down"):
        monkeypatch.setattr(hosts, name, lambda *_: None)
    for name in ("let_through", "withdraw"):
        monkeypatch.setattr(docker_user, name, lambda bridges: None)
    for name in ("install", "add_network", "remove_network"):
        monkeypatch.setattr(firewall, name, lambda *_, **__: None)
    monkeypatch.setattr(link, "used_subnets", list)
    config = DaemonConfig(network_pool_size=0, bridge="none")
    return Networking(config, Metadata(tmp_path / "db", {"network": SCHEMA}), NoKeeper())


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def verbs(networking: Networking, told: Told) -> NetworkVerbs:
    wanted = SimpleNamespace(name_of=lambda id_: f"name-of-{id_}", wanted=lambda record: False)
    return NetworkVerbs(networking, told, wanted)


async def test_the_predefined_ones(verbs: NetworkVerbs) -> None:
    found = await verbs.list({})
    assert [(n.name, n.driver, n.scope) for n in found] == [
        ("bridge", "bridge", "local"),
        ("host", "host", "local"),
        ("none", "null", "local"),
    ]
    assert found[0].options is not None
    assert found[0].options["com.docker.network.bridge.default_bridge"] == "true"
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


async def test_a_life(verbs: NetworkVerbs, networking: Networking, told: Told) -> None:
    created = await verbs.create(NetworkCreateRequest(name="mine", labels={"a": "b"}, internal=True))
    shown = await verbs.inspect("mine")
    assert (shown.id, shown.driver, shown.internal, shown.labels) == (created.id, "bridge", True, {"a": "b"})
    assert shown.ipam is not None
    assert shown.ipam.config == [IPAMConfig(subnet="172.17.0.0/16", gateway="172.17.0.1")]
    with pytest.raises(Conflict, match="network with name mine already exists"):
        await verbs.create(NetworkCreateRequest(name="mine"))
    assert [n.name for n in await verbs.list({"type": ["custom"]})] == ["mine"]
    assert [n.name for n in await verbs.list({"dangling": ["true"]})] == ["mine"]
    assert [n.name for n in await verbs.list({"label": ["a=b"]})] == ["mine"]
    await verbs.remove(created.id[:8])
    assert [n.name for n in await verbs.list({"type": ["custom"]})] == []
    assert told.events == [("network", "create", "mine"), ("network", "destroy", "mine")]
    await networking.close()


async def test_one_that_is_in_use_stays(verbs: NetworkVerbs, networking: Networking) -> None:
    created = await verbs.create(NetworkCreateRequest(name="mine"))
    endpoint = Endpoint(id="e", network_id=created.id, network_name="mine", address="172.17.0.2")
    networking.adopt(
        "c1", Sandbox(id="s", mode="bridge", plan_network=PreparedNetwork(1), endpoints=(endpoint,))
    )
    with pytest.raises(Forbidden, match=r'mine has active endpoints \(name:"name-of-c1" id:"c1"\)'):
        await verbs.remove("mine")
    assert (await verbs.prune({})).networks_deleted == []
    with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
        await verbs.remove("bridge")
    await networking.close()


async def test_prune_takes_what_matches(verbs: NetworkVerbs, networking: Networking) -> None:
    await verbs.create(NetworkCreateRequest(name="old", labels={"keep": "no"}))
    await verbs.create(NetworkCreateRequest(name="kept", labels={"keep": "yes"}))
    assert (await verbs.prune({"label": ["keep=no"], "until": ["1h"]})).networks_deleted == []
    assert (await verbs.prune({"label!": ["keep=yes"]})).networks_deleted == ["old"]
    await networking.close()


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (NetworkCreateRequest(name=" "), InvalidParameter, "name is empty"),
        (
            NetworkCreateRequest(name="host"),
            Forbidden,
            "operation is not permitted on predefined host network",
        ),
        (NetworkCreateRequest(name="x", driver="odd"), NotFound, 'plugin "odd" not found'),
        (NetworkCreateRequest(name="x", driver="host"), Forbidden, 'only one instance of "host" network'),
        (
            NetworkCreateRequest(name="x", driver="macvlan", options={"macvlan_mode": "odd"}),
            InvalidParameter,
            "requested macvlan mode 'odd' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            NetworkCreateRequest(name="x", driver="ipvlan", options={"ipvlan_flag": "odd"}),
            InvalidParameter,
            "requested ipvlan flag 'odd' is not valid, 'bridge' flag is the ipvlan driver default",
        ),
        (
            NetworkCreateRequest(name="x", driver="macvlan", options={"parent": "lo"}),
            InvalidParameter,
            "loopback interface is not a valid macvlan parent link",
        ),
    ],
)
async def test_networks_that_cannot_be(
    verbs: NetworkVerbs, networking: Networking, request_: NetworkCreateRequest, error: type, text: str
) -> None:
    with pytest.raises(error, match=text):
        await verbs.create(request_)
    assert len(await verbs.list({})) == 3
    await networking.close()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"subnet": "10.0.0.1/16"}, "invalid subnet 10.0.0.1/16: it should be 10.0.0.0/16"),
        ({"subnet": "10.0.0/16"}, "invalid subnet 10.0.0/16: invalid CIDR block notation"),
        ({"subnet": "fd00::/64"}, "invalid subnet fd00::/64: IPv6 has not been enabled"),
        ({"subnet": "10.0.0.0/16", "gateway": "10.1.0.1"}, "parent subnet 10.0.0.0/16 doesn't contain"),
        ({"subnet": "10.0.0.0/16", "gateway": "fd00::1"}, "parent subnet is an IPv4 block"),
        ({"subnet": "10.0.0.0/16", "ip_range": "10.1.0.0/24"}, "doesn't contain ip-range"),
        ({"subnet": "10.0.0.0/16", "ip_range": "10.0.0.0/8"}, "CIDR block is bigger than its parent subnet"),
        ({"subnet": "10.0.0.0/16", "auxiliary_addresses": {"r": "10.9.0.1"}}, "invalid auxiliary address"),
    ],
)
async def test_subnets_that_cannot_be(
    verbs: NetworkVerbs, networking: Networking, config: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidParameter, match=text.replace("(", r"\(")) as failure:
        await verbs.create(NetworkCreateRequest(name="x", ipam=IPAM(config=[IPAMConfig(**config)])))
    assert str(failure.value).startswith("invalid network config:\n")
    await networking.close()


async def test_subnets_do_not_overlap(verbs: NetworkVerbs, networking: Networking) -> None:
    def on(name: str, subnet: str) -> NetworkCreateRequest:
        return NetworkCreateRequest(name=name, ipam=IPAM(config=[IPAMConfig(subnet=subnet)]))

    await verbs.create(on("one", "10.5.0.0/16"))
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        await verbs.create(on("two", "10.5.7.0/24"))
    await networking.close()

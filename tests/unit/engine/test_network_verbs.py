"""The verbs of /networks: which there are, who is on them, and what is refused."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from proa.engine.networks import NetworkVerbs
from proa.errors import Conflict, Forbidden, InvalidParameter, NotFound, System
from proa.metadata import Metadata
from proa.network import SCHEMA, Endpoint, Networking, Sandbox, docker_user, firewall, hosts, link
from proa.schema.config import DaemonConfig
from proa.schema.network import IPAM, IPAMConfig, Network, NetworkCreateRequest
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
        (NetworkCreateRequest(name="x", ingress=True), Forbidden, "Ingress network can only be global scope"),
        (NetworkCreateRequest(name="x", scope="swarm"), Forbidden, "cannot create a swarm scoped network"),
        (NetworkCreateRequest(name="x", driver="overlay"), Forbidden, "This node is not a swarm manager"),
        (NetworkCreateRequest(name="x", ipam=IPAM(driver="null")), InvalidParameter, "ipv4 pool is empty"),
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
        ({"subnet": "10.0.0.0/16", "gateway": "10.1.0.1"}, "parent subnet 10.0.0.0/16 doesn't contain"),
        ({"subnet": "10.0.0.0/16", "gateway": "fd00::1"}, "parent subnet is an IPv4 block"),
        ({"subnet": "10.0.0.0/16", "ip_range": "10.1.0.0/24"}, "doesn't contain ip-range"),
        ({"subnet": "10.0.0.0/16", "ip_range": "10.0.0.0/8"}, "CIDR block is bigger than its parent subnet"),
        ({"subnet": "10.0.0.0/16", "auxiliary_addresses": {"r": "10.9.0.1"}}, "invalid auxiliary address r"),
        (
            {"subnet": "10.0.0.1/16", "gateway": "x"},
            "* invalid subnet 10.0.0.1/16: it should be 10.0.0.0/16\n* invalid gateway x: invalid address",
        ),
    ],
)
async def test_subnets_that_cannot_be(
    verbs: NetworkVerbs, networking: Networking, config: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(text)) as failure:
        await verbs.create(NetworkCreateRequest(name="x", ipam=IPAM(config=[IPAMConfig(**config)])))
    assert str(failure.value).startswith("invalid network config:\n")
    await networking.close()


async def test_what_was_asked_for_is_shown_and_in_docker_s_order(
    verbs: NetworkVerbs, networking: Networking
) -> None:
    async def shown(name: str, *config: IPAMConfig, **fields: object) -> Network:
        request = NetworkCreateRequest(name=name, ipam=IPAM(config=list(config), options={}), **fields)  # type: ignore[arg-type]
        await verbs.create(request)
        return await verbs.inspect(name)

    asked = IPAMConfig(subnet="fd00:1::/64")
    found = await shown("both", asked, enable_i_pv6=True)
    assert found.ipam == IPAM(
        driver="default", options={}, config=[asked, IPAMConfig(subnet="172.17.0.0/16", gateway="172.17.0.1")]
    )
    four_only = await shown("four", IPAMConfig(subnet="fd00:2::/64"))
    assert four_only.ipam is not None
    assert [config.subnet for config in four_only.ipam.config or ()] == ["172.18.0.0/16"]
    between_two = await shown("two", IPAMConfig(subnet="10.1.0.0/31", gateway="10.1.0.0"))
    assert between_two.ipam is not None
    assert between_two.ipam.config == [IPAMConfig(subnet="10.1.0.0/31", gateway="10.1.0.0")]
    assert (await shown("far", scope="global")).scope == "global"
    assert [n.name for n in await verbs.list({"scope": ["global"]})] == ["far"]
    assert (await shown("a name of words")).name == "a name of words"
    await networking.close()


async def test_families_by_option(verbs: NetworkVerbs, networking: Networking) -> None:
    on = {"com.docker.network.enable_ipv6": "true", "com.docker.network.enable_ipv4": "0"}
    await verbs.create(NetworkCreateRequest(name="six", options=on))
    shown = await verbs.inspect("six")
    assert (shown.enable_i_pv4, shown.enable_i_pv6, shown.options) == (False, True, on)
    await verbs.create(NetworkCreateRequest(name="said", options=on, enable_i_pv4=True))
    shown = await verbs.inspect("said")
    assert shown.enable_i_pv4, "what is said holds over the option, which is not shown then"
    assert shown.options == {"com.docker.network.enable_ipv6": "true"}
    odd = {"com.docker.network.enable_ipv6": "odd"}
    with pytest.raises(InvalidParameter, match=r'"com.docker.network.enable_ipv6" is not a valid bool'):
        await verbs.create(NetworkCreateRequest(name="odd", options=odd))
    await networking.close()


@pytest.mark.parametrize(
    ("option", "text", "reason"),
    [
        ("bridge.enable_icc", "odd", 'strconv.ParseBool: parsing "odd": invalid syntax'),
        ("driver.mtu", "odd", 'strconv.Atoi: parsing "odd": invalid syntax'),
        ("bridge.host_binding_ipv4", "odd", "nil ip"),
        ("bridge.gateway_mode_ipv4", "odd", "unknown gateway mode odd"),
    ],
)
async def test_options_that_mean_nothing(
    verbs: NetworkVerbs, networking: Networking, option: str, text: str, reason: str
) -> None:
    label = f"com.docker.network.{option}"
    with pytest.raises(
        InvalidParameter, match=re.escape(f"failed to parse {label} value: {text} ({reason})")
    ):
        await verbs.create(NetworkCreateRequest(name="x", options={label: text}))
    await networking.close()


async def test_an_auxiliary_address_is_not_the_gateway_s(verbs: NetworkVerbs, networking: Networking) -> None:
    config = IPAMConfig(subnet="10.1.0.0/24", gateway="10.1.0.1", auxiliary_addresses={"a": "10.1.0.1"})
    told = r"failed to allocate secondary ip address \(a:10\.1\.0\.1\): Address already in use"
    with pytest.raises(System, match=told):
        await verbs.create(NetworkCreateRequest(name="x", ipam=IPAM(config=[config])))
    await networking.close()


async def test_subnets_do_not_overlap(verbs: NetworkVerbs, networking: Networking) -> None:
    def on(name: str, subnet: str) -> NetworkCreateRequest:
        return NetworkCreateRequest(name=name, ipam=IPAM(config=[IPAMConfig(subnet=subnet)]))

    await verbs.create(on("one", "10.5.0.0/16"))
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        await verbs.create(on("two", "10.5.7.0/24"))
    await networking.close()

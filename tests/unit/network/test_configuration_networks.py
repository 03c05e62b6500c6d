"""Networks that only lend others their configuration, and those that take it."""

import pytest
from fake_host import Host, opened
from fake_keeper import FakeKeeper

from proa.errors import Forbidden, NotFound, ProaError
from proa.metadata import Metadata
from proa.network import EndpointWish, Networking, NetworkRecord, NetworkWish
from proa.schema.network import IPAM, ConfigReference, IPAMConfig, NetworkCreateRequest

MTU = {"com.docker.network.driver.mtu": "1400"}


async def configuration(networking: Networking, name: str = "conf", **fields: object) -> NetworkRecord:
    ipam = IPAM(config=[IPAMConfig(subnet="10.7.0.0/24", ip_range="10.7.0.128/25")], options={"a": "b"})
    request = NetworkCreateRequest(
        name=name,
        config_only=True,
        ipam=ipam,
        options=MTU,
        labels={"team": "x"},
        **fields,  # type: ignore[arg-type]
    )
    return await networking.create(request)


async def test_a_configuration_is_nothing_on_the_host(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    await network.start()
    host.calls.clear()
    record = await configuration(network)
    assert (record.driver, record.config_only, host.calls) == ("null", True, [])
    assert [(s.subnet, s.gateway) for s in record.subnets] == [("10.7.0.0/24", "")], "as it was asked for"
    wish = NetworkWish(mode="bridge", endpoints=(EndpointWish(network="conf"),), hostname="box")
    with pytest.raises(Forbidden, match="cannot create endpoint on configuration-only network"):
        await network.connect("c1", wish)
    await network.close()


async def test_who_takes_it_has_all_of_it(database: Metadata, host: Host) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    conf = await configuration(network, enable_i_pv6=True)
    from_conf = ConfigReference(network="conf")
    request = NetworkCreateRequest(name="net", config_from=from_conf, internal=True)
    made = await network.create(request)
    assert (made.driver, made.internal, made.ipv6, made.config_from) == ("bridge", True, True, "conf")
    assert (made.options, made.labels, made.ipam_options) == (MTU, {"team": "x"}, {"a": "b"})
    first, second = made.subnets
    assert (first.subnet, first.gateway) == ("10.7.0.0/24", "10.7.0.128")
    assert ":" in second.subnet, "what the configuration leaves open is chosen"
    with pytest.raises(Forbidden, match=r'configuration network "conf" is in use'):
        await network.drop(conf)
    await network.drop(made)
    await network.close()
    again = opened(database, FakeKeeper(), network_pool_size=0)
    await again.drop(again.find("conf"))
    with pytest.raises(NotFound):
        again.find("conf")
    await again.close()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"config_only": True, "internal": True}, Forbidden, "Network operator fields"),
        ({"config_only": True, "attachable": True}, Forbidden, "Network operator fields"),
        (
            {"config_only": True, "config_from": ConfigReference(network="conf")},
            Forbidden,
            "cannot depend on another configuration network",
        ),
        ({"config_from": ConfigReference(network="bridge")}, NotFound, '"bridge" does not exist'),
        ({"config_from": ConfigReference(network="none-such")}, NotFound, "does not exist"),
        (
            {"config_from": ConfigReference(network="conf"), "labels": {"a": "b"}},
            Forbidden,
            "user specified configurations are not supported",
        ),
        (
            {"config_from": ConfigReference(network="conf"), "options": MTU},
            Forbidden,
            "network driver options are not supported",
        ),
    ],
)
async def test_what_is_refused(
    database: Metadata, host: Host, fields: dict[str, object], error: type[ProaError], text: str
) -> None:
    network = opened(database, FakeKeeper(), network_pool_size=0)
    await configuration(network)
    with pytest.raises(error, match=text):
        await network.create(NetworkCreateRequest(name="net", **fields))  # type: ignore[arg-type]
    assert len(network.networks) == 4
    await network.close()

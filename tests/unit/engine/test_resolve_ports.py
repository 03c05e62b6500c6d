"""Ports that a request exposes and publishes."""

import pytest
from resolving import resolved

from proa.errors import InvalidParameter
from proa.network import PortWish
from proa.schema.container import HostConfig
from proa.schema.network import EndpointIPAMConfig, EndpointSettings, NetworkingConfig, PortBinding


def ports(host_config: HostConfig, **config: object) -> tuple[PortWish, ...]:
    return resolved(host_config, **config).network.ports


def wish(container_port: int, **options: object) -> PortWish:
    return PortWish(protocol="tcp", container_port=container_port, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        (PortBinding(host_port="8080"), wish(80, first=8080, last=8080)),
        (
            PortBinding(host_ip="0.0.0.0", host_port="8080"),
            wish(80, host_address="0.0.0.0", first=8080, last=8080),
        ),
        (PortBinding(host_ip="[FD00::1]"), wish(80, host_address="fd00::1")),
        (
            PortBinding(host_ip="127.0.0.1", host_port="8000-8010"),
            wish(80, host_address="127.0.0.1", first=8000, last=8010),
        ),
        (PortBinding(), wish(80)),
        (PortBinding(host_port="0"), wish(80)),
    ],
)
def test_bindings(binding: PortBinding, expected: PortWish) -> None:
    assert ports(HostConfig(port_bindings={"80/tcp": [binding]})) == (expected,)


def test_a_port_without_a_binding_gets_any() -> None:
    assert ports(HostConfig(port_bindings={"80": None})) == (wish(80),)


def test_each_family_has_its_own() -> None:
    both = [PortBinding(host_ip="0.0.0.0", host_port="80"), PortBinding(host_ip="::", host_port="80")]
    assert [w.host_address for w in ports(HostConfig(port_bindings={"80/tcp": both}))] == ["0.0.0.0", "::"]


def test_all_exposed_ports() -> None:
    host_config = HostConfig(publish_all_ports=True, port_bindings={"80/tcp": [PortBinding(host_port="1")]})
    found = ports(host_config, exposed_ports={"80/tcp": {}, "53/udp": {}})
    assert found == (wish(80, first=1, last=1), PortWish(protocol="udp", container_port=53))


def test_nothing_to_publish_on_the_host_s_network() -> None:
    bindings = {"80/tcp": [PortBinding(host_port="80")]}
    found = resolved(HostConfig(network_mode="host", port_bindings=bindings))
    assert found.network.ports == ()
    assert found.warnings == ("Published ports are discarded when using host network mode",)
    found = resolved(HostConfig(network_mode="none", port_bindings=bindings))
    assert found.network.ports == (wish(80, first=80, last=80),), "for the network that it may come to be on"


@pytest.mark.parametrize("mode", ["host", "none", "bridge"])
def test_an_address_of_ones_own_needs_a_network_of_ones_own(mode: str) -> None:
    asked = EndpointSettings(ipam_config=EndpointIPAMConfig(i_pv4_address="10.1.2.3"))
    given = NetworkingConfig(endpoints_config={mode: asked})
    with pytest.raises(InvalidParameter, match="supported on user defined networks only"):
        resolved(HostConfig(network_mode=mode), networking_config=given)


@pytest.mark.parametrize(
    ("port", "binding"),
    [
        ("x", PortBinding()),
        ("80/icmp", PortBinding()),
        ("70000", PortBinding()),
        ("80", PortBinding(host_port="x")),
        ("80", PortBinding(host_port="90-80")),
        ("80", PortBinding(host_port="70000")),
        ("80", PortBinding(host_ip="name")),
    ],
)
def test_what_is_refused(port: str, binding: PortBinding) -> None:
    with pytest.raises(InvalidParameter, match="invalid"):
        ports(HostConfig(port_bindings={port: [binding]}))

"""Ports that a request exposes and publishes. Source: docker/go-connections, nat."""

import re
import socket

from proa.errors import InvalidParameter
from proa.network import PortWish
from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.network import PortBinding

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def resolve_ports(config: ContainerConfig, host_config: HostConfig) -> tuple[PortWish, ...]:
    """The ports to publish, of a configuration whose network mode is filled in.

    Raises InvalidParameter for malformed ports.
    """
    exposed = [parse_port(port) for port in config.exposed_ports or {}]
    bound = {parse_port(port): bindings for port, bindings in (host_config.port_bindings or {}).items()}
    wishes = [
        wish
        for (number, protocol), bindings in bound.items()
        for binding in bindings or [PortBinding()]
        for wish in _wishes(number, protocol, binding)
    ]
    if host_config.network_mode == "host":
        return ()  # on network none they wait for another one
    if host_config.publish_all_ports:
        wishes += [
            PortWish(protocol=protocol, container_port=number)
            for number, protocol in exposed
            if (number, protocol) not in bound
        ]
    return tuple(wishes)


def parse_port(text: str) -> tuple[int, str]:
    """(first port, protocol) of `80`, `80/udp` or `80-90/tcp`. Raises InvalidParameter."""
    match = _PORT.fullmatch(text)
    if match is None or any(int(number) > 65535 for number in match.groups()[:2] if number):
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return int(match[1]), (match[3] or "tcp").lower()


def _wishes(number: int, protocol: str, binding: PortBinding) -> list[PortWish]:
    first, last = _host_ports(binding.host_port)
    address = binding.host_ip.removeprefix("[").removesuffix("]")
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            address = socket.inet_ntop(family, socket.inet_pton(family, address))
        except (OSError, ValueError):
            raise InvalidParameter(f"invalid IP address: {binding.host_ip}") from None
    return [PortWish(protocol=protocol, container_port=number, host_address=address, first=first, last=last)]


def _host_ports(text: str) -> tuple[int, int]:
    """(first, last) of `8080` or `8000-8010`; zeros for any."""
    if text in ("", "0"):
        return 0, 0
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= 65535:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return first, last

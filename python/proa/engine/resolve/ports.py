"""Ports that a request publishes: their syntax, and for now the word that publishing is not there.

Source: docker/go-connections, nat.
"""

import re

from proa.errors import InvalidParameter, NotImplemented_
from proa.schema.container import ContainerConfig, HostConfig

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def check_ports(config: ContainerConfig, host_config: HostConfig) -> None:
    """Refuse malformed ports, then any that is to be published."""
    for port in (*(config.exposed_ports or {}), *(host_config.port_bindings or {})):
        match = _PORT.fullmatch(port)
        if match is None or any(int(n) > 65535 for n in match.groups()[:2] if n):
            raise InvalidParameter(f'invalid port specification: "{port}"')
    if host_config.network_mode in ("host", "none"):
        return
    published = any(host_config.port_bindings or {})
    if published or (host_config.publish_all_ports and config.exposed_ports):
        raise NotImplemented_("publishing ports is not supported yet: run without -p and -P")

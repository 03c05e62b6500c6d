"""Names of containers on their networks: what each is called, and what the resolver is told of one.

Source: moby daemon/container_operations.go (buildEndpointDNSNames).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from proa.network.files import DnsDefaults, HostFiles
from proa.network.resolver import ndots_set, upstreams
from proa.network.sandbox import EndpointWish, NetworkWish, Sandbox
from proa.schema.keeper import DnsNetwork, DnsSandbox

SHORT_ID = 12


class Called(NamedTuple):
    """What a container is called."""

    id: str
    name: str
    hostname: str

    def on(self, wish: EndpointWish) -> tuple[str, ...]:
        """On a network that has names: its own name first, which is what its addresses are told as."""
        return tuple(
            dict.fromkeys(filter(None, (self.name, *wish.aliases, self.id[:SHORT_ID], self.hostname)))
        )


def named(sandbox: Sandbox) -> bool:
    """It is on a network that has names, so it has the resolver."""
    return any(endpoint.names for endpoint in sandbox.endpoints)


def told(
    container_id: str,
    wish: NetworkWish,
    sandbox: Sandbox,
    *,
    running: bool,
    internal: Callable[[str], bool],
    defaults: DnsDefaults,
    host: HostFiles,
) -> DnsSandbox:
    """All that the resolver is to know of a container.

    `internal` tells whether a network (by id) is.
    """
    networks = tuple(
        DnsNetwork(
            id=endpoint.network_id,
            name=endpoint.network_name,
            names=endpoint.names,
            addresses=endpoint.addresses,
            links=_links(endpoint.wish.links),
        )
        for endpoint in sandbox.endpoints
        if endpoint.names
    )
    outwards = any(not internal(endpoint.network_id) for endpoint in sandbox.endpoints)
    options = wish.dns_options or defaults.options
    return DnsSandbox(
        id=container_id,
        key=None if running else sandbox.key,
        networks=networks,
        upstreams=upstreams(wish, defaults, host.resolver()) if outwards else (),
        ndots=ndots_set(options),
    )


def _links(links: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(alias, name) of `container:alias`: what a link says of the container is one of its names."""
    parted = [link.partition(":") for link in links]
    return tuple((alias or container, container) for container, _, alias in parted)

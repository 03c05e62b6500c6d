"""The resolver at 127.0.0.11, as this room sees it, and how a container with it is configured.

The keeper serves it (native/src/dns). A container on user-defined networks is told to it whole before its
start and at each change of its networks; its exit ends it without being asked:

    await resolver.serve_names(DnsSandbox(id=container_id, key=prepared.key, networks=..., upstreams=...))
    await resolver.forget_names(container_id)               it does not start

Each message is about one container only, however many are on its networks.

Source: moby's daemon/libnetwork/resolver.go and internal/resolvconf.
"""

import socket
from collections.abc import Iterable
from typing import Protocol

from msgspec.structs import replace

from proa.network.files import DEFAULT_SERVERS, LOOPBACK, DnsDefaults
from proa.network.files import Resolver as ResolvConf
from proa.network.sandbox import NetworkWish
from proa.schema.keeper import DnsSandbox, DnsUpstream

ADDRESS = "127.0.0.11"
SERVERS = 3
"""So many of the servers are used, as by the C library."""


class Resolver(Protocol):
    """What the room needs of the keeper for names."""

    async def serve_names(self, sandbox: DnsSandbox) -> None:
        """Serve a container and let others find it; replaces what was known of it. Raises ProaError."""
        ...

    async def forget_names(self, id_: str) -> None:
        """Forget a container; an unknown one is no error. Raises ProaError."""
        ...


def upstreams(wish: NetworkWish, defaults: DnsDefaults, host: ResolvConf) -> tuple[DnsUpstream, ...]:
    """The servers of a container that is on a network which is not internal.

    A loopback address that comes from the host is a server of the host's, so it is asked from there.
    """
    from_host = not (wish.dns or defaults.servers)
    servers = wish.dns or defaults.servers or host.servers or DEFAULT_SERVERS
    return tuple(_upstreams(servers, from_host=from_host))[:SERVERS]


def resolv_conf(configured: ResolvConf) -> ResolvConf:
    """What the container's file says in place of its servers (see `files.resolver_of` for what goes in)."""
    options = configured.options
    if not ndots_set(options):
        options = (*options, "ndots:0")
    return replace(configured, servers=(ADDRESS,), options=options)


def ndots_set(options: Iterable[str]) -> bool:
    """Whether `ndots` is among the options of a resolv.conf."""
    return any(option.startswith("ndots:") for option in options)


def _upstreams(servers: Iterable[str], *, from_host: bool) -> Iterable[DnsUpstream]:
    for server in servers:
        if not _is_address(server):
            continue  # as the C library does
        if from_host and LOOPBACK.match(server):
            yield DnsUpstream(address=server, host=True)
        elif server != ADDRESS:  # itself
            yield DnsUpstream(address=server)


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return False
    return True

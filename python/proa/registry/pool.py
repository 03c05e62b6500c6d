"""Connections to registries: made, kept alive between requests, through TLS and proxies.

A connection is shared only by requests to the same origin with the same TLS settings and proxy. Failures to
connect are told apart: `TLSFailed` where there is TLS that fails, `NoConnection` where there is none.
"""

import asyncio
import os
import socket
from typing import Final

from msgspec import Struct

from proa.registry.connection import Broken, Connection
from proa.registry.origin import Origin
from proa.registry.proxies import Proxies, Proxy
from proa.registry.tls import TLSSettings, tls_failure
from proa.registry.tunnel import authorization, through_http, through_socks

CONNECT_TIMEOUT: Final = 30.0
"""Seconds for an address to answer, the handshake included."""
INSECURE_HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds for the answer to a TLS hello where plain HTTP is the other way: some servers wait for more."""
IDLE_MAX: Final = 60.0
"""Seconds a connection is kept; registries close theirs after a minute or more."""
IDLE_PER_ROUTE: Final = 8


class NoConnection(Exception):
    """Nothing can be reached there; the text is Go's, as clients know it from Docker."""


class TLSFailed(NoConnection):
    """The peer talks TLS, and one side does not trust the other."""


class Route(Struct, frozen=True):
    """What connections may be shared by."""

    origin: Origin
    tls: TLSSettings


class Pool:
    """Every connection of the daemon to registries."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._idle: dict[Route, list[tuple[Connection, float]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close the idle ones; those in use are kept a while, as ever, where they are given back."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for kept in self._idle.values():
            for connection, _ in kept:
                connection.close()
        self._idle.clear()

    async def take(self, route: Route, *, fresh: bool = False) -> tuple[Connection, bool]:
        """A connection, and whether it was used before. Raises NoConnection."""
        kept = self._idle.get(route, [])
        while kept and not fresh:
            connection, _ = kept.pop()
            if connection.usable:
                return connection, True
            connection.close()
        return await self._connect(route), False

    def keep(self, route: Route, connection: Connection) -> None:
        """Take one back whose answer was read to its end."""
        kept = self._idle.setdefault(route, [])
        if len(kept) >= IDLE_PER_ROUTE:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        kept.append((connection, loop.time()))
        if self._sweeper is None:
            self._sweeper = loop.call_later(IDLE_MAX, self._sweep)

    def absolute(self, origin: Origin) -> tuple[bool, str]:
        """Whether requests name the whole URL (to a proxy of plain HTTP), and a header line for the proxy."""
        proxy = self._proxies.of(origin)
        if proxy is None or proxy.socks or origin.scheme == "https":
            return False, ""
        return True, authorization(proxy)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        for route, kept in list(self._idle.items()):
            oldest = loop.time() - IDLE_MAX
            for connection, since in kept:
                if since <= oldest or not connection.usable:
                    connection.close()
            kept[:] = [pair for pair in kept if pair[1] > oldest and pair[0].usable]
            if not kept:
                del self._idle[route]
        if self._idle:
            self._sweeper = loop.call_later(IDLE_MAX, self._sweep)

    async def _connect(self, route: Route) -> Connection:
        proxy = self._proxies.of(route.origin)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if proxy is None:
                    return await _open(route)
                connection = await _open(Route(proxy.origin, TLSSettings()))
                if route.origin.scheme == "http" and not proxy.socks:
                    return connection
                try:
                    return await _tunnel(connection, proxy, route)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            raise NoConnection(f"dial tcp {route.origin.host_port}: i/o timeout") from None


async def _open(route: Route) -> Connection:
    """A connection to a route's origin, with TLS where that is https."""
    loop = asyncio.get_running_loop()
    origin = route.origin
    context = route.tls.context() if origin.scheme == "https" else None
    server_name = origin.host if context is not None else None
    insecure = context is not None and not route.tls.verify
    try:
        _, connection = await loop.create_connection(
            Connection,
            sock=await _dial(origin),
            ssl=context,
            server_hostname=server_name,
            ssl_handshake_timeout=INSECURE_HANDSHAKE_TIMEOUT if insecure else None,
        )
    except OSError as exc:
        raise _no_connection(origin, exc) from exc
    except UnicodeError as exc:  # a label that is too long, before anybody is asked
        raise NoConnection(f"dial tcp: lookup {origin.host}: no such host") from exc
    return connection


async def _dial(origin: Origin) -> socket.socket:
    """A socket connected to the first address that answers.

    Looked up here and not in create_connection: one that is cancelled leaves its lookup behind, whose failure
    nobody takes.
    """
    loop = asyncio.get_running_loop()
    failure = OSError("no addresses")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _tunnel(connection: Connection, proxy: Proxy, route: Route) -> Connection:
    """What leads to the registry through a proxy that hands bytes on, TLS in it where the registry has it."""
    target = route.origin
    try:
        if proxy.socks:
            await through_socks(connection, proxy, target)
        else:
            await through_http(connection, proxy, target)
    except Broken as exc:
        if proxy.socks:
            way = f"{proxy.origin.host_port}->{target.host_port}"
            raise NoConnection(f"socks connect tcp {way}: {exc}") from exc
        raise NoConnection(f"proxyconnect tcp: {exc}") from exc
    if target.scheme == "http":
        return connection
    loop = asyncio.get_running_loop()
    inner = Connection()
    try:
        transport = await loop.start_tls(
            connection.transport, inner, route.tls.context(), server_hostname=target.host
        )
    except OSError as exc:
        raise _no_connection(target, exc) from exc
    if transport is None:
        raise NoConnection(f"proxyconnect tcp: {target.host_port}: connection lost")
    inner.connection_made(transport)
    return inner


def _no_connection(origin: Origin, exc: OSError) -> NoConnection:
    """A failure to connect in Go's words. TLS failures are OSErrors too."""
    if isinstance(exc, socket.gaierror):
        if exc.errno == socket.EAI_AGAIN:
            return NoConnection(f"dial tcp: lookup {origin.host}: temporary failure in name resolution")
        return NoConnection(f"dial tcp: lookup {origin.host}: no such host")
    found = tls_failure(exc)
    if found is not None:
        text, talks_tls = found
        return TLSFailed(text) if talks_tls else NoConnection(text)
    reason = (os.strerror(exc.errno) if exc.errno else str(exc) or type(exc).__name__).lower()
    return NoConnection(f"dial tcp {origin.host_port}: connect: {reason}")

"""The door itself: connections that come in on `/grpc` and `/session`, and what serves them.

Source: moby daemon/server/router/grpc, daemon/server/router/session.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from proa.errors import InvalidParameter

if TYPE_CHECKING:
    from proa.buildkit.arrivals import Arrivals
    from proa.buildkit.control import Control
    from proa.buildkit.http2 import Connection
    from proa.buildkit.sessions import Session

_SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

Detach = Callable[[], tuple[int, bytes]]
"""Takes a request's connection away from HTTP/1.1: (fd, which is the caller's; input read already)."""


class Door:
    """Opened by the first client that comes; nothing of the protocol is imported before."""

    def __init__(self, make_control: "Callable[[Arrivals[Session]], Control]") -> None:
        self._make_control = make_control
        self._rooms: tuple[Arrivals[Session], Control] | None = None
        self._connections: set[Connection] = set()

    async def close(self) -> None:
        """End every connection, and with them the builds they came for."""
        for connection in self._connections:
            connection.close()
        if self._connections:
            await asyncio.wait([connection.closed for connection in self._connections])

    async def serve(self, headers: Mapping[str, str], detach: Detach) -> None:
        """Speak gRPC from now on on a request's connection. Raises InvalidParameter, ConnectionResetError."""
        from proa.buildkit import grpc
        from proa.buildkit.http2 import Connection

        _check(headers)
        _, control = self._open()
        await self._switch(Connection(partial(grpc.serve, control.methods)), detach)

    async def session(self, headers: Mapping[str, str], detach: Detach) -> None:
        """The client serves from now on. Raises InvalidParameter, ConnectionResetError."""
        from proa.buildkit.http2 import Connection
        from proa.buildkit.sessions import Session

        _check(headers)
        sessions, _ = self._open()
        connection = Connection()
        session = Session(connection, headers)
        sessions.check(session.id)
        await self._switch(connection, detach)
        connection.closed.add_done_callback(lambda _: sessions.remove(session.id))
        await sessions.add(session.id, session)

    def _open(self) -> "tuple[Arrivals[Session], Control]":
        if self._rooms is None:
            from proa.buildkit.arrivals import Arrivals

            sessions: Arrivals[Session] = Arrivals("session")
            self._rooms = sessions, self._make_control(sessions)
        return self._rooms

    async def _switch(self, connection: "Connection", detach: Detach) -> None:
        fd, rest = detach()
        loop = asyncio.get_running_loop()
        client = socket.socket(fileno=fd)
        try:
            client.setblocking(False)
            # Nothing was written yet: it fits.
            client.send(_SWITCHED)
            if client.family == socket.AF_UNIX:
                await loop.create_unix_connection(lambda: connection, sock=client)
            else:
                await loop.create_connection(lambda: connection, sock=client)
        except BaseException:
            client.close()
            raise
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        if rest:
            connection.data_received(rest)


def _check(headers: Mapping[str, str]) -> None:
    if headers.get("upgrade", "").lower() != "h2c":
        raise InvalidParameter("no upgrade proto in request")

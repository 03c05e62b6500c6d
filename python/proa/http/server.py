"""What every HTTP server of proa shares: listeners, clients counted and bounded, an orderly end."""

import asyncio
import logging
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proa.errors import InvalidParameter, ProaError
from proa.http._connection import Connection
from proa.http._request import Request
from proa.http.listeners import BACKLOG, inherited, listen_tcp, listen_unix
from proa.http.tls import TlsTransport

if TYPE_CHECKING:
    from proa.http._connection import Response, Target

log = logging.getLogger(__name__)

SHUTDOWN_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of the server: bytes, seconds, connections."""

    head_bytes: int = 64 * 1024
    body_bytes: int = 8 * 1024 * 1024
    """Of a body that is held in memory (JSON)."""
    head_timeout: float = 30.0
    """From a request's first byte to the end of its head."""
    body_timeout: float = 60.0
    """For a whole JSON body; between two reads of a streamed one."""
    idle_timeout: float = 300.0
    connections_per_client: int = 4096
    connections: int = 8192


class Service(ABC):
    """What connections ask of the server; a room that serves says what is served and in which words."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._connections: dict[Connection, str] = {}
        self._per_client: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many are admitted now."""
        return len(self._connections)

    @abstractmethod
    def resolve(self, method: str, path: str) -> "tuple[Target, str, int]":
        """The request's target; never fails: a refusal is a target too."""

    @abstractmethod
    async def answer(self, request: Request) -> Any:
        """Run the request; every failure becomes an answer."""

    @abstractmethod
    def malformed(self, status: int, message: str) -> "Response":
        """The answer to bytes that are no request, and to a client that is not admitted."""

    def identify(self, transport: asyncio.BaseTransport) -> str:
        """Whose connection this is, for the caps; raises ProaError where it may not be."""
        return str((transport.get_extra_info("peername") or ("?",))[0])

    def admit(self, connection: Connection, transport: asyncio.BaseTransport) -> "Response | None":
        """Count a client's connection; the reply that turns it away where it may not stay."""
        try:
            client = self.identify(transport)
        except ProaError as error:
            return self.malformed(403, str(error))
        if (
            self._per_client[client] >= self.limits.connections_per_client
            or len(self._connections) >= self.limits.connections
        ):
            return self.malformed(503, "too many connections")
        self._connections[connection] = client
        self._per_client[client] += 1
        return None

    def forget(self, connection: Connection) -> None:
        """The connection is lost or handed over. Idempotent."""
        client = self._connections.pop(connection, None)
        if client is not None:
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]

    async def discard(self, response: Any) -> None:
        """Close a stream that has no client any more."""
        aclose = getattr(response.chunks, "aclose", None)
        if aclose is not None:
            await aclose()

    def body_cut_short(self) -> Exception:
        """What a body's consumer sees when the client goes away in the middle."""
        return InvalidParameter("unexpected EOF")

    def body_malformed(self, message: str) -> Exception:
        """What a body's consumer sees when its chunks are malformed."""
        return InvalidParameter(message)

    def report(self, request: Request, error: BaseException) -> None:
        """A failure after the answer's head had gone out: the client sees a cut connection."""
        if isinstance(error, ConnectionResetError):
            return
        expected = isinstance(error, ProaError)
        log.warning(
            "%s %s cut: %s", request.method, request.path, error, exc_info=None if expected else error
        )

    async def shut_down(self) -> None:
        """End every connection; plain answers under way have SHUTDOWN_GRACE seconds."""
        tasks = [task for connection in list(self._connections) if (task := connection.shut_down())]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=SHUTDOWN_GRACE)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)


class Server:
    """The listeners of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[str, int]] = []
        self.addresses: list[str] = []
        """Where it listens, as URLs with the real ports."""

    @property
    def connections(self) -> int:
        """How many clients it has; a connection that was handed over is none."""
        return self._service.connections

    async def listen(self, host: str, group: str, tls: ssl.SSLContext | None) -> None:
        """Serve at one `unix://` or `tcp://` URL; raises InvalidParameter, Conflict, System."""
        scheme, separator, address = host.partition("://")
        if not separator or scheme not in ("unix", "tcp", "fd"):
            raise InvalidParameter(
                f"invalid listen address {host!r}: use unix:///path, tcp://host:port or fd://"
            )
        if scheme == "unix":
            await self._serve(listen_unix(address, group), None)
            self._paths.append((address, os.stat(address).st_ino))
            self.addresses.append(host)
            return
        for listener in listen_tcp(address) if scheme == "tcp" else inherited():
            await self._serve(listener, tls if listener.family != socket.AF_UNIX else None)
            self.addresses.append(url_of(listener))

    async def _serve(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept on a listening socket, which the server then owns."""
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            connection = Connection(self._service, loop)
            if tls is None:
                return connection
            return TlsTransport(tls, connection, loop, self._service.limits.head_timeout)

        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        self._servers.append(await create(connect, sock=listener, backlog=BACKLOG))

    async def close(self) -> None:
        """Stop listening, finish what is under way, remove the socket files. Idempotent."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for path, inode in self._paths:
            remove_own(path, inode)
        self._paths.clear()
        await self._service.shut_down()


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket, with its real port."""
    if listener.family == socket.AF_UNIX:
        return f"unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def remove_own(path: str, inode: int) -> None:
    """Remove the socket file unless another daemon has put its own there."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass

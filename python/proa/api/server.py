"""The API server: listeners, clients, the service behind every connection.

`serve` is all that the daemon needs of this room.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from dataclasses import dataclass
from itertools import chain

from proa.api import containers, execs, images, networks, system, volumes
from proa.api._connection import Connection, Request
from proa.api.listeners import BACKLOG, PeerPolicy, inherited, listen_tcp, listen_unix, peer_credentials
from proa.api.ports import Engine
from proa.api.responses import Reply, Response, error_reply, failure_reply
from proa.api.routes import Route, Router
from proa.api.streams import close
from proa.api.tls import TlsTransport, server_context
from proa.errors import InvalidParameter, ProaError
from proa.schema.config import DaemonConfig

log = logging.getLogger(__name__)

ROUTES = tuple(
    chain(containers.ROUTES, execs.ROUTES, images.ROUTES, networks.ROUTES, volumes.ROUTES, system.ROUTES)
)
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


class Service:
    """What connections ask of the server: admission, routes, answers."""

    def __init__(self, engine: Engine, limits: Limits, policy: PeerPolicy) -> None:
        self.limits = limits
        self._engine = engine
        self._policy = policy
        self._router = Router(ROUTES)
        self._connections: dict[Connection, str] = {}
        self._per_client: Counter[str] = Counter()
        self.resolve = self._router.resolve

    @property
    def connections(self) -> int:
        """How many are admitted now."""
        return len(self._connections)

    def admit(self, connection: Connection, transport: asyncio.BaseTransport) -> Reply | None:
        """Count a client's connection; the reply that turns it away where it may not stay."""
        peer = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX:
            with socket.socket(fileno=os.dup(peer.fileno())) as plain:
                if not self._policy.admits(plain):
                    return error_reply(403, "permission denied: the caller is not in the socket's group")
                client = f"uid {peer_credentials(plain)[1]}"
        else:
            client = str((transport.get_extra_info("peername") or ("?",))[0])
        if (
            self._per_client[client] >= self.limits.connections_per_client
            or len(self._connections) >= self.limits.connections
        ):
            return error_reply(503, "too many connections")
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

    async def answer(self, request: Request) -> Response:
        """Run the request's handler; every failure becomes an answer."""
        route: Route = request.route  # type: ignore[assignment]  # the connection hands back what resolve gave
        try:
            return await route.handler(self._engine, request)
        except ProaError as error:
            return failure_reply(error)
        except ConnectionResetError:
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return error_reply(500, f"internal error: {type(error).__name__}: {error}")

    async def discard(self, response: Response) -> None:
        """Close a stream that has no client any more."""
        if response.chunks is not None:
            await close(response.chunks)

    def malformed(self, status: int, message: str) -> Reply:
        """The answer to bytes that are no request."""
        return error_reply(status, message)

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
    """The running API server."""

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
        if scheme == "tcp" and tls is None:
            log.warning("%s is served without TLS: whoever reaches it is root on this host", host)
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


async def serve(engine: Engine, config: DaemonConfig, limits: Limits | None = None) -> Server:
    """Serve `engine` at every address of `config.listen`; raises classes of proa.errors.

    Nothing is left listening when one address fails.
    """
    tls = server_context(config)
    server = Server(Service(engine, limits or Limits(), PeerPolicy(config.group)))
    try:
        for host in config.listen:
            await server.listen(host, config.group, tls)
    except BaseException:
        await server.close()
        raise
    return server

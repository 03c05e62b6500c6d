"""The API server: its routes, its clients and its errors, on proa.http's connections.

`serve` is all that the daemon needs of this room.
"""

import asyncio
import logging
import os
import socket
from itertools import chain

from proa.api import (
    buildkit,
    builds,
    containers,
    execs,
    files,
    images,
    networks,
    registries,
    system,
    volumes,
)
from proa.api.ports import Engine
from proa.api.responses import Reply, Response, error_reply, failure_reply
from proa.api.routes import Route, Router
from proa.errors import Forbidden, ProaError
from proa.http import server as http
from proa.http._request import Request
from proa.http.listeners import PeerPolicy, peer_credentials
from proa.http.server import Limits, Server
from proa.http.tls import server_context
from proa.schema.config import DaemonConfig

log = logging.getLogger(__name__)

ROOMS = (buildkit, builds, containers, execs, files, images, networks, registries, volumes, system)
ROUTES = tuple(chain.from_iterable(room.ROUTES for room in ROOMS))


class Service(http.Service):
    """What connections ask of the API: admission, routes, answers."""

    def __init__(self, engine: Engine, limits: Limits, policy: PeerPolicy) -> None:
        super().__init__(limits)
        self._engine = engine
        self._policy = policy
        self._router = Router(ROUTES)

    def resolve(self, method: str, path: str) -> tuple[Route, str, int]:
        """(route, name in the path, API minor version)."""
        return self._router.resolve(method, path)

    def identify(self, transport: asyncio.BaseTransport) -> str:
        """A user of the unix socket, where the policy has them, or an address."""
        peer = transport.get_extra_info("socket")
        if peer.family != socket.AF_UNIX:
            return super().identify(transport)
        with socket.socket(fileno=os.dup(peer.fileno())) as plain:
            if not self._policy.admits(plain):
                raise Forbidden("permission denied: the caller is not in the socket's group")
            return f"uid {peer_credentials(plain)[1]}"

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

    def malformed(self, status: int, message: str) -> Reply:
        """The answer to bytes that are no request."""
        return error_reply(status, message)


async def serve(engine: Engine, config: DaemonConfig, limits: Limits | None = None) -> Server:
    """Serve `engine` at every address of `config.listen`; raises classes of proa.errors.

    Nothing is left listening when one address fails.
    """
    tls = None
    if config.tls or config.tlsverify:
        tls = server_context(
            config.tlscert, config.tlskey, verify=config.tlsverify, authorities=config.tlscacert
        )
    server = Server(Service(engine, limits or Limits(), PeerPolicy(config.group)))
    try:
        for host in config.listen:
            if host.startswith("tcp://") and tls is None:
                log.warning("%s is served without TLS: whoever reaches it is root on this host", host)
            await server.listen(host, config.group, tls)
    except BaseException:
        await server.close()
        raise
    return server

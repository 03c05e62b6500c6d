"""POST /grpc and /session: where clients of BuildKit leave HTTP/1.1.

Source: the Docker Engine API v1.51, Session; moby daemon/server/router/grpc, daemon/server/router/session.
"""

from proa.api.hijack import Hijack
from proa.api.ports import Engine
from proa.api.responses import EMPTY, Response
from proa.api.routes import Route
from proa.http._request import Request


async def grpc(engine: Engine, request: Request) -> Response:
    """POST /grpc: the daemon serves."""
    await engine.buildkit.serve(request.headers, Hijack(request).detach)
    return EMPTY


async def session(engine: Engine, request: Request) -> Response:
    """POST /session: the client serves."""
    await engine.buildkit.session(request.headers, Hijack(request).detach)
    return EMPTY


ROUTES = (
    Route("POST", "/grpc", grpc, hijacks=True),
    Route("POST", "/session", session, hijacks=True),
)

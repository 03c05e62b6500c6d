"""The endpoints below /exec, and /containers/{id}/exec.

Source: the Docker Engine API v1.51; moby daemon/server/router/container/exec.go.
"""

from msgspec.structs import replace

from proa.api.bodies import Body
from proa.api.hijack import Hijack
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import EMPTY, Response, created_reply, json_reply
from proa.api.routes import Route
from proa.errors import InvalidParameter
from proa.http._request import Request
from proa.schema.exec import ExecCreateRequest, ExecStartRequest

_create_body = Body(ExecCreateRequest)
_start_body = Body(ExecStartRequest)


async def create(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/exec; with proa's own `start`, as if its start followed, on this connection."""
    body = _create_body.read(request)
    if not body.cmd:
        raise InvalidParameter("No exec command specified")
    if request.minor < 42:
        body = replace(body, console_size=None)
    created = await engine.execs.create(request.name, body)
    if not Query(request.query).flag("start"):
        return created_reply(created)
    start = ExecStartRequest(tty=body.tty, console_size=body.console_size if body.tty else None)
    await engine.execs.start(created.id, start, Hijack(request, f"/exec/{created.id}"))
    return EMPTY


async def start(engine: Engine, request: Request) -> Response:
    """POST /exec/{id}/start."""
    body = _start_body.read(request)
    if request.minor < 42 or not body.tty:
        body = replace(body, console_size=None)
    await engine.execs.start(request.name, body, None if body.detach else Hijack(request))
    return EMPTY


async def resize(engine: Engine, request: Request) -> Response:
    """POST /exec/{id}/resize."""
    query = Query(request.query)
    await engine.execs.resize(request.name, query.size("h", "height"), query.size("w", "width"))
    return EMPTY


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /exec/{id}/json; with proa's own `wait`, once it has ended."""
    wait = Query(request.query).flag("wait")
    return json_reply(await engine.execs.inspect(request.name, wait=wait))


ROUTES = (
    Route("POST", "/containers/{name}/exec", create, hijacks=True),
    Route("POST", "/exec/{name}/start", start, hijacks=True),
    Route("POST", "/exec/{name}/resize", resize),
    Route("GET", "/exec/{name}/json", inspect),
)

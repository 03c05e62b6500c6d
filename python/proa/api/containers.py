"""The endpoints below /containers.

Source: the Docker Engine API v1.51; moby daemon/server/router/container.
"""

from msgspec.structs import replace

from proa.api.bodies import Body
from proa.api.hijack import Hijack
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import (
    EMPTY,
    MULTIPLEXED_STREAM,
    NO_CONTENT,
    RAW_STREAM,
    Response,
    Stream,
    created_reply,
    json_reply,
)
from proa.api.routes import Route
from proa.api.streams import JSONLines, WhenDone
from proa.api.websocket import WebSocketHijack
from proa.errors import Conflict, InvalidParameter, NotFound
from proa.http._request import Request
from proa.schema.container import ContainerConfig, ContainerCreateRequest, ContainerUpdateRequest, HostConfig
from proa.schema.stream import AttachOptions, LogsOptions

WAIT_CONDITIONS = frozenset(("not-running", "next-exit", "removed"))

_create_body = Body(ContainerCreateRequest)
_update_body = Body(ContainerUpdateRequest)


async def create(engine: Engine, request: Request) -> Response:
    """POST /containers/create."""
    body = _create_body.read(request)
    if not (body.image or _says_anything(body)):
        raise InvalidParameter("config cannot be empty in order to create a container")
    if request.minor < 40:
        body = _for_old_clients(body)
    query = Query(request.query)
    return created_reply(
        await engine.containers.create(query.optional("name"), body, query.optional("platform"))
    )


def _says_anything(body: ContainerCreateRequest) -> bool:
    """Whether there is a member of the container's own configuration."""
    return any(getattr(body, name) for name in ContainerConfig.__struct_fields__)


def _for_old_clients(body: ContainerCreateRequest) -> ContainerCreateRequest:
    """Before API 1.40 an IPC namespace could be joined unless the request said otherwise."""
    host_config = body.host_config or HostConfig()
    if host_config.ipc_mode:
        return body
    return replace(body, host_config=replace(host_config, ipc_mode="shareable"))


async def start(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/start."""
    if len(request.body) > 7:
        raise InvalidParameter(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    await engine.containers.start(request.name, Query(request.query).text("detachKeys"))
    return NO_CONTENT


async def stop(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/stop."""
    query = Query(request.query)
    await engine.containers.stop(request.name, _stop_signal(request, query), query.number("t"))
    return NO_CONTENT


async def restart(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/restart."""
    query = Query(request.query)
    await engine.containers.restart(request.name, _stop_signal(request, query), query.number("t"))
    return NO_CONTENT


def _stop_signal(request: Request, query: Query) -> str | None:
    return query.optional("signal") if request.minor >= 42 else None


async def kill(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/kill."""
    try:
        await engine.containers.kill(request.name, Query(request.query).optional("signal"))
    except (NotFound, Conflict, InvalidParameter) as exc:
        raise type(exc)(f"cannot kill container: {request.name}: {exc}") from exc
    return NO_CONTENT


async def pause(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/pause."""
    await engine.containers.pause(request.name)
    return NO_CONTENT


async def unpause(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/unpause."""
    await engine.containers.unpause(request.name)
    return NO_CONTENT


async def rename(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/rename."""
    await engine.containers.rename(request.name, Query(request.query).text("name"))
    return NO_CONTENT


async def wait(engine: Engine, request: Request) -> Response:
    """The head goes out at once: it tells the client that the wait is registered."""
    condition = Query(request.query).text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    return Stream(WhenDone(await engine.containers.wait(request.name, condition)))


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /containers/{id}."""
    query = Query(request.query)
    await engine.containers.remove(
        request.name, volumes=query.flag("v"), force=query.flag("force"), link=query.flag("link")
    )
    return NO_CONTENT


async def list_(engine: Engine, request: Request) -> Response:
    """GET /containers/json."""
    query = Query(request.query)
    return json_reply(
        await engine.containers.list(
            all=query.flag("all"),
            limit=query.number("limit") or 0,
            size=query.flag("size"),
            filters=query.filters(),
        )
    )


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/json."""
    size = bool(request.query) and Query(request.query).flag("size")
    return json_reply(await engine.containers.inspect(request.name, size=size))


async def logs(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/logs."""
    query = Query(request.query)
    options = LogsOptions(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        follow=query.flag("follow"),
        since_ns=query.time_ns("since"),
        until_ns=query.time_ns("until"),
        timestamps=query.flag("timestamps"),
        details=query.flag("details"),
        tail=_tail(query.text("tail")),
    )
    if not (options.stdout or options.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    stream = await engine.containers.logs(request.name, options)
    multiplexed = not stream.tty and request.minor >= 42
    return Stream(stream.chunks, MULTIPLEXED_STREAM if multiplexed else RAW_STREAM)


def _tail(value: str) -> int:
    """Lines from the end; -1 for all, which dockerd also takes an unreadable number for."""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else -1


async def attach(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/attach."""
    await engine.containers.attach(request.name, _attach_options(request), Hijack(request))
    return EMPTY


async def attach_websocket(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/attach/ws."""
    await engine.containers.attach(request.name, _attach_options(request), WebSocketHijack(request))
    return EMPTY


def _attach_options(request: Request) -> AttachOptions:
    query = Query(request.query)
    return AttachOptions(
        stdin=query.flag("stdin"),
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        logs=query.flag("logs"),
        stream=query.flag("stream"),
        detach_keys=query.text("detachKeys"),
    )


async def resize(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/resize."""
    query = Query(request.query)
    await engine.containers.resize(request.name, query.size("h", "height"), query.size("w", "width"))
    return EMPTY


async def top(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/top."""
    ps_args = Query(request.query).text("ps_args") or "-ef"
    return json_reply(await engine.containers.top(request.name, ps_args))


async def stats(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/stats."""
    query = Query(request.query)
    stream = query.flag("stream", True)
    one_shot = request.minor >= 41 and query.flag("one-shot")
    samples = await engine.containers.stats(request.name, stream=stream, one_shot=one_shot)
    return Stream(JSONLines(samples))


async def update(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/update."""
    return json_reply(await engine.containers.update(request.name, _update_body.read(request)))


async def prune(engine: Engine, request: Request) -> Response:
    """POST /containers/prune."""
    return json_reply(await engine.containers.prune(Query(request.query).filters()))


ROUTES = (
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{name}/json", inspect),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/wait", wait),
    Route("DELETE", "/containers/{name}", remove),
    Route("GET", "/containers/{name}/logs", logs),
    Route("POST", "/containers/{name}/attach", attach, hijacks=True),
    Route("GET", "/containers/{name}/attach/ws", attach_websocket, hijacks=True),
    Route("POST", "/containers/{name}/resize", resize),
    Route("GET", "/containers/{name}/top", top),
    Route("GET", "/containers/{name}/stats", stats),
    Route("POST", "/containers/{name}/update", update),
)

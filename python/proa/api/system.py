"""The endpoints of the daemon itself, and those that this version answers for by refusing.

Source: the Docker Engine API v1.51; moby daemon/server/router/system, swarm.
"""

from msgspec import Struct, field

from proa.api import older
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import TEXT, Reply, Response, Stream, json_reply, response_head
from proa.api.routes import Route, refusal
from proa.api.streams import JSONLines
from proa.errors import InvalidParameter, NotImplemented_, Unavailable
from proa.http._request import Request
from proa.schema.system import EventActor, EventMessage

PING_HEADERS = (
    "Builder-Version: 1\r\n"
    "Cache-Control: no-cache, no-store, must-revalidate\r\n"
    "Pragma: no-cache\r\n"
    "Swarm: inactive\r\n"
)
_PONG = Reply(response_head(200, TEXT, PING_HEADERS), b"OK")
_PONG_HEAD = Reply(response_head(200, TEXT, PING_HEADERS), b"")


async def ping(engine: Engine, request: Request) -> Response:
    """GET /_ping."""
    return _PONG


async def ping_head(engine: Engine, request: Request) -> Response:
    """HEAD /_ping."""
    return _PONG_HEAD


async def version(engine: Engine, request: Request) -> Response:
    """GET /version."""
    return json_reply(await engine.system.version())


async def info(engine: Engine, request: Request) -> Response:
    """GET /info."""
    return json_reply(await engine.system.info())


async def disk_usage(engine: Engine, request: Request) -> Response:
    """GET /system/df."""
    found = await engine.system.disk_usage(Query(request.query).texts("type"))
    return json_reply(older.disk_usage(found, request.minor))


class LegacyEvent(Struct, omit_defaults=True):
    """An event with the members (status, id, from) that older clients read."""

    status: str = ""
    id: str = ""
    from_: str = field(name="from", default="")
    type: str = field(name="Type", default="")
    action: str = field(name="Action", default="")
    actor: EventActor | None = field(name="Actor", default=None)
    scope: str = ""
    time: int = 0
    time_nano: int = field(name="timeNano", default=0)


def with_legacy_members(message: EventMessage) -> LegacyEvent:
    """Container and image events say things twice in every API version up to 1.51."""
    actor = message.actor or EventActor()
    twice = message.type in ("container", "image")
    image = (actor.attributes or {}).get("image", "")
    return LegacyEvent(
        status=message.action if twice else "",
        id=actor.id if twice else "",
        from_=image if message.type == "container" else "",
        type=message.type,
        action=message.action,
        actor=actor,
        scope=message.scope,
        time=message.time,
        time_nano=message.time_nano,
    )


async def events(engine: Engine, request: Request) -> Response:
    """GET /events."""
    query = Query(request.query)
    since, until = query.time_ns("since"), query.time_ns("until")
    if until and until < since:
        raise InvalidParameter(
            f"`since` time ({query.text('since')}) cannot be after `until` time ({query.text('until')})"
        )
    messages = await engine.system.events(since, until, query.filters())
    return Stream(JSONLines(messages, with_legacy_members))


async def plugins(engine: Engine, request: Request) -> Response:
    """GET /plugins."""
    return json_reply([])


def _not_implemented(method: str, path: str) -> Route:
    """Known to Docker's clients, not offered here yet."""
    refuse = refusal(NotImplemented_(f"{method} {path} is not implemented by proa")).handler
    return Route(method, path, refuse)


NO_SWARM = refusal(
    Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
        "this node to swarm and try again."
    )
).handler

NOT_YET = (("POST", "/plugins/pull"),)

SWARM = (
    ("GET", "/swarm"),
    ("POST", "/swarm/leave"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{name}"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{name}"),
    ("GET", "/tasks"),
    ("GET", "/secrets"),
    ("GET", "/configs"),
)

ROUTES = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping_head),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/system/df", disk_usage),
    Route("GET", "/events", events),
    Route("GET", "/plugins", plugins),
    *(_not_implemented(method, path) for method, path in NOT_YET),
    *(Route(method, path, NO_SWARM) for method, path in SWARM),
)

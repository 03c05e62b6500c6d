"""The endpoints below /volumes.

Source: the Docker Engine API v1.51; moby daemon/server/router/volume.
"""

from proa.api.bodies import Body
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import NO_CONTENT, Response, created_reply, json_reply
from proa.api.routes import Route
from proa.errors import Unavailable
from proa.http._request import Request
from proa.schema.volume import VolumeCreateOptions

_create_body = Body(VolumeCreateOptions)


async def list_(engine: Engine, request: Request) -> Response:
    """GET /volumes."""
    return json_reply(await engine.volumes.list(Query(request.query).filters()))


async def create(engine: Engine, request: Request) -> Response:
    """POST /volumes/create."""
    return created_reply(await engine.volumes.create(_create_body.read(request)))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /volumes/{name}."""
    return json_reply(await engine.volumes.inspect(request.name))


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /volumes/{name}."""
    await engine.volumes.remove(request.name, force=Query(request.query).flag("force"))
    return NO_CONTENT


async def update(engine: Engine, request: Request) -> Response:
    """PUT /volumes/{name}: of cluster volumes, which there are none of."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def prune(engine: Engine, request: Request) -> Response:
    """POST /volumes/prune; before API 1.42 that meant the named ones, too."""
    filters = Query(request.query).filters()
    if request.minor < 42:
        filters = {**filters, "all": ["true"]}
    return json_reply(await engine.volumes.prune(filters))


ROUTES = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("PUT", "/volumes/{name}", update),
    Route("DELETE", "/volumes/{name}", remove),
)

"""The endpoints below /networks.

Source: the Docker Engine API v1.51; moby daemon/server/router/network.
"""

from proa.api.bodies import Body
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import EMPTY, NO_CONTENT, Response, created_reply, json_reply
from proa.api.routes import Route
from proa.http._request import Request
from proa.schema.network import NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest

_create_body = Body(NetworkCreateRequest)
_connect_body = Body(NetworkConnectRequest)
_disconnect_body = Body(NetworkDisconnectRequest)


async def list_(engine: Engine, request: Request) -> Response:
    """GET /networks."""
    return json_reply(await engine.networks.list(Query(request.query).filters()))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /networks/{id}."""
    query = Query(request.query)
    query.flag("verbose")  # tells of swarm's tasks, of which there are none
    return json_reply(await engine.networks.inspect(request.name, scope=query.text("scope")))


async def create(engine: Engine, request: Request) -> Response:
    """POST /networks/create."""
    return created_reply(await engine.networks.create(_create_body.read(request)))


async def connect(engine: Engine, request: Request) -> Response:
    """POST /networks/{id}/connect."""
    await engine.networks.connect(request.name, _connect_body.read(request))
    return EMPTY


async def disconnect(engine: Engine, request: Request) -> Response:
    """POST /networks/{id}/disconnect."""
    await engine.networks.disconnect(request.name, _disconnect_body.read(request))
    return EMPTY


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /networks/{id}."""
    await engine.networks.remove(request.name)
    return NO_CONTENT


async def prune(engine: Engine, request: Request) -> Response:
    """POST /networks/prune."""
    return json_reply(await engine.networks.prune(Query(request.query).filters()))


ROUTES = (
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{name}", inspect),
    Route("DELETE", "/networks/{name}", remove),
    Route("POST", "/networks/{name}/connect", connect),
    Route("POST", "/networks/{name}/disconnect", disconnect),
)

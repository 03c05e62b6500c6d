"""The endpoints below /networks so far: the predefined ones are listed and inspected.

Source: the Docker Engine API v1.51; moby daemon/server/router/network.
"""

from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import Response, json_reply
from proa.api.routes import Route
from proa.http._connection import Request


async def list_(engine: Engine, request: Request) -> Response:
    """GET /networks."""
    return json_reply(await engine.networks.list(Query(request.query).filters()))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /networks/{id}."""
    return json_reply(await engine.networks.inspect(request.name))


ROUTES = (
    Route("GET", "/networks", list_),
    Route("GET", "/networks/", list_),
    Route("GET", "/networks/{name}", inspect),
)

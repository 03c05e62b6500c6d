"""The endpoints that ask a registry: /auth, /images/search, /distribution.

/distribution/{name}/manifest is proa's own, for the CLI's `manifest` commands: Docker's CLI has a client of
registries in it for them, proa's asks the daemon, which has mirrors, certificates and proxies. GET is the
manifest or index as the registry has it; PUT stores one, with what it names mounted from the repository
`from`. `insecure=1` treats the registry as an insecure one for the request.

Source: the Docker Engine API v1.51; moby daemon/server/router/{system,image,distribution}.
"""

from proa.api.bodies import Body
from proa.api.credentials import credentials_of
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import Reply, Response, json_reply, response_head
from proa.api.routes import Route
from proa.errors import InvalidParameter
from proa.http._request import Request
from proa.schema.registry import Credentials

_auth_body = Body(Credentials)


async def auth(engine: Engine, request: Request) -> Response:
    """POST /auth."""
    return json_reply(await engine.registries.login(_auth_body.read(request)))


async def search(engine: Engine, request: Request) -> Response:
    """GET /images/search."""
    query = Query(request.query)
    term = query.text("term")
    if not term:
        raise InvalidParameter("missing search term")
    found = await engine.registries.search(
        term, query.number("limit") or 0, query.filters(), credentials_of(request)
    )
    return json_reply(found)


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /distribution/{name}/json."""
    insecure = Query(request.query).flag("insecure")
    return json_reply(
        await engine.registries.inspect(request.name, credentials_of(request), insecure=insecure)
    )


async def manifest(engine: Engine, request: Request) -> Response:
    """GET /distribution/{name}/manifest."""
    media_type, digest, data = await engine.registries.manifest(
        request.name, credentials_of(request), insecure=Query(request.query).flag("insecure")
    )
    return Reply(response_head(200, media_type, f"Docker-Content-Digest: {digest}\r\n"), data)


async def put_manifest(engine: Engine, request: Request) -> Response:
    """PUT /distribution/{name}/manifest."""
    query = Query(request.query)
    digest = await engine.registries.put_manifest(
        request.name,
        request.headers.get("content-type", ""),
        request.body,
        credentials_of(request),
        source=query.text("from"),
        insecure=query.flag("insecure"),
    )
    return json_reply({"Digest": digest})


ROUTES = (
    Route("POST", "/auth", auth),
    Route("GET", "/images/search", search),
    Route("GET", "/distribution/{name}/json", inspect),
    Route("GET", "/distribution/{name}/manifest", manifest),
    Route("PUT", "/distribution/{name}/manifest", put_manifest),
)

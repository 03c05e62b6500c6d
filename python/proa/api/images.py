"""The endpoints below /images.

Source: the Docker Engine API v1.51; moby daemon/server/router/image.
"""

import msgspec

from proa.api import older
from proa.api.credentials import credentials_of
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import CREATED, TAR, Response, Stream, json_reply
from proa.api.routes import Route
from proa.api.streams import Progress
from proa.errors import InvalidParameter
from proa.http._request import Request
from proa.schema.oci import Platform

_platform = msgspec.json.Decoder(Platform)


async def list_(engine: Engine, request: Request) -> Response:
    """GET /images/json."""
    query = Query(request.query)
    found = await engine.images.list(
        all=query.flag("all"),
        filters=query.filters(),
        digests=query.flag("digests"),
        shared_size=request.minor >= 42 and query.flag("shared-size"),
    )
    return json_reply(older.images(found, request.minor))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/json."""
    return json_reply(older.image(await engine.images.inspect(request.name), request.minor))


async def history(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/history."""
    return json_reply(await engine.images.history(request.name))


async def tag(engine: Engine, request: Request) -> Response:
    """POST /images/{name}/tag."""
    query = Query(request.query)
    await engine.images.tag(request.name, query.text("repo"), query.text("tag"))
    return CREATED


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /images/{name}."""
    query = Query(request.query)
    return json_reply(
        await engine.images.remove(request.name, force=query.flag("force"), prune=not query.flag("noprune"))
    )


async def load(engine: Engine, request: Request) -> Response:
    """POST /images/load."""
    quiet = Query(request.query).flag("quiet", True)
    return Stream(await Progress.start(engine.images.load(request.body, quiet=quiet)))


async def save_one(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/get."""
    return Stream(await engine.images.save([request.name]), TAR)


async def save(engine: Engine, request: Request) -> Response:
    """GET /images/get."""
    names = [name for value in Query(request.query).texts("names") for name in value.split(",") if name]
    if not names:
        raise InvalidParameter("no image name given")
    return Stream(await engine.images.save(names), TAR)


async def create(engine: Engine, request: Request) -> Response:
    """Pull (fromImage) or import (fromSrc)."""
    query = Query(request.query)
    platform = query.text("platform")
    if image := query.text("fromImage"):
        pulling = await engine.images.pull(
            image.removesuffix(":"), query.text("tag"), platform, credentials_of(request)
        )
        return Stream(await Progress.start(pulling))
    source = query.text("fromSrc")
    importing = engine.images.import_(
        request.body,
        url=_source_url(source),
        repo=query.text("repo"),
        tag=query.text("tag"),
        message=query.text("message") or f"Imported from {source}",
        changes=query.texts("changes"),
        platform=platform,
    )
    return Stream(await Progress.start(importing))


async def push(engine: Engine, request: Request) -> Response:
    """POST /images/{name}/push."""
    query = Query(request.query)
    pushing = await engine.images.push(
        request.name, query.text("tag"), platform_of(query.text("platform")), credentials_of(request)
    )
    return Stream(await Progress.start(pushing))


async def prune(engine: Engine, request: Request) -> Response:
    """POST /images/prune."""
    return json_reply(await engine.images.prune(Query(request.query).filters()))


def platform_of(text: str) -> str:
    """An OCI platform as JSON, as `os/architecture/variant`. Raises InvalidParameter."""
    if not text:
        return ""
    try:
        platform = _platform.decode(text)
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"failed to parse platform: {exc}") from exc
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _source_url(source: str) -> str:
    """Where an import comes from; empty for the request's body."""
    if source == "-":
        return ""
    return source if "://" in source else f"http://{source}"


ROUTES = (
    Route("GET", "/images/json", list_),
    Route("GET", "/images/get", save),
    Route("POST", "/images/load", load, streams_body=True),
    Route("POST", "/images/create", create, streams_body=True),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("GET", "/images/{name}/get", save_one),
    Route("POST", "/images/{name}/tag", tag),
    Route("POST", "/images/{name}/push", push),
    Route("DELETE", "/images/{name}", remove),
)

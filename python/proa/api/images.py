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
        manifests=request.minor >= 47 and query.flag("manifests"),
    )
    return json_reply(older.images(found, request.minor))


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/json."""
    query = Query(request.query)
    platform = _platform_since(49, request, query)
    manifests = request.minor >= 48 and query.flag("manifests")
    if platform and manifests:
        raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
    found = await engine.images.inspect(request.name, platform=platform, manifests=manifests)
    return json_reply(older.image(found, request.minor))


def _platform_since(minor: int, request: Request, query: Query, key: str = "platform") -> str:
    """The one platform that is asked for, by clients that know of it. Raises InvalidParameter."""
    texts = query.texts(key) if request.minor >= minor else []
    if len(texts) > 1:
        raise InvalidParameter("multiple platforms are not supported")
    return platform_of(texts[0]) if texts else ""


async def history(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/history."""
    platform = _platform_since(48, request, Query(request.query))
    return json_reply(await engine.images.history(request.name, platform=platform))


async def tag(engine: Engine, request: Request) -> Response:
    """POST /images/{name}/tag."""
    query = Query(request.query)
    await engine.images.tag(request.name, query.text("repo"), query.text("tag"))
    return CREATED


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /images/{name}."""
    query = Query(request.query)
    removed = await engine.images.remove(
        request.name,
        force=query.flag("force"),
        prune=not query.flag("noprune"),
        platform=_platform_since(50, request, query, "platforms"),
    )
    return json_reply(removed)


async def load(engine: Engine, request: Request) -> Response:
    """POST /images/load."""
    query = Query(request.query)
    platform = _platform_since(48, request, query)
    loading = engine.images.load(request.body, quiet=query.flag("quiet", True), platform=platform)
    return Stream(await Progress.start(loading))


async def save_one(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/get."""
    platform = _platform_since(48, request, Query(request.query))
    return Stream(await engine.images.save([request.name], platform=platform), TAR)


async def save(engine: Engine, request: Request) -> Response:
    """GET /images/get."""
    query = Query(request.query)
    names = [name for value in query.texts("names") for name in value.split(",") if name]
    if not names:
        raise InvalidParameter("no image name given")
    platform = _platform_since(48, request, query)
    return Stream(await engine.images.save(names, platform=platform), TAR)


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
    if not platform.os or not platform.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
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

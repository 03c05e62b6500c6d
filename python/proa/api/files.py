"""The endpoints of a container's files: changes, export and archive below /containers, and POST /commit.

Source: the Docker Engine API v1.51; moby daemon/server/router/container/copy.go.
"""

from base64 import b64encode

import msgspec

from proa.api.bodies import Body
from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import (
    EMPTY,
    JSON,
    TAR,
    Reply,
    Response,
    Stream,
    created_reply,
    json_reply,
    response_head,
)
from proa.api.routes import Route
from proa.errors import InvalidParameter
from proa.http._request import Request
from proa.schema.archive import PathStat
from proa.schema.container import ContainerConfig

_config_body = Body(ContainerConfig)


async def changes(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/changes."""
    return json_reply(await engine.files.changes(request.name))


async def export(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/export; with our own `image`, of what its image has."""
    image = Query(request.query).flag("image")
    return Stream(await engine.files.export(request.name, image=image), "application/octet-stream")


async def stat(engine: Engine, request: Request) -> Response:
    """HEAD /containers/{id}/archive."""
    found = await engine.files.stat(request.name, _path(request))
    return Reply(response_head(200, JSON) + _stat_header(found), b"")


async def archive(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/archive."""
    found, chunks = await engine.files.archive(request.name, _path(request))
    answer = Stream(chunks, TAR)
    answer.head += _stat_header(found)
    return answer


async def extract(engine: Engine, request: Request) -> Response:
    """PUT /containers/{id}/archive."""
    query = Query(request.query)
    await engine.files.extract(
        request.name,
        _path(request),
        request.body,
        keep_kinds=query.flag("noOverwriteDirNonDir"),
        copy_owner=query.flag("copyUIDGID"),
    )
    return EMPTY


async def commit(engine: Engine, request: Request) -> Response:
    """POST /commit."""
    query = Query(request.query)
    asked = _config_body.read(request) if request.body.strip() not in (b"", b"null") else None
    return created_reply(
        await engine.commits.commit(
            query.text("container"),
            asked,
            repo=query.text("repo"),
            tag=query.text("tag"),
            author=query.text("author"),
            comment=query.text("comment"),
            changes=query.texts("changes"),
            pause=query.flag("pause", True),
        )
    )


def _path(request: Request) -> str:
    path = Query(request.query).text("path")
    if not path:
        raise InvalidParameter("bad parameter: path is required")
    return path


def _stat_header(found: PathStat) -> bytes:
    return b"X-Docker-Container-Path-Stat: %s\r\n" % b64encode(msgspec.json.encode(found))


ROUTES = (
    Route("GET", "/containers/{name}/changes", changes),
    Route("GET", "/containers/{name}/export", export),
    Route("HEAD", "/containers/{name}/archive", stat),
    Route("GET", "/containers/{name}/archive", archive),
    Route("PUT", "/containers/{name}/archive", extract, streams_body=True),
    Route("POST", "/commit", commit),
)

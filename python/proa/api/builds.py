"""POST /build and /build/prune.

The classic endpoint, as the docker CLI without BuildKit, docker-py and Compose's classic path use it: the
body is the context, a tar. A JSON body of type application/vnd.proa.build.v1+json is proa's own: the context
is a directory of this host. Where such a client sends a tar all the same, X-Proa-Build has that JSON.

Source: the Docker Engine API v1.51, ImageBuild, BuildPrune; moby daemon/server/router/build/build_routes.go.
"""

import base64
import binascii
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from proa.api.ports import Engine
from proa.api.query import Query
from proa.api.responses import Response, Stream, json_reply
from proa.api.routes import Route
from proa.api.streams import Progress
from proa.errors import InvalidParameter, NotImplemented_
from proa.http._request import Request
from proa.schema.build import BuildOptions, ProaBuild
from proa.schema.container import Ulimit
from proa.schema.registry import Credentials

PROA_BUILD = "application/vnd.proa.build.v1+json"
_T = TypeVar("_T")

LIMIT = 8 << 20
"""Bytes of proa's own body: Dockerfile and secrets."""

_arguments = msgspec.json.Decoder(dict[str, str | None])
_labels = msgspec.json.Decoder(dict[str, str])
_names: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_ulimits: msgspec.json.Decoder[list[Ulimit]] = msgspec.json.Decoder(list[Ulimit])
_logins = msgspec.json.Decoder(dict[str, Credentials])
_local = msgspec.json.Decoder(ProaBuild)


async def build(engine: Engine, request: Request) -> Response:
    """POST /build."""
    query = Query(request.query)
    local = await _own(request)
    options = _options(query, local)
    building = await engine.builds.build(options, request.body, _credentials(request))
    return Stream(await Progress.start(building))


async def prune(engine: Engine, request: Request) -> Response:
    """POST /build/prune."""
    query = Query(request.query)
    report = await engine.builds.prune(
        all=query.flag("all"),
        filters=query.filters(),
        keep_bytes=query.number("reserved-space") or query.number("keep-storage") or 0,
        max_used=query.number("max-used-space") or 0,
        min_free=query.number("min-free-space") or 0,
    )
    return json_reply(report)


async def _own(request: Request) -> ProaBuild | None:
    """What proa's own client says: in the body, or in a header where a tar is the body."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != PROA_BUILD:
        described = _from_base64url(request, "x-proa-build")
        return _described(described) if described else None
    data = bytearray()
    body: AsyncIterator[bytes] = request.body
    async for chunk in body:
        data += chunk
        if len(data) > LIMIT:
            raise InvalidParameter("the build's description is too large")
    return _described(data)


def _described(data: bytes | bytearray) -> ProaBuild:
    try:
        return _local.decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"invalid JSON: {exc}") from exc


def _options(query: Query, local: ProaBuild | None) -> BuildOptions:
    if query.text("version") == "2" and local is None:
        raise NotImplemented_("BuildKit is not supported: set DOCKER_BUILDKIT=0, or use proa build")
    if query.flag("squash"):
        raise NotImplemented_("squash is not supported")
    return BuildOptions(
        local=local or ProaBuild(),
        events=local is not None,
        dockerfile=query.text("dockerfile") or "Dockerfile",
        remote=query.text("remote"),
        tags=tuple(query.texts("t")),
        quiet=query.flag("q"),
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        target=query.text("target"),
        platform=query.text("platform"),
        arguments={
            name: value
            for name, value in _decoded(query, "buildargs", _arguments, {}).items()
            if value is not None
        },
        labels=_decoded(query, "labels", _labels, {}),
        cache_from=tuple(_cache_from(query)),
        network_mode=query.text("networkmode") or "default",
        extra_hosts=_hosts(query),
        cgroup_parent=query.text("cgroupparent"),
        shm_size=query.number("shmsize") or 0,
        ulimits=tuple(_ulimits_of(query)),
        memory=query.number("memory") or 0,
        memory_swap=query.number("memswap") or 0,
        cpu_shares=query.number("cpushares") or 0,
        cpu_period=query.number("cpuperiod") or 0,
        cpu_quota=query.number("cpuquota") or 0,
        cpuset_cpus=query.text("cpusetcpus"),
        cpuset_mems=query.text("cpusetmems"),
    )


def _ulimits_of(query: Query) -> list[Ulimit]:
    return _decoded(query, "ulimits", _ulimits, [])


def _cache_from(query: Query) -> list[str]:
    return _decoded(query, "cachefrom", _names, [])


def _hosts(query: Query) -> tuple[str, ...]:
    return tuple(host for text in query.texts("extrahosts") for host in text.split(",") if host)


def _decoded(query: Query, key: str, decoder: "msgspec.json.Decoder[_T]", default: _T) -> _T:
    text = query.text(key)
    if not text or text == "null":
        return default
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"invalid {key}: {exc}") from exc


def _credentials(request: Request) -> dict[str, Credentials]:
    """X-Registry-Config: logins by registry; docker.io's key is its old address."""
    data = _from_base64url(request, "x-registry-config")
    try:
        found = _logins.decode(data) if data.strip() not in (b"", b"null") else {}
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"invalid X-Registry-Config header: {exc}") from None
    return {_domain(address): login for address, login in found.items()}


def _from_base64url(request: Request, name: str) -> bytes:
    text = request.headers.get(name, "").strip().rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise InvalidParameter(f"invalid {name} header: {exc}") from None


def _domain(address: str) -> str:
    domain = address.partition("://")[2] or address
    domain = domain.partition("/")[0]
    return "docker.io" if domain == "index.docker.io" else domain


ROUTES = (
    Route("POST", "/build", build, streams_body=True),
    Route("POST", "/build/prune", prune),
)

"""Requests that read: manifests, blobs, lists."""

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Protocol
from urllib.parse import quote

from proa.distribution import replies
from proa.distribution.blobs import FileBody, wanted
from proa.distribution.failures import Code, Refusal
from proa.distribution.manifests import Referrers
from proa.distribution.paths import Call, Query
from proa.distribution.replies import Reply, Response, Stream
from proa.distribution.repositories import Link, Repositories, Stored
from proa.distribution.store import Store
from proa.http._request import Request
from proa.schema.oci import Descriptor

PAGE = 100
PAGE_MAX = 10_000
REFERRERS_PAGE = 1_000
SMALL = 64 * 1024
"""Bytes up to which a blob goes out in one piece with its head."""


class Download(Protocol):
    """A blob that is still on its way here: as a body, and its size."""

    @property
    def size(self) -> int: ...
    def body(self, offset: int, length: int) -> object: ...


class Source(Protocol):
    """Where manifests and blobs come from: the registry's own, or an upstream behind it.

    Raises Refusal for what is not there.
    """

    async def manifest(self, repository: str, reference: str) -> Stored: ...
    async def blob(self, repository: str, digest: str) -> "Link | Download": ...
    async def tags(self, repository: str, after: str, count: int) -> list[str]: ...
    async def referrers(
        self, repository: str, subject: str, artifact_type: str, after: str, count: int
    ) -> list[Descriptor]: ...


class Own:
    """The registry's own."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories

    async def manifest(self, repository: str, reference: str) -> Stored:
        """By tag or digest."""
        return self._repositories.manifest(repository, reference)

    async def blob(self, repository: str, digest: str) -> Link:
        """By digest, where the repository has it."""
        return self._repositories.blob(repository, digest)

    async def tags(self, repository: str, after: str, count: int) -> list[str]:
        """Sorted, from `after` on."""
        return self._repositories.tags(repository, after, count)

    async def referrers(
        self, repository: str, subject: str, artifact_type: str, after: str, count: int
    ) -> list[Descriptor]:
        """Sorted by digest, from `after` on."""
        return self._repositories.referrers(repository, subject, artifact_type, after, count)


class Pulls:
    """The handlers, by what is asked for."""

    def __init__(self, store: Store, source: Source, executor: Executor) -> None:
        self._store = store
        self._source = source
        self._executor = executor

    async def base(self, call: Call, request: Request) -> Response:
        """Whether there is a registry, and whether the client may use it."""
        return replies.document({})

    async def catalog(self, call: Call, request: Request) -> Response:
        """Every repository, by pages, as Docker's registry lists them."""
        query = Query(request.query)
        count = query.count(PAGE, PAGE_MAX)
        found = self._store.repositories.names(query.get("last"), count + 1)
        shown = found[:count]
        return replies.document(
            {"repositories": shown}, replies.page("/v2/_catalog", shown, count, len(found) > count)
        )

    async def tags(self, call: Call, request: Request) -> Response:
        """A repository's tags, by pages where the client asks for them."""
        query = Query(request.query)
        count = query.count(PAGE_MAX, PAGE_MAX)
        found = await self._source.tags(call.repository, query.get("last"), count + 1)
        shown = found[:count]
        path = f"/v2/{call.repository}/tags/list"
        return replies.document(
            {"name": call.repository, "tags": shown}, replies.page(path, shown, count, len(found) > count)
        )

    async def referrers(self, call: Call, request: Request) -> Response:
        """What has this manifest as its subject; nothing is an answer, too."""
        query = Query(request.query)
        kind = query.get("artifactType")
        found = await self._source.referrers(
            call.repository, call.reference, kind, query.get("last"), REFERRERS_PAGE + 1
        )
        shown = found[:REFERRERS_PAGE]
        headers: dict[str, str] = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        if len(found) > len(shown):
            path = f"/v2/{call.repository}/referrers/{call.reference}"
            headers["Link"] = (
                f'<{path}?last={shown[-1].digest}&artifactType={quote(kind, safe="")}>; rel="next"'
            )
        answer = Referrers(manifests=shown)
        return replies.document(answer, headers, answer.media_type)

    async def manifest(self, call: Call, request: Request) -> Response:
        """A manifest as it came."""
        stored = await self._source.manifest(call.repository, call.reference)
        headers = {
            "Content-Type": stored.media_type,
            "Docker-Content-Digest": stored.digest,
            "ETag": f'"{stored.digest}"',
        }
        if matches(request.headers.get("if-none-match"), stored.digest):
            return replies.empty(304, headers)
        return Reply(replies.head(200, headers), stored.data)

    async def blob(self, call: Call, request: Request) -> Response:
        """A blob, or a range of it."""
        found = await self._source.blob(call.repository, call.reference)
        headers: dict[str, object] = {
            "Content-Type": replies.OCTETS,
            "Docker-Content-Digest": call.reference,
            "ETag": f'"{call.reference}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=31536000",
        }
        if matches(request.headers.get("if-none-match"), call.reference):
            return replies.empty(304, headers)
        if request.method == "HEAD":
            self._store.repositories.touch(call.repository, call.reference)
            return replies.empty(200, {**headers, "Content-Length": found.size})
        part = wanted(asked_range(request.headers, call.reference), found.size)
        offset, length = part or (0, found.size)
        if part:
            headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{found.size}"
        head = replies.head(206 if part else 200, headers)
        if not isinstance(found, Link):
            return Stream(head, found.body(offset, length), length)
        return await self._send(found, head, offset, length)

    async def _send(self, link: Link, head: bytes, offset: int, length: int) -> Response:
        try:
            fd = self._store.open(link)
        except FileNotFoundError as exc:
            raise Refusal(Code.BLOB_UNKNOWN, f"blob unknown to registry: {link.blob}") from exc
        if length > SMALL:
            return Stream(head, FileBody(fd, offset, length, self._executor), length)
        try:
            return Reply(head, await self._store.uploads.run(os.pread, fd, length, offset))
        finally:
            os.close(fd)


def matches(header: str | None, digest: str) -> bool:
    """Whether If-None-Match has the digest. Source: RFC 9110, 13.1.2."""
    if not header:
        return False
    return any(tag.strip().removeprefix("W/").strip('"') in (digest, "*") for tag in header.split(","))


def asked_range(headers: Mapping[str, str], digest: str) -> str | None:
    """The Range header, where If-Range allows it."""
    condition = headers.get("if-range")
    return headers.get("range") if condition in (None, f'"{digest}"') else None

"""A pull-through cache: what is not here comes from an upstream, once, and stays.

A tag is asked about at the upstream when it has not been for TTL_SECONDS, by a request without a body; what
is asked for by digest is never asked about again. Where the upstream cannot be reached, what is here is
served as it is. Requests for one thing that is on its way share one transfer (downloads.py).

A repository has what its upstream says it has: a blob that another repository brought is linked only after
the upstream was asked.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from proa.distribution.downloads import Download, Downloads, Upstream
from proa.distribution.failures import Code, Refusal
from proa.distribution.manifests import parse
from proa.distribution.names import is_digest
from proa.distribution.repositories import Link, Stored
from proa.distribution.store import Store
from proa.errors import Forbidden, NotFound, System, Unauthorized, Unavailable
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest, Reference, parse_digest
from proa.schema.registry import Credentials

log = logging.getLogger(__name__)

TTL_SECONDS: Final = 60.0
"""How long a tag is believed."""
REMEMBERED: Final = 10_000

ABSENT: Final = (NotFound, Unauthorized, Forbidden)
"""The upstream's ways to say that there is no such thing."""


class Tags(Protocol):
    """The upstream's lists, beside what Downloads needs of it."""

    async def tags(self, ref: Reference, credentials: Credentials | None = None) -> list[str]: ...
    async def referrers(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None, artifact_type: str = ""
    ) -> list[Descriptor]: ...


class FullUpstream(Upstream, Tags, Protocol):
    """A registry as its client sees it."""


class Cache:
    """The source of manifests and blobs in front of an upstream; implements pulls.Source."""

    def __init__(
        self,
        upstream: FullUpstream,
        domain: str,
        credentials: Credentials | None,
        store: Store,
        downloads: Downloads,
        *,
        ttl: float = TTL_SECONDS,
    ) -> None:
        """`domain` is the upstream's, as references name it."""
        self._upstream = upstream
        self._domain = domain
        self._credentials = credentials
        self._store = store
        self._repositories = store.repositories
        self._downloads = downloads
        self._ttl = ttl
        self._fresh: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._under_way: dict[tuple[str, str], asyncio.Task[Stored]] = {}

    async def manifest(self, repository: str, reference: str) -> Stored:
        """By tag or digest."""
        local = self._repositories.find_manifest(repository, reference)
        key = (repository, reference)
        if local is not None and (is_digest(reference) or time.monotonic() < self._fresh.get(key, 0.0)):
            return local
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = spawn(self._ask(repository, reference, local))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def blob(self, repository: str, digest: str) -> Link | Download:
        """What is here, or a download that begins when it is read."""
        link = self._repositories.find_blob(repository, digest)
        if link is not None and self._store.has(link.blob):
            return link
        size = self._repositories.member_size(repository, digest)
        if size is None or not digest.startswith("sha256:"):
            raise unknown_blob(digest)
        blob = parse_digest(digest)
        reference = Reference(self._domain, repository, digest=digest)
        if self._store.has(blob):
            if not await self._upstream.has_blob(reference, blob, self._credentials):
                raise unknown_blob(digest)
            self._repositories.link(repository, digest, blob, size)
            return Link(blob, size)
        return self._downloads.find(reference, blob, size)

    async def tags(self, repository: str, after: str, count: int) -> list[str]:
        """The upstream's, or those that are here while it cannot be reached."""
        try:
            found = await self._upstream.tags(Reference(self._domain, repository), self._credentials)
        except ABSENT as error:
            raise Refusal(Code.NAME_UNKNOWN, str(error)) from error
        except (Unavailable, System):
            return self._repositories.tags(repository, after, count)
        return sorted(tag for tag in found if tag > after)[:count]

    async def referrers(
        self, repository: str, subject: str, artifact_type: str, after: str, count: int
    ) -> list[Descriptor]:
        """The upstream's, or those that are here while it cannot be reached."""
        try:
            found = await self._upstream.referrers(
                Reference(self._domain, repository), Digest(subject), self._credentials, artifact_type
            )
        except (*ABSENT, Unavailable, System):
            return self._repositories.referrers(repository, subject, artifact_type, after, count)
        later = [one for one in found if one.digest > after]
        return sorted(later, key=lambda one: one.digest)[:count]

    async def _ask(self, repository: str, reference: str, local: Stored | None) -> Stored:
        ref = (
            Reference(self._domain, repository, digest=reference)
            if is_digest(reference)
            else Reference(self._domain, repository, reference)
        )
        try:
            if local is not None:
                there = await self._upstream.head(ref, self._credentials)
                if there is None:
                    raise NotFound(f"manifest unknown: {reference}")
                if there.digest == local.digest:
                    self._believe(repository, reference)
                    return local
            found = await self._upstream.resolve(ref, self._credentials)
        except ABSENT as error:
            if local is not None:
                self._repositories.delete(repository, reference)
            raise Refusal(Code.MANIFEST_UNKNOWN, str(error)) from error
        except (Unavailable, System) as error:
            if local is None:
                raise
            log.warning("%s:%s is served as it is: %s", repository, reference, error)
            self._believe(repository, reference)
            return local
        parsed = parse(found.data, found.descriptor.media_type)
        stored = Stored(str(found.digest), parsed.media_type, found.data)
        tags = [] if is_digest(reference) else [reference]
        self._repositories.put(repository, stored, parsed, tags, complete=False)
        self._believe(repository, reference)
        return stored

    def _believe(self, repository: str, reference: str) -> None:
        self._fresh[repository, reference] = time.monotonic() + self._ttl
        self._fresh.move_to_end((repository, reference))
        while len(self._fresh) > REMEMBERED:
            self._fresh.popitem(last=False)


def unknown_blob(digest: str) -> Refusal:
    """As the registry itself says it."""
    return Refusal(Code.BLOB_UNKNOWN, f"blob unknown to registry: {digest}")


def spawn(work: Coroutine[Any, Any, Stored]) -> "asyncio.Task[Stored]":
    """A task whose failure is seen even where every client that waited for it is gone."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task

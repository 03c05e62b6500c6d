"""docker pull: from a reference to an image that is known whole, or to nothing but partial blobs.

    resolve -> index? choose -> manifest -> config     -> commit: layers, image, names in one transaction
                                        `-> layers (fetching), each once for all pulls

What is known to be here is not asked for: an image by its config's digest, layers by the chain they are in.
A tag that is here already costs one HEAD.

Source: moby distribution/pull.go and pull_v2.go (the flow and the words).
"""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Final

import msgspec

from proa.engine.images.fetching import Fetches
from proa.engine.images.progress import Progress, streamed
from proa.engine.images.records import host_architecture
from proa.engine.images.store import ImageStore
from proa.engine.images.transfer import Registry, Request, Transfer
from proa.engine.platforms import check_platform, choose, parse_platform, suits
from proa.engine.ports import EventSink
from proa.errors import Forbidden, NotFound
from proa.registry import Manifest as Found
from proa.schema.oci import Index
from proa.schema.reference import Digest, Reference
from proa.schema.registry import Credentials

_SCRATCH: Final = "scratch"
"""What builds begin with that begin with nothing."""


class Puller:
    """Pulls images into the store."""

    def __init__(
        self,
        store: ImageStore,
        registry: Registry,
        events: EventSink,
        executor: Executor | None,
        collect: Callable[[], None],
        *,
        downloads: int,
        attempts: int,
    ) -> None:
        """`collect` has what no image needs removed: what was leased could not be."""
        self._collect = collect
        self._store = store
        self._registry = registry
        self._events = events
        self._executor = executor
        self._fetches = Fetches(store, downloads=downloads, attempts=attempts)

    def close(self) -> None:
        """Let the threads go; every pull has ended."""
        self._fetches.close()

    def pull(
        self, reference: Reference, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; without tag and digest, every tag of the repository.

        Raises classes of proa.errors, before the first line where nothing was found.
        """
        parse_platform(platform, host_architecture())
        if reference.familiar_name == _SCRATCH:
            raise Forbidden(f"'{_SCRATCH}' is a reserved name")
        return streamed(partial(self._pull, Request(reference, platform, credentials)))

    async def _pull(self, request: Request, progress: Progress) -> None:
        reference, newer = request.reference, False
        if reference.tag or reference.digest:
            newer = await self._one(request, progress)
        else:
            for tag in await self._registry.tags(reference, request.credentials):
                one = Reference(reference.domain, reference.path, tag)
                newer |= await self._one(msgspec.structs.replace(request, reference=one), progress)
        status = "Downloaded newer image for" if newer else "Image is up to date for"
        progress.message(f"Status: {status} {reference.familiar}")
        self._warn_of_platform(request, progress)
        self._events.emit("image", "pull", reference.familiar, {"name": reference.familiar_name})

    async def _one(self, request: Request, progress: Progress) -> bool:
        """Whether anything is new here: the image, or what its name means."""
        reference = request.reference
        known = await self._unchanged(request)
        if known is not None:
            progress.message(f"Pulling from {reference.path}", request.shown)
            progress.message(f"Digest: {known}")
            return False
        top = await self._registry.resolve(reference, request.credentials)
        progress.message(f"Pulling from {reference.path}", request.shown)
        found = await self._choose(request, top)
        names = [Reference(reference.domain, reference.path, "", top.digest)]
        if not reference.digest:
            names.append(Reference(reference.domain, reference.path, reference.tag))
        before = self._store.named(names[-1])
        transfer = Transfer(self._store, self._registry, self._fetches, self._executor, request, progress)
        try:
            record = await transfer.run(found, names)
        finally:
            self._collect()
        progress.message(f"Digest: {top.digest}")
        return before is None or before.id != record.id

    async def _unchanged(self, request: Request) -> str | None:
        """The digest of a tag that is here and means what it did; asked without fetching anything."""
        reference = request.reference
        if reference.digest or (known := self._store.named(reference)) is None:
            return None
        architecture, variant, os = parse_platform(request.platform, host_architecture())
        if not suits(known, os, architecture, variant):
            return None
        self._store.usage.touch(known.id)
        with self._store.usage.lent([known.id]):
            descriptor = await self._registry.head(reference, request.credentials)
        if descriptor is None or not descriptor.digest:
            return None
        there = self._store.named(Reference(reference.domain, reference.path, "", descriptor.digest))
        return descriptor.digest if there is known else None

    async def _choose(self, request: Request, found: Found) -> Found:
        """The manifest itself; of an index, the one for the platform asked for or the host's."""
        if not isinstance(found.content, Index):
            return found
        architecture, variant, os = parse_platform(request.platform, host_architecture())
        child = choose(found.content.manifests, os, architecture, variant)
        return await self._registry.manifest(request.reference, Digest(child.digest), request.credentials)

    def _warn_of_platform(self, request: Request, progress: Progress) -> None:
        """An image of one platform has no other; it was asked for by name, so it is kept."""
        record = self._store.named(request.reference)
        if not request.platform or record is None:
            return
        try:
            check_platform(record, request.reference.familiar, request.platform)
        except NotFound as exc:
            progress.message(f"WARNING: {exc}")

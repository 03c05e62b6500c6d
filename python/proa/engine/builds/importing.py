"""`--cache-from`: steps that were done elsewhere, by the same keys; their layers come when they are wanted.

What a cache offers is read before the build; asked for a step, the whole stack below it is fetched at once. A
cache that cannot be read, or a layer that is not what it should be, is told and costs the step's own work.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from proa.build.cache import Cache, Identity
from proa.build.solver import chain as chain_over
from proa.engine.builds.linking import link_layer
from proa.engine.builds.places import Place
from proa.engine.builds.records import Blob, Offer, read_config, read_inline
from proa.engine.images.intake import Intake, Unpacked, inherit, unpack_from
from proa.engine.images.records import ImageRecord, chain_ids, decode_image_file
from proa.engine.images.store import ImageStore
from proa.engine.platforms import choose
from proa.errors import InvalidParameter, ProaError
from proa.schema.build_cache import CACHE_CONFIG, INLINE
from proa.schema.oci import Descriptor, Index, Platform
from proa.schema.reference import parse_digest

_DOWNLOADS: Final = 3

Warn = Callable[[str], None]


async def read_offers(place: Place, platform: Platform) -> dict[str, Offer]:
    """What a cache or an image with one in it has, by key. Raises classes of proa.errors."""
    content = await place.top()
    if isinstance(content, Index):
        listed = content.manifests
        config = next((each for each in listed if each.media_type == CACHE_CONFIG), None)
        if config is not None:
            return read_config(await place.small(config), {each.digest: each for each in listed})
        child = choose(listed, platform.os, platform.architecture, platform.variant)
        content = await place.manifest(child)
        if isinstance(content, Index):
            raise InvalidParameter("an index of indexes has no cache")
    data = await place.small(content.config)
    if content.config.media_type == CACHE_CONFIG:
        return read_config(data, {layer.digest: layer for layer in content.layers})
    return _inline(data, content.layers)


def offers_of_image(record: ImageRecord) -> dict[str, Offer]:
    """What an image of the store has in it; its layers are here."""
    layers = [Descriptor(digest=layer.digest) for layer in record.content]
    return _inline(record.config_blob, layers)


def _inline(config: bytes, layers: Sequence[Descriptor]) -> dict[str, Offer]:
    file = decode_image_file(config)
    text = msgspec.json.decode(config).get(INLINE)
    diff_ids = list((file.rootfs.diff_ids if file.rootfs else None) or ())
    if not isinstance(text, str) or len(diff_ids) != len(layers):
        return {}
    blobs = [Blob(layer, parse_digest(text)) for layer, text in zip(layers, diff_ids, strict=True)]
    return read_inline(text, blobs)


class CacheImports:
    """What one build may take over, around its downloads. Implements solver.Imports."""

    def __init__(self, store: ImageStore, cache: Cache, executor: Executor | None, warn: Warn) -> None:
        self._store = store
        self._cache = cache
        self._executor = executor
        self._warn = warn
        self._offers: dict[str, tuple[Offer, Place | None]] = {}
        self._claims: dict[int, Offer] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._one = asyncio.Lock()
        self._slots = asyncio.Semaphore(_DOWNLOADS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = tuple(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, offers: Mapping[str, Offer], place: Place | None) -> None:
        """A cache's offers; without a place the layers are here. The first that has a step gives it."""
        for key, offer in offers.items():
            self._offers.setdefault(key, (offer, place))

    def claim(self, claims: Mapping[int, Offer]) -> None:
        """Steps by vertex, whose layers are here; see history.py."""
        self._claims.update(claims)

    def offers(self, vertex: int, identity: Identity) -> bool:
        """Whether a step may be had; its layers are on their way then."""
        if vertex in self._claims:
            return True
        found = self._offers.get(identity.key)
        if found is None:
            return False
        if identity.key not in self._fetching:
            self._fetching[identity.key] = asyncio.ensure_future(self._fetch(*found))
        return True

    async def take(self, vertex: int, identity: Identity, description: str) -> bool:
        """Put an offered step into the cache; False where it could not be had after all."""
        offer = self._claims.get(vertex)
        if offer is None:
            offer, _ = self._offers[identity.key]
            try:
                await asyncio.shield(self._fetching[identity.key])
            except ProaError as exc:
                self._warn(f"cache of {description}: {exc}")
                return False
        diff_ids = [blob.diff_id for blob in offer.blobs]
        self._cache.record(identity, chain_ids(diff_ids)[-1], diff_ids[-1], description, offer.created_ns)
        return True

    # ---- layers ---------------------------------------------------------------------------------

    async def _fetch(self, offer: Offer, place: Place | None) -> None:
        """Have every layer of a stack. Raises classes of proa.errors."""
        chain = chain_ids(blob.diff_id for blob in offer.blobs)
        async with self._one, AsyncExitStack() as stack:
            there = 0
            while there < len(chain) and self._store.snapshots.find(chain[there]) is not None:
                there += 1
            missing = offer.blobs[there:]
            if not missing:
                return
            if place is None:
                await self._alone(offer, chain[-1])
                return
            lease = stack.enter_context(self._store.lease())
            lease.chain_ids.update(chain)
            intake = await stack.enter_async_context(Intake(self._store, self._executor, leased=True))
            below = chain[there - 1] if there else ""
            tasks = [asyncio.ensure_future(self._layer(intake, blob, place, stack)) for blob in missing]
            stack.push_async_callback(_stop, tasks)
            for layer in await asyncio.gather(*tasks):
                lease.blobs.add(layer.digest)
                below = await self._commit(intake, layer, below)

    async def _alone(self, offer: Offer, chain_id: str) -> None:
        """A layer of an image here that stands on others there, by itself. Raises InvalidParameter."""
        store = self._store
        (blob, *others) = offer.blobs
        rows = store.database.query(
            "SELECT chain_id FROM image_layers WHERE diff_id = ? LIMIT 1", (blob.diff_id,)
        )
        layer = store.snapshots.find(rows[0][0]) if rows else None
        if layer is None or others:
            raise InvalidParameter("its layers are gone")
        async with AsyncExitStack() as stack:
            draft = store.snapshots.draft()
            stack.push_async_callback(self._discard, draft)
            source = store.snapshots.lower(layer.chain_id)[0]
            linking = asyncio.get_running_loop().run_in_executor(
                self._executor, link_layer, source, (), str(draft)
            )
            stack.push_async_callback(asyncio.wait, (linking,))
            await asyncio.shield(linking)
            with store.database.transaction():
                store.snapshots.record(draft, chain_id, "", size=layer.size, inodes=layer.inodes)
        store.syncing.later()

    async def _layer(self, intake: Intake, blob: Blob, place: Place, stack: AsyncExitStack) -> Unpacked:
        draft = self._store.snapshots.draft()
        stack.push_async_callback(self._discard, draft)
        path = intake.scratch / draft.parent.name

        def consume(feed: Any) -> Unpacked:
            with path.open("xb", buffering=0) as file:
                return unpack_from(feed, path, draft, copy_fd=file.fileno())

        async with self._slots, place.open(blob.descriptor) as body:
            layer = await intake.receive(body, consume)
        if layer.digest != blob.descriptor.digest or layer.diff_id != blob.diff_id:
            raise InvalidParameter(f"layer {blob.descriptor.digest}: is another one than the cache says")
        return layer

    async def _discard(self, draft: Path) -> None:
        if not self._store.snapshots.is_committed(draft):
            await self._store.snapshots.discard(draft)

    async def _commit(self, intake: Intake, layer: Unpacked, below: str) -> str:
        """Make a layer known on top of a chain; returns its own chain id."""
        store = self._store
        chain_id = chain_over(below, layer.diff_id)
        if below:
            await intake.run(inherit, layer.draft, store.snapshots.lower(below), layer.implied)
        if store.content.find(layer.digest) is None:
            store.content.place(layer.blob, layer.digest)
        with store.database.transaction():
            store.content.record(layer.digest, layer.blob_size, layer.diff_id)
            store.snapshots.record(layer.draft, chain_id, below, size=layer.size, inodes=layer.inodes)
        store.syncing.later()
        return chain_id


async def _stop(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel what still runs, and wait for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def of_bytes(data: bytes, offset: int) -> AsyncIterator[bytes]:
    """Bytes in memory as a blob's source."""
    yield data[offset:]

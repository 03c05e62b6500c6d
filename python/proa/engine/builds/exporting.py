"""`--cache-to`: a build's steps and their layers, written where another build can take them over.

    mode=min   the steps of the image
    mode=max   every step that the target needed, those of other stages among them

Layers that have no compressed blob yet get one; what the place has already is not sent again.

Source: BuildKit's documentation, "Cache storage backends"; cache/remotecache/export.go for the manifest.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from proa.build import graph
from proa.build.cache import Cache
from proa.build.solver import Solution
from proa.content import digest_of
from proa.engine.builds.blobs import Compression, LayerBlobs
from proa.engine.builds.importing import of_bytes
from proa.engine.builds.places import Place
from proa.engine.builds.records import Blob, Offer, Records
from proa.engine.images.store import ImageStore, Lease
from proa.schema.build_cache import CACHE_CONFIG
from proa.schema.oci import INDEX, MANIFEST, Descriptor
from proa.schema.reference import Digest

_STEP: Final = 1 << 20


class CacheTarget(Struct, frozen=True, kw_only=True):
    """Where a cache goes, and as what."""

    place: Place
    every: bool = False
    """mode=max."""
    as_manifest: bool = True
    """An image manifest; else an index of layers, as BuildKit wrote it before 0.12."""
    compression: Compression = Compression()


class CacheExporter:
    """Writes caches of builds. One for the daemon."""

    def __init__(self, store: ImageStore, cache: Cache, blobs: LayerBlobs, executor: Executor | None) -> None:
        self._store = store
        self._cache = cache
        self._blobs = blobs
        self._executor = executor

    async def export(self, target: CacheTarget, solutions: Sequence[Solution]) -> None:
        """Write the cache of one build, of each of its platforms. Raises classes of proa.errors."""
        records = Records()
        with self._store.lease() as lease:
            for solution in solutions:
                for number in sorted(_wanted(solution, every=target.every)):
                    offer = await self._offer(solution, number, target.compression, lease)
                    if offer is not None:
                        records.add(solution.keys[number], offer)
            for blob in records.blobs:
                read = partial(self._read, Digest(blob.descriptor.digest), blob.descriptor.size)
                await target.place.put(blob.descriptor, read)
            config = records.config()
            described = Descriptor(media_type=CACHE_CONFIG, digest=digest_of(config), size=len(config))
            await target.place.put(described, partial(of_bytes, config))
            await target.place.name(*_manifest(described, records.blobs, as_manifest=target.as_manifest))

    async def _offer(self, solution: Solution, number: int, wish: Compression, lease: Lease) -> Offer | None:
        """A step's stack; None for what the cache has not."""
        entry = self._cache.find(solution.keys[number])
        stack = self._stack(entry.chain_id) if entry else []
        if entry is None or not stack:
            return None
        blobs: list[Blob] = [
            await self._blobs.blob(chain_id, diff_id, wish, lease) for chain_id, diff_id in stack
        ]
        alone = graph.stands_alone(solution.graph.vertices[number].operation)
        return Offer(tuple(blobs), entry.created_ns, alone)

    def _stack(self, chain_id: str) -> list[tuple[str, Digest]]:
        """(chain id, diff_id) of a layer and those below it, base first; empty where one is not known."""
        found: list[tuple[str, Digest]] = []
        while chain_id:
            snapshot = self._store.snapshots.find(chain_id)
            diff_id = self._diff_id(chain_id)
            if snapshot is not None and snapshot.same_files:
                # One that was made alone and put on others: alone, its chain id is its diff_id.
                diff_id = Digest(snapshot.same_files)
            if snapshot is None or diff_id is None:
                return []
            found.append((chain_id, diff_id))
            chain_id = snapshot.parent
        return found[::-1]

    def _diff_id(self, chain_id: str) -> Digest | None:
        for table in ("image_layers", "build_cache"):
            rows = self._store.database.query(
                f"SELECT diff_id FROM {table} WHERE chain_id = ? LIMIT 1", (chain_id,)
            )
            if rows:
                return Digest(rows[0][0])
        return None

    async def _read(self, digest: Digest, size: int, offset: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with self._store.content.path(digest).open("rb", buffering=0) as blob:
            blob.seek(offset)
            while offset < size and (chunk := await loop.run_in_executor(self._executor, blob.read, _STEP)):
                offset += len(chunk)
                yield chunk


def _wanted(solution: Solution, *, every: bool) -> set[int]:
    """Vertices whose layers are exported."""
    steps = {step.vertex for step in solution.graph.outcome.steps if step.vertex is not None}
    return set(solution.keys) if every else steps & solution.keys.keys()


def _manifest(config: Descriptor, blobs: Sequence[Blob], *, as_manifest: bool) -> tuple[str, bytes]:
    """(media type, data)."""
    layers = [blob.descriptor for blob in blobs]
    if as_manifest:
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return MANIFEST, msgspec.json.encode(document)
    return INDEX, msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*layers, config]}
    )

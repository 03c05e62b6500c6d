"""Layers that were made or loaded uncompressed become gzip, once: for registries, and for good.

The compressed blob takes the plain one's place in the images that have it; the plain one is garbage then.
"""

import asyncio
import os
from concurrent.futures import Executor
from pathlib import Path

import proa_native

from proa.engine.images.store import ImageStore
from proa.errors import System
from proa.schema.oci import layer_media_type
from proa.schema.reference import Digest, parse_digest


class Compressor:
    """Compresses blobs of one store; concurrent wishes for one blob are one piece of work."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._working: dict[Digest, asyncio.Task[Digest]] = {}

    async def compressed(self, digest: Digest) -> Digest:
        """The blob itself where it is compressed, else the one that takes its place now."""
        work = self._working.get(digest)
        if work is None:
            with self._store.content.path(digest).open("rb", buffering=0) as blob:
                if "+" in layer_media_type(blob.read(8)):
                    return digest
            # A task of its own: it is finished whoever began it, for the next push.
            work = self._working[digest] = asyncio.ensure_future(self._compress(digest))
            work.add_done_callback(lambda _: self._working.pop(digest, None))
        return await asyncio.shield(work)

    async def _compress(self, digest: Digest) -> Digest:
        content = self._store.content
        loop = asyncio.get_running_loop()
        with self._store.lease() as lease, content.scratch() as scratch:
            lease.blobs.add(digest)
            target = scratch / "layer"
            found = await loop.run_in_executor(self._executor, _gzip, content.path(digest), target)
            instead = parse_digest(found.digest)
            lease.blobs.add(instead)
            if content.find(instead) is None:
                content.place(target, instead)
            with self._store.database.transaction():
                content.record(instead, found.compressed_size, found.diff_id)
                self._store.recompressed(digest, instead)
            self._store.syncing.later()
        return instead


def _gzip(source: Path, target: Path) -> proa_native.UnpackedLayer:
    """Compress a file on all processors; blocks."""
    try:
        with source.open("rb", buffering=0) as plain, target.open("xb", buffering=0) as packed:
            os.fchmod(packed.fileno(), 0o600)
            return proa_native.compress_layer(plain.fileno(), packed.fileno())
    except OSError as exc:
        raise System(str(exc.strerror or exc).lower()) from exc

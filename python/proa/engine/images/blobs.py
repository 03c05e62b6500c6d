"""Blobs of layers that were made here, or loaded uncompressed: written when somebody wants the bytes.

A build knows its layers' diff_ids without having written their tars, and a load keeps of a plain tar what its
snapshot does not say (its recipe). Until such a layer is saved or pushed, its digest in the store is that
diff_id and there is no blob of it; packed again, the snapshot gives the same bytes, and where it does not,
that is an error and no blob.
"""

import asyncio
import os
from concurrent.futures import Executor
from pathlib import Path

import proa_native

from proa.engine.images.records import ImageRecord, Layer
from proa.engine.images.store import ImageStore
from proa.errors import NotFound, System
from proa.schema.reference import Digest


class Blobs:
    """Writes missing blobs of one store; concurrent wishes for one are one piece of work."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._working: dict[Digest, asyncio.Task[None]] = {}

    async def ensure(self, record: ImageRecord) -> None:
        """Have every blob of an image. Raises NotFound, System."""
        for layer in record.content:
            if self._store.content.find(layer.digest) is not None:
                continue
            work = self._working.get(layer.digest)
            if work is None:
                work = self._working[layer.digest] = asyncio.ensure_future(self._write(layer))
            await asyncio.shield(work)

    async def _write(self, layer: Layer) -> None:
        try:
            await self._pack(layer)
        finally:
            del self._working[layer.digest]

    async def _pack(self, layer: Layer) -> None:
        content = self._store.content
        if layer.digest != layer.diff_id:
            raise NotFound(f"content {layer.digest}: not found")
        directory = self._store.snapshots.lower(layer.chain_id)[0]
        loop = asyncio.get_running_loop()
        with self._store.lease() as lease, content.scratch() as scratch:
            lease.blobs.add(layer.digest)
            lease.chain_ids.add(layer.chain_id)
            blob = scratch / "layer"
            size = await loop.run_in_executor(self._executor, pack, directory, blob, layer.digest)
            content.place(blob, layer.digest)
            content.record(layer.digest, size, layer.diff_id)
            self._store.syncing.later()


def pack(directory: str, blob: Path, digest: Digest) -> int:
    """Write the uncompressed blob of a snapshot's directory; its size. Blocks. Raises System."""
    try:
        with blob.open("xb", buffering=0) as target:
            os.fchmod(target.fileno(), 0o600)
            packed = proa_native.pack_layer(directory, target.fileno())
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc
    except ValueError as exc:
        raise System(f"layer {digest}: {exc}") from exc
    if packed.diff_id != digest:
        raise System(f"layer {digest}: its files are not what they were")
    return int(packed.compressed_size)

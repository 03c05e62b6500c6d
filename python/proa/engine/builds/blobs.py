"""Layers as compressed blobs: in what an output or a cache asks for, found in the content store or made.

A layer that was built here is packed from its directory, and must give the digest it had; one that came from
elsewhere is taken out of the compression it came in. A blob that was made is the caller's lease's until
something that is known needs it.
"""

import asyncio
import os
from collections.abc import Collection
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import proa_native
from msgspec import Struct

from proa.engine.builds.records import Blob
from proa.engine.images.store import ImageStore, Lease
from proa.errors import NotFound, System
from proa.schema.oci import LAYER, Descriptor, layer_media_type
from proa.schema.reference import Digest, parse_digest

_SUFFIXES: Final = {"gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd", "uncompressed": LAYER}


class Compression(Struct, frozen=True, kw_only=True):
    """`kind` is gzip, zstd or uncompressed; `force` is for layers that have a compression already."""

    kind: str = "gzip"
    level: int | None = None
    force: bool = False


class LayerBlobs:
    """The blobs of one store's layers. Equal wishes at a time are one piece of work."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._working: dict[tuple[str, Compression], asyncio.Task[Digest]] = {}

    async def blob(
        self,
        chain_id: str,
        diff_id: Digest,
        wish: Compression,
        lease: Lease,
        bases: Collection[str] | None = None,
    ) -> Blob:
        """A layer's blob, leased. Raises NotFound, System.

        Without force, one that came with an image is as it came; with `bases`, ids, only with these images.
        """
        lease.chain_ids.add(chain_id)
        digest = self._found(diff_id, wish, bases)
        if digest is None:
            key = diff_id, wish
            work = self._working.get(key)
            if work is None:
                work = self._working[key] = asyncio.ensure_future(self._make(chain_id, diff_id, wish, lease))
                work.add_done_callback(lambda _: self._working.pop(key, None))
            digest = await asyncio.shield(work)
        lease.blobs.add(digest)
        return Blob(self._descriptor(digest), diff_id)

    def _found(self, diff_id: Digest, wish: Compression, bases: Collection[str] | None) -> Digest | None:
        """A blob that is there and as it is wished for."""
        for digest in self._of(diff_id):
            media_type = self._descriptor(digest).media_type
            if media_type == _SUFFIXES[wish.kind] and (wish.level is None or not wish.force):
                return digest
            if not wish.force and "+" in media_type and self._came(digest, bases):
                return digest
        return None

    def _of(self, diff_id: Digest) -> list[Digest]:
        rows = self._store.database.query("SELECT digest FROM blobs WHERE diff_id = ?", (diff_id,))
        return [Digest(digest) for (digest,) in rows]

    def _came(self, digest: Digest, bases: Collection[str] | None) -> bool:
        """Whether an image that was pulled has the blob: another one would be uploaded for nothing."""
        rows = self._store.database.query(
            "SELECT image FROM image_layers JOIN image_manifests USING (image) WHERE digest = ?", (digest,)
        )
        return any(bases is None or image in bases for (image,) in rows)

    def _descriptor(self, digest: Digest) -> Descriptor:
        with self._store.content.path(digest).open("rb", buffering=0) as blob:
            media_type = layer_media_type(blob.read(8))
        return Descriptor(media_type=media_type, digest=digest, size=self._store.content.size(digest))

    async def _make(self, chain_id: str, diff_id: Digest, wish: Compression, lease: Lease) -> Digest:
        content = self._store.content
        loop = asyncio.get_running_loop()
        with content.scratch() as scratch:
            there = self._of(diff_id)
            lease.blobs.update(there[:1])
            target = scratch / "layer"
            if there:
                source = content.path(there[0])
                made = await loop.run_in_executor(self._executor, _compress, source, target, wish)
            else:
                directory = self._store.snapshots.lower(chain_id)[0]
                made = await loop.run_in_executor(self._executor, _pack, directory, scratch, target, wish)
            if made.diff_id != diff_id:
                raise System(f"layer {diff_id}: its files are not what they were")
            digest = parse_digest(made.digest)
            lease.blobs.add(digest)
            if content.find(digest) is None:
                content.place(target, digest)
                content.record(digest, made.compressed_size, diff_id)
        return digest


def _pack(directory: str, scratch: Path, target: Path, wish: Compression) -> proa_native.UnpackedLayer:
    """A directory; blocks."""
    plain = scratch / "plain"
    try:
        with plain.open("xb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o600)
            packed = proa_native.pack_layer(directory, file.fileno(), compression="none")
        if wish.kind == "uncompressed":
            plain.rename(target)
            return packed
        return _compress(plain, target, wish)
    except FileNotFoundError as exc:
        raise NotFound(f"layer {directory}: not found") from exc
    except ValueError as exc:
        raise System(f"layer {directory}: {exc}") from exc
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


def _compress(source: Path, target: Path, wish: Compression) -> proa_native.UnpackedLayer:
    """A blob; blocks."""
    kind = "none" if wish.kind == "uncompressed" else wish.kind
    try:
        with source.open("rb", buffering=0) as came, target.open("xb", buffering=0) as packed:
            os.fchmod(packed.fileno(), 0o600)
            return proa_native.compress_layer(
                came.fileno(), packed.fileno(), compression=kind, level=wish.level
            )
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc

"""After a power loss: what never reached the disk is found, and made whole or let go.

Runs at the start, before the first request. Snapshots in doubt are unpacked again from their blobs, which
says whether those are what they were, too; other blobs in doubt are digested again. A blob that is not what
it was goes, and with it every image that has it, so that it is pulled or loaded again instead of running with
holes or being pushed as something else; a container that stands on a layer without an image keeps what there
is.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, TypeVar

from proa.engine.images.intake import Unpacked, inherit, unpack
from proa.engine.images.records import Layer
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter, System
from proa.schema.reference import Digest
from proa.snapshots import Committed

_T = TypeVar("_T")

log: Final = logging.getLogger(__name__)


class Restorer:
    """Makes doubtful snapshots whole, and blobs certain."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor

    async def restore(self) -> list[Path]:
        """Look at all that is in doubt, base layers first; then let it reach the disk.

        Returns what is left to remove.
        """
        snapshots, blobs = self._store.snapshots.doubtful(), set(self._store.content.doubtful())
        if snapshots or blobs:
            log.warning(
                "%d layers and %d blobs may be incomplete after a power loss; looking at them again",
                len(snapshots),
                len(blobs),
            )
        for snapshot in snapshots:
            blobs.discard(await self._snapshot(snapshot))
        broken = [digest for digest in sorted(blobs) if not await self._is_whole(digest)]
        self._store.syncing.later()
        return self._store.content.discard(broken)

    async def _snapshot(self, snapshot: Committed) -> Digest:
        """Unpack one again; the blob that this has shown to be whole, if any."""
        digests = self._store.layer_digests(snapshot.chain_id)
        if not digests:
            log.error("a layer cannot be unpacked again, its image is gone: %s", snapshot.chain_id)
            return Digest("")
        # One that came uncompressed has no blob, but another image may have the same layer with one.
        digest = next((each for each in digests if self._store.content.find(each) is not None), None)
        try:
            if digest is None:
                raise System("a layer loaded uncompressed or built here had not reached the disk yet")
            await self._again(snapshot, digest)
        except (InvalidParameter, System) as exc:
            self._forget(lambda layer: layer.chain_id == snapshot.chain_id, exc)
            return Digest("")
        for other in digests:
            if self._store.content.find(other) is None:
                self._store.recompressed(other, digest)
        self._store.content.verified(digest)
        return digest

    async def _again(self, snapshot: Committed, digest: Digest) -> None:
        snapshots = self._store.snapshots
        blob = self._store.content.path(digest)
        draft = snapshots.draft()
        try:
            layer = await self._run(_unpack, blob, draft)
            if layer.digest != digest:
                raise System(f"content {digest}: has another digest")
            lower = snapshots.lower(snapshot.parent)
            if lower:
                await self._run(inherit, draft, lower, layer.implied)
            await snapshots.renew(snapshot, draft)
        except BaseException:
            await snapshots.discard(draft)
            raise

    async def _is_whole(self, digest: Digest) -> bool:
        """Digest a blob again: unknown, and no image has it, where it is not what it was."""
        try:
            found = await self._run(_digest, self._store.content.path(digest))
            if found != digest:
                raise System(f"content {digest}: has another digest")
        except System as exc:
            self._forget(lambda layer: layer.digest == digest, exc)
            with self._store.database.transaction():
                self._store.content.forget([digest])
            return False
        self._store.content.verified(digest)
        return True

    def _forget(self, affected: Callable[[Layer], bool], cause: Exception) -> None:
        """Every image with such a layer."""
        for record in self._store.all():
            if any(affected(layer) for layer in record.content):
                names = ", ".join(name.familiar for name in self._store.references(record.id))
                log.error("image %s (%s) was lost in a power loss: %s", record.id, names, cause)
                with self._store.database.transaction():
                    self._store.delete(record.id)

    def _run(self, call: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _unpack(blob: Path, draft: Path) -> Unpacked:
    try:
        return unpack(blob, draft)
    except OSError as exc:
        raise System(f"content {blob.name}: {exc.strerror or exc}") from exc


def _digest(blob: Path) -> str:
    try:
        with blob.open("rb", buffering=0) as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise System(f"content {blob.name}: {exc.strerror or exc}") from exc

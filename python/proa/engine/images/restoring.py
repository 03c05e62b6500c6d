"""After a power loss: snapshots that never reached the disk are unpacked again from their blobs.

Runs at the start, before the first request. An image whose blob did not survive either is forgotten, so that
it is pulled again instead of running with holes; a container that stands on a layer without an image keeps
what there is.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, TypeVar

from proa.engine.images.intake import Unpacked, inherit, unpack
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter, System
from proa.schema.reference import Digest
from proa.snapshots import Committed

_T = TypeVar("_T")

log: Final = logging.getLogger(__name__)


class Restorer:
    """Makes doubtful snapshots whole."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor

    async def restore(self) -> None:
        """Unpack what is in doubt, base layers first; then let it reach the disk."""
        doubtful = self._store.snapshots.doubtful()
        if doubtful:
            log.warning("%d layers may be incomplete after a power loss; unpacking them again", len(doubtful))
        for snapshot in doubtful:
            digests = self._store.layer_digests(snapshot.chain_id)
            if not digests:
                log.error("a layer cannot be unpacked again, its image is gone: %s", snapshot.chain_id)
                continue
            try:
                await self._again(snapshot, digests[0])
            except (InvalidParameter, System) as exc:
                self._forget(snapshot, exc)
        self._store.snapshots.sync_later()

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

    def _forget(self, snapshot: Committed, cause: Exception) -> None:
        """Every image that has the layer."""
        for record in self._store.all():
            if any(layer.chain_id == snapshot.chain_id for layer in record.content):
                log.error("image %s was lost in a power loss: %s", record.id, cause)
                with self._store.database.transaction():
                    self._store.delete(record.id)

    def _run(self, call: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _unpack(blob: Path, draft: Path) -> Unpacked:
    try:
        return unpack(blob, draft)
    except OSError as exc:
        raise System(f"content {blob.name}: {exc.strerror or exc}") from exc

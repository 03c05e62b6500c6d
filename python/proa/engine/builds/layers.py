"""Layers of builds: drafts of the snapshot store. Implements proa.build.ports.Layers."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar

import proa_native

from proa.build.calls import to_its_end
from proa.build.ports import Measured
from proa.engine.builds.linking import link_layer
from proa.engine.images.store import ImageStore
from proa.errors import NotFound, System
from proa.schema.plan import Overlay
from proa.snapshots import Snapshots

_T = TypeVar("_T")
_A = TypeVar("_A")


class BuildLayers:
    """Layers for one daemon's builds."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor

    @property
    def _snapshots(self) -> Snapshots:
        return self._store.snapshots

    def of_image(self, image_id: str) -> list[tuple[str, str]]:
        """(chain id, directory) of an image's layers, base first. Raises NotFound."""
        record = self._store.by_id(image_id)
        if record is None:
            raise NotFound(f"No such image: {image_id}")
        found = self.of_chain(record.chain_id)
        if found is None:
            raise NotFound(f"layers of {image_id}: not found")
        return found

    def of_chain(self, chain_id: str) -> list[tuple[str, str]] | None:
        """The same of a chain id; None where it is not there."""
        chain = []
        top = chain_id
        while chain_id:
            snapshot = self._snapshots.find(chain_id)
            if snapshot is None:
                return None
            chain.append(chain_id)
            chain_id = snapshot.parent
        return list(zip(chain, self._snapshots.lower(top), strict=True))[::-1]

    def begin(self, lower: Sequence[str]) -> Overlay:
        """A new writable layer over others, to be committed or discarded."""
        return self._snapshots.begin(lower)

    async def measure(self, overlay: Overlay) -> Measured:
        """Pack the writable layer for its digest."""
        return await self._run(self._measure, overlay)

    def _measure(self, overlay: Overlay) -> Measured:
        self._snapshots.finish(overlay)
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                packed = proa_native.pack_layer(overlay.upper, nowhere)
            finally:
                os.close(nowhere)
            size, inodes = proa_native.disk_usage(overlay.upper)
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc
        return Measured(packed.diff_id, size, inodes)

    def commit(self, overlay: Overlay, chain_id: str, parent: str, measured: Measured) -> str:
        """Make it known, within a transaction; returns the directory that is known by that id from now on."""
        draft = Path(overlay.upper)
        self._snapshots.record(draft, chain_id, parent, size=measured.size, inodes=measured.inodes)
        return self._snapshots.lower(chain_id)[0]

    async def stack(self, directory: str, lower: Sequence[str]) -> str:
        """A second directory of a layer, whose files are the same inodes, for on top of `lower`."""
        draft = self._snapshots.draft()
        linking = self._run(partial(link_layer, directory, lower), str(draft))
        try:
            await to_its_end(linking)
        except BaseException:
            await self._snapshots.discard(draft)
            raise
        return str(draft)

    def commit_stacked(self, directory: str, chain_id: str, parent: str, alone: str) -> str:
        """As `commit`, of what `stack` made."""
        layer = self._snapshots.find(alone)
        if layer is None:
            raise NotFound(f"layer {alone}: not found")
        draft, counts = Path(directory), {"size": layer.size, "inodes": layer.inodes}
        self._snapshots.record(draft, chain_id, parent, same_files=alone, **counts)
        return self._snapshots.lower(chain_id)[0]

    async def discard(self, overlay: Overlay) -> None:
        """Remove a layer that was not committed, whatever is in it."""
        await self._snapshots.discard(Path(overlay.upper))

    def _run(self, call: Callable[[_A], _T], argument: _A) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, argument)

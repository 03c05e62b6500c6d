"""Layers and archives on their way in: request bodies to disk, layers to drafts, all of it undone on failure.

An `Intake` is one load or import. What was not committed when the intake ends is removed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import proa_native
from msgspec import Struct

from proa.engine.images.records import ImageRecord, Layer, StoredManifest, chain_ids
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter, System
from proa.feeding import supply
from proa.schema.oci import ImageFile
from proa.schema.reference import Digest, Reference

_T = TypeVar("_T")


class Unpacked(Struct, frozen=True, kw_only=True):
    """A layer that lies unpacked in a draft, its blob in scratch (or in the content store already)."""

    digest: Digest
    diff_id: Digest
    blob: Path
    blob_size: int
    draft: Path
    size: int
    inodes: int
    implied: tuple[bytes, ...]
    """Directories whose owner and mode are the lower layers' to say."""
    partial: bool = False
    """The blob is the content store's sealed ingest of its digest."""
    recipe: bool = False
    """There is no blob: it came uncompressed, and the draft has what it takes to make it again."""


def unpack(blob: Path, draft: Path) -> Unpacked:
    """Unpack a blob that lies on disk; blocks. Raises InvalidParameter for a malformed one."""
    with blob.open("rb", buffering=0) as file:
        return unpack_from(file.fileno(), blob, draft)


def unpack_from(
    source: "int | proa_native.ByteFeed", blob: Path, draft: Path, *, copy_fd: int = -1
) -> Unpacked:
    """Unpack from an fd or a feed; with `copy_fd` the bytes go there, too (the blob's file); blocks."""
    with translated():
        layer = proa_native.unpack_layer(source, str(draft), copy_fd=copy_fd)
    return unpacked(layer, blob, draft)


@contextmanager
def translated() -> Iterator[None]:
    """What the native core says of an archive or a disk."""
    try:
        yield
    except ValueError as exc:
        raise InvalidParameter(str(exc)) from exc
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


def unpacked(layer: proa_native.UnpackedLayer, blob: Path, draft: Path) -> Unpacked:
    """What one pass over `blob` left in `draft`."""
    return Unpacked(
        digest=Digest(layer.digest),
        diff_id=Digest(layer.diff_id),
        blob=blob,
        blob_size=layer.compressed_size,
        draft=draft,
        size=layer.usage[0],
        inodes=layer.usage[1],
        implied=tuple(layer.implied),
        recipe=layer.recipe,
    )


def inherit(draft: Path, lower: Sequence[str], implied: Sequence[bytes]) -> None:
    """Give a draft's implied directories what the layers below (top first) say of them; blocks."""
    try:
        proa_native.inherit_directories(str(draft), lower, implied)
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


class Intake:
    """One load, import or pull: an async context manager around its scratch directory, drafts and jobs."""

    def __init__(self, store: ImageStore, executor: Executor | None, *, leased: bool = False) -> None:
        """`leased`: the caller has a lease on what it relies on, so that the rest can be collected."""
        self.store = store
        self._leased = leased
        self._executor = executor
        self._stack = AsyncExitStack()
        self._drafts: set[Path] = set()
        self._jobs: set[asyncio.Future[Any]] = set()
        self.scratch = Path()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if not self._leased:
                stack.enter_context(self.store.busy())
            self.scratch = stack.enter_context(self.store.content.scratch())
            stack.push_async_callback(self._undo)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A client that goes away cancels us; what was begun is undone all the same.
        await asyncio.shield(asyncio.ensure_future(self._stack.aclose()))

    def run(self, call: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """Run a blocking call in the executor; the intake ends only after it."""
        job: asyncio.Future[_T] = asyncio.get_running_loop().run_in_executor(self._executor, call, *args)
        self._jobs.add(job)
        return job

    def draft(self) -> Path:
        """A new draft, removed at the end if it is not committed."""
        draft = self.store.snapshots.draft()
        self._drafts.add(draft)
        return draft

    def unpack(self, blob: Path) -> "asyncio.Future[Unpacked]":
        """Unpack a blob into a draft of its own."""
        return self.run(unpack, blob, self.draft())

    async def receive(self, body: AsyncIterator[bytes], consume: Callable[[proa_native.ByteFeed], _T]) -> _T:
        """Supply a request body to `consume(feed)`, which reads to the end, as long as the client likes."""

        def start(call: Callable[..., _T], source: proa_native.ByteFeed) -> "asyncio.Future[_T]":
            job = asyncio.get_running_loop().run_in_executor(self.store.receiving, call, source)
            self._jobs.add(job)
            return job

        return await supply(body, consume, start, self.run)

    async def commit(
        self,
        config_blob: bytes,
        file: ImageFile,
        layers: Sequence["Unpacked | Layer"],
        names: Sequence[Reference],
        manifest: StoredManifest | None = None,
    ) -> tuple[ImageRecord, list[tuple[Reference, str]]]:
        """Make an image known with its layers, base first, each unpacked here or there already.

        Returns the record and (name, id that lost it) for names that moved. All or nothing.
        """
        content = []
        lower: list[str] = []
        for layer, chain_id in zip(layers, chain_ids(layer.diff_id for layer in layers), strict=True):
            content.append(Layer(layer.digest, layer.diff_id, chain_id))
            there = self.store.snapshots.find(chain_id)
            if isinstance(layer, Unpacked):
                if there is None and lower:
                    await self.run(inherit, layer.draft, lower[::-1], layer.implied)
                if self._is_new(layer):
                    self.store.content.place(layer.blob, layer.digest)
                lower.append(str(layer.draft))
            else:
                lower.append(self.store.snapshots.lower(chain_id)[0])
        with self.store.database.transaction():
            parent = ""
            for layer, known in zip(layers, content, strict=True):
                if isinstance(layer, Unpacked):
                    self._record(layer, known.chain_id, parent)
                parent = known.chain_id
            record = self.store.add(config_blob, file, content)
            if manifest is not None:
                self.store.keep_manifest(record.id, manifest)
            for name in names:
                self.store.write_name(name, record.id)
        self._drafts = {draft for draft in self._drafts if not self.store.snapshots.is_committed(draft)}
        self.store.publish(record)
        self.store.syncing.later()
        moved = [(name, self.store.publish_name(name, record.id)) for name in names]
        return record, [(name, lost) for name, lost in moved if lost]

    def _record(self, layer: Unpacked, chain_id: str, parent: str) -> None:
        content = self.store.content
        if layer.partial and content.find(layer.digest) is None:
            content.adopt(layer.digest)
        if not layer.recipe:
            content.record(layer.digest, layer.blob_size, layer.diff_id)
        snapshots = self.store.snapshots
        fresh = snapshots.record(layer.draft, chain_id, parent, size=layer.size, inodes=layer.inodes)
        if layer.recipe and not fresh:
            snapshots.share_recipe(layer.draft, chain_id)

    def _is_new(self, layer: Unpacked) -> bool:
        """Whether a blob is still in scratch and not in the content store."""
        here = layer.blob.parent == self.scratch and layer.blob.exists()
        return here and self.store.content.find(layer.digest) is None

    async def _undo(self) -> None:
        """Wait for what still runs, then remove the drafts that nothing was made of."""
        if self._jobs:
            await asyncio.wait(self._jobs)
        for job in self._jobs:
            if not job.cancelled():
                job.exception()
        # Their failures have frames that lead here: a cycle, with a feed's descriptor in it.
        self._jobs.clear()
        for draft in self._drafts:
            await self.store.snapshots.discard(draft)

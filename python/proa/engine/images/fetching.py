"""Layers on their way from a registry, each downloaded and unpacked once however many pulls wait for it.

    registry -> chunks -> LayerUnpacker: partial blob, digest, decompress, diff_id, draft
                          one pass in native threads, about a MiB of compressed bytes in between

A fetch lives as long as somebody holds it: it is stopped when the last one lets go, and its draft, if no
image was made of it, is removed. What came of the blob stays as a partial in the content store; the next
fetch of it feeds that to the unpacker and asks the registry for the rest.

Holds and drafts are this process's: a crash leaves drafts that the next start removes, and partials that it
goes on with.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import proa_native

from proa.content import Ingest
from proa.engine.images.intake import Unpacked
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter, System
from proa.registry import Interrupted
from proa.schema.reference import Digest

_T = TypeVar("_T")

Source = Callable[[int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""The blob's bytes from an offset on; raises Interrupted where they break off."""


class Watcher(Protocol):
    """Who is told how a fetch goes; `progress.Progress` bound to a layer's id."""

    def status(self, text: str) -> None: ...
    def count(self, text: str, current: int, total: int) -> None: ...


class _Mismatch(System):
    """The bytes are not the blob's."""


class Fetch:
    """One layer on its way, or here and not committed yet."""

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self.holders = 0
        self.watchers: list[Watcher] = []
        self.said = "Pulling fs layer"
        """The last status: whoever joins is told it."""
        self.chain_id = ""
        """What the draft will be; another image may have the same layer above other ones."""
        self.ended: asyncio.Event | None = None
        """Set once everything is let go of; None while it is held."""
        self.task: asyncio.Task[Unpacked]
        self.stack = AsyncExitStack()

    def say(self, status: str) -> None:
        """A new status, to everybody who waits."""
        self.said = status
        for watcher in self.watchers:
            watcher.status(status)

    def count(self, status: str, current: int) -> None:
        """Bytes so far, to everybody who waits."""
        for watcher in self.watchers:
            watcher.count(status, current, self.size)

    def claim(self, chain_id: str) -> bool:
        """Take the draft for a chain; False where it is another one's."""
        self.chain_id = self.chain_id or chain_id
        return self.chain_id == chain_id


class Fetches:
    """Every layer that is being fetched, by digest."""

    def __init__(self, store: ImageStore, *, downloads: int, attempts: int) -> None:
        """`downloads`: layers of one registry in work at a time, so that a slow one holds up no other.

        `attempts` in a row that do not get a byte end one.
        """
        self._store = store
        self._downloads = downloads
        self._attempts = attempts
        self._fetches: dict[Digest, Fetch] = {}
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._threads: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def hold(
        self, digest: Digest, size: int, source: Source, watcher: Watcher, registry: str
    ) -> AsyncIterator[Fetch]:
        """Join the fetch of a layer, or begin it from a registry (its domain).

        `fetch.task` has the outcome. Let go at the block's end.
        """
        while (fetch := self._fetches.get(digest)) is not None and fetch.ended is not None:
            await fetch.ended.wait()
        if fetch is None:
            fetch = self._fetches[digest] = Fetch(digest, size)
            fetch.task = asyncio.ensure_future(self._run(fetch, source, registry))
        fetch.holders += 1
        fetch.watchers.append(watcher)
        watcher.status(fetch.said)
        try:
            yield fetch
        finally:
            fetch.watchers.remove(watcher)
            fetch.holders -= 1
            if not fetch.holders:
                fetch.ended = asyncio.Event()
                await asyncio.shield(asyncio.ensure_future(self._end(fetch)))

    def close(self) -> None:
        """End the threads; every pull has ended."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def _end(self, fetch: Fetch) -> None:
        assert fetch.ended is not None
        fetch.task.cancel()
        await asyncio.wait({fetch.task})
        if not fetch.task.cancelled():
            fetch.task.exception()
        try:
            await fetch.stack.aclose()
        finally:
            del self._fetches[fetch.digest]
            fetch.ended.set()

    # ---- one layer ------------------------------------------------------------------------------

    async def _run(self, fetch: Fetch, source: Source, registry: str) -> Unpacked:
        slots = self._slots.setdefault(registry, asyncio.Semaphore(self._downloads))
        if slots.locked():
            fetch.say("Waiting")
        async with slots:
            ingest = fetch.stack.enter_context(self._store.content.ingest(fetch.digest))
            resumed = bool(ingest.offset)
            if ingest.offset > fetch.size:
                ingest.restart()
            try:
                return await self._attempt(fetch, ingest, source)
            except (_Mismatch, InvalidParameter):
                ingest.restart()
                if not resumed:
                    raise
            # What an earlier process left was not what it seemed: a power loss, or the registry's bad bytes.
            try:
                return await self._attempt(fetch, ingest, source)
            except (_Mismatch, InvalidParameter):
                ingest.restart()
                raise

    async def _attempt(self, fetch: Fetch, ingest: Ingest, source: Source) -> Unpacked:
        draft = self._store.snapshots.draft()
        fetch.stack.push_async_callback(self._discard, draft)
        with translated():
            unpacker = proa_native.LayerUnpacker(str(draft), copy_fd=ingest.fd)
        feed = _Feed(unpacker, ingest, self._run_in_thread)
        try:
            await feed.resume()
            await self._download(fetch, feed, source)
            fetch.say("Verifying Checksum")
            fetch.say("Download complete")
            fetch.count("Extracting", fetch.size)
            layer = await feed.run(unpacker.finish)
            if layer.digest != fetch.digest:
                raise _Mismatch(f"filesystem layer verification failed for digest {fetch.digest}")
            unpacked = await feed.run(_seal, ingest, layer, draft)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(feed.abort()))
            raise
        fetch.say("Pull complete")
        return unpacked

    async def _download(self, fetch: Fetch, feed: "_Feed", source: Source) -> None:
        """The rest of the blob; from where it broke off, again, while something comes."""
        failures = 0
        while feed.received < fetch.size:
            before = feed.received
            try:
                async with source(before) as chunks:
                    async for chunk in chunks:
                        await feed.give(chunk)
                        fetch.count("Downloading", feed.received)
                if feed.received < fetch.size:
                    raise Interrupted(f"{fetch.digest}: unexpected EOF")
            except Interrupted:
                failures = failures + 1 if feed.received == before else 0
                if failures == self._attempts:
                    raise

    async def _discard(self, draft: Path) -> None:
        if not self._store.snapshots.is_committed(draft):
            await self._store.snapshots.discard(draft)

    def _run_in_thread(self, call: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """Threads of our own: they wait for the unpackers, and the daemon's others must not."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._downloads, thread_name_prefix="proad-layer")
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *args)


class _Feed:
    """The way into one unpacker: chunks from the loop without blocking it, whole calls from a thread."""

    def __init__(self, unpacker: Any, ingest: Ingest, run: Callable[..., "asyncio.Future[Any]"]) -> None:
        self.received = 0
        """Bytes that the unpacker was given."""
        self._unpacker = unpacker
        self._ingest = ingest
        self._run = run
        self._job: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[..., _T], *args: Any) -> _T:
        """Run one blocking call; `abort` waits for it."""
        self._job = self._run(call, *args)
        with translated():
            result: _T = await asyncio.shield(self._job)
        return result

    async def resume(self) -> None:
        """What is there of the blob goes to the unpacker first."""
        kept = self._ingest.offset
        if kept:
            await self.run(self._unpacker.write_file, self._ingest.fd, kept)
            self.received = kept

    async def give(self, chunk: bytes) -> None:
        """Hand over a chunk; waits while there is no room for it."""
        with translated():
            while not self._unpacker.try_write(chunk):
                await self._room()
        self.received += len(chunk)

    async def abort(self) -> None:
        """Give up; returns when no thread has the files any more."""
        await self._run(self._unpacker.abort)
        if self._job is not None:
            await asyncio.wait({self._job})
            if not self._job.cancelled():
                self._job.exception()

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        fd = self._unpacker.fileno()
        loop.add_reader(fd, _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(fd)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@contextmanager
def translated() -> Iterator[None]:
    """The unpacker's failures in Docker's words."""
    try:
        yield
    except ValueError as exc:
        raise InvalidParameter(f"failed to register layer: {exc}") from exc
    except OSError as exc:
        raise System(f"failed to register layer: {str(exc.strerror or exc).lower()}") from exc


def _seal(ingest: Ingest, layer: Any, draft: Path) -> Unpacked:
    """The blob to the disk, and what the snapshot is made of; blocks."""
    ingest.seal()
    return Unpacked(
        digest=Digest(layer.digest),
        diff_id=Digest(layer.diff_id),
        blob=Path(f"/proc/self/fd/{ingest.fd}"),  # wherever it is moved while it is held
        blob_size=layer.compressed_size,
        draft=draft,
        size=layer.usage[0],
        inodes=layer.usage[1],
        implied=tuple(layer.implied),
        partial=True,
    )

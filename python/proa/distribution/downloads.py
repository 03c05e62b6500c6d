"""Blobs on their way from an upstream: written once, read by everyone who asked meanwhile.

A download writes to the content store's ingest, which the next process goes on with. Readers follow it at
their own pace; the last byte is held back until the whole has its digest, so that nobody ends with a blob
that is none. A download goes on when its readers are gone: the next one finds it.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol

from proa.distribution.store import Store
from proa.distribution.uploads import translated
from proa.errors import ProaError, System
from proa.registry import Interrupted
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest, Reference
from proa.schema.registry import Credentials

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Downloads that run; others wait."""
ATTEMPTS: Final = 5
"""Times in a row that a download may break without having got any further."""
READ: Final = 256 << 10


class Upstream(Protocol):
    """A registry as its client sees it."""

    async def head(self, ref: Reference, credentials: Credentials | None = None) -> Descriptor | None: ...
    async def resolve(self, ref: Reference, credentials: Credentials | None = None) -> Any: ...
    async def has_blob(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
    ) -> bool: ...
    def blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        offset: int = 0,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Ingest(Protocol):
    """A blob's file in the content store; see content.Ingest."""

    offset: int

    @property
    def path(self) -> os.PathLike[str]: ...
    def kept(self) -> Any: ...
    def write(self, chunk: bytes) -> None: ...
    def restart(self) -> None: ...
    def seal(self) -> None: ...


class Ingests(Protocol):
    """The content store as this room sees it."""

    def ingest(self, digest: Digest) -> AbstractContextManager[Any]: ...
    def adopt(self, digest: Digest) -> None: ...


class Download:
    """One blob on its way; `body` reads it and starts it where it is not running."""

    def __init__(self, downloads: "Downloads", reference: Reference, digest: Digest, size: int) -> None:
        self._downloads = downloads
        self.reference = reference
        self.digest = digest
        self.size = size
        self.available = 0
        """Bytes that readers may have."""
        self.fd = -1
        self.error: ProaError | None = None
        self.ended = False
        self._readers = 0
        self._moved: asyncio.Future[None] | None = None

    def body(self, offset: int, length: int) -> "Tail":
        """A reader of some of it."""
        self._readers += 1
        self._downloads.start(self)
        return Tail(self, offset, length)

    def release(self) -> None:
        """A reader is done."""
        self._readers -= 1
        self._close()

    def move(self, available: int) -> None:
        """There is more to read."""
        self.available = available
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None

    def end(self, error: ProaError | None) -> None:
        """Nothing more comes."""
        self.ended, self.error = True, error
        self.move(self.available)
        self._close()

    async def more(self) -> None:
        """Wait until it has moved on."""
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._moved)

    def _close(self) -> None:
        if self.ended and not self._readers and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Tail(AsyncIterator[bytes]):
    """A body that follows a download; raises what the download fails with."""

    def __init__(self, download: Download, offset: int, length: int) -> None:
        self._download = download
        self._offset = offset
        self._end = offset + length
        self._open = True

    async def __anext__(self) -> bytes:
        if self._offset >= self._end:
            raise StopAsyncIteration
        download = self._download
        while download.available <= self._offset:
            if download.ended:
                raise download.error or System(f"content {download.digest}: ended early")
            await download.more()
        count = min(READ, self._end - self._offset, download.available - self._offset)
        with translated(f"content {download.digest}"):
            chunk = await download._downloads.run(os.pread, download.fd, count, self._offset)
        if not chunk:
            raise download.error or System(f"content {download.digest}: was begun again")
        self._offset += len(chunk)
        return bytes(chunk)

    async def aclose(self) -> None:
        """Let go of the download. Idempotent."""
        if self._open:
            self._open = False
            self._download.release()


class Downloads:
    """Every blob that is on its way, by digest."""

    def __init__(
        self,
        upstream: Upstream,
        credentials: Credentials | None,
        store: Store,
        content: Ingests,
        transaction: Any,
        executor: Executor,
    ) -> None:
        """`transaction` makes the database's context manager."""
        self._upstream = upstream
        self._credentials = credentials
        self._store = store
        self._content = content
        self._transaction = transaction
        self._executor = executor
        self._running: dict[Digest, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)

    def find(self, reference: Reference, digest: Digest, size: int) -> Download:
        """The download of a blob, running or not yet.

        One that runs for another repository is not shared: whether this one may have the blob, only the
        upstream knows.
        """
        running = self._running.get(digest)
        if running is not None and running.reference == reference and running.size == size:
            return running
        return Download(self, reference, digest, size)

    def start(self, download: Download) -> None:
        """Run it unless it runs. Idempotent."""
        running = self._running.get(download.digest)
        if running is download or download.ended:
            return
        before = next((task for task in self._tasks if task.get_name() == download.digest), None)
        self._running[download.digest] = download
        task = asyncio.get_running_loop().create_task(self._run(download, before), name=download.digest)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, function: Any, *arguments: object) -> Any:
        """Run what blocks in the executor, to its end."""
        return await self._store.uploads.run(function, *arguments)

    async def close(self) -> None:
        """End every download; what is there is kept for the next process."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, download: Download, before: "asyncio.Task[None] | None") -> None:
        error: ProaError | None = None
        try:
            if before is not None:
                await asyncio.wait([before])  # one writes to a blob at a time
            async with self._turns:
                if self._store.has(download.digest):
                    await self._share(download)
                else:
                    await self._fetch(download)
        except ProaError as exc:
            error = exc
            log.warning("download of %s: %s", download.digest, exc)
        except Exception as exc:
            error = System(f"content {download.digest}: {type(exc).__name__}: {exc}")
            log.exception("download of %s failed", download.digest)
        finally:
            if self._running.get(download.digest) is download:
                del self._running[download.digest]
            download.end(error)

    async def _share(self, download: Download) -> None:
        """Another repository's download has brought it meanwhile."""
        digest, reference = download.digest, download.reference
        if not await self._upstream.has_blob(reference, digest, self._credentials):
            raise System(f"content {digest}: the upstream does not have it")
        with translated(f"content {digest}"):
            download.fd = os.open(self._store.content.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        self._store.repositories.link(reference.path, digest, digest, download.size)
        download.move(download.size)

    async def _fetch(self, download: Download) -> None:
        digest = download.digest
        with self._content.ingest(digest) as ingest:
            with translated(f"content {digest}"):
                download.fd = os.open(ingest.path, os.O_RDONLY | os.O_CLOEXEC)
            state = await self.run(read_again, ingest, download.size)
            self._show(download, ingest)
            await self._transfer(download, ingest, state)
            if f"sha256:{state.hexdigest()}" != digest:
                ingest.restart()
                raise System(f"content {digest}: the upstream sent something else")
            await self.run(ingest.seal)
            with self._transaction():
                self._content.adopt(digest)
                self._store.content.record(digest, download.size, "")
                self._store.repositories.link(download.reference.path, digest, digest, download.size)
            download.move(download.size)

    async def _transfer(self, download: Download, ingest: Ingest, state: Any) -> None:
        """The bytes that are missing; a transfer that breaks goes on where it was."""
        descriptor = Descriptor(digest=download.digest, size=download.size)
        failures = 0
        while ingest.offset < download.size:
            start = ingest.offset
            try:
                async with self._upstream.blob(
                    download.reference, descriptor, self._credentials, offset=start
                ) as chunks:
                    async for chunk in chunks:
                        await self.run(take, ingest, state, chunk)
                        self._show(download, ingest)
                if ingest.offset < download.size:
                    raise Interrupted(f"content {download.digest}: the upstream's answer ended early")
            except Interrupted:
                failures = 0 if ingest.offset > start else failures + 1
                if failures >= ATTEMPTS:
                    raise

    def _show(self, download: Download, ingest: Ingest) -> None:
        """All but the last byte may be read before the whole is verified."""
        download.move(max(download.available, min(ingest.offset, download.size - 1)))


def read_again(ingest: Ingest, size: int) -> Any:
    """The hash of what an earlier attempt left, which is dropped where it is too much; blocks."""
    if ingest.offset > size:
        ingest.restart()
    state = hashlib.sha256()
    for chunk in ingest.kept():
        state.update(chunk)
    return state


def take(ingest: Ingest, state: Any, chunk: bytes) -> None:
    """Write and hash; blocks."""
    ingest.write(chunk)
    state.update(chunk)

"""Blobs on their way in: files whose digest is told at the end.

Owns <root>/uploads/<id>. An upload's offset is its file's size, so that a client goes on after any crash
where the registry has got to; the hash that runs along is a convenience of one process, and what was
written by another is read again before it counts. Memory held is two batches a running upload.
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from proa.distribution.failures import Code, Refusal
from proa.distribution.names import check_upload, hasher
from proa.distribution.repositories import Database
from proa.errors import System
from proa.schema.reference import Digest

T = TypeVar("T")

SCHEMA: Final = (
    "CREATE TABLE uploads (id TEXT PRIMARY KEY, repository TEXT NOT NULL, started INTEGER NOT NULL) STRICT",
)

BATCH: Final = 1 << 20
"""Bytes that one write and one update of the hash take."""

STALE_SECONDS: Final = 24 * 3600
"""How long an upload waits for its next byte."""

OPEN_MAX: Final = 10_000
"""Uploads begun and not ended."""

_IOV_MAX: Final = 512


class Upload:
    """One blob on its way in; `lock` is held by the request that writes to it."""

    __slots__ = ("hash", "hashed", "id", "lock", "path", "repository")

    def __init__(self, path: Path, repository: str) -> None:
        self.id = path.name
        self.path = path
        self.repository = repository
        self.hash: Any = hashlib.sha256()
        self.hashed = 0
        """Bytes from the start that went through `hash`."""
        self.lock = asyncio.Lock()

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        with translated("blob upload"):
            return self.path.stat().st_size if self.path.exists() else 0


class Uploads:
    """Every upload that is under way."""

    def __init__(self, root: Path, database: Database, executor: Executor, max_bytes: int) -> None:
        """`root` is <root>/uploads; made, mode 0700, where missing. A blob has at most `max_bytes`."""
        self._root = root
        self._database = database
        self._executor = executor
        self._max_bytes = max_bytes
        self._known: dict[str, Upload] = {}
        with translated("blob uploads"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, repository: str) -> Upload:
        """A new, empty upload. Raises Refusal when there are too many."""
        ((count,),) = self._database.query("SELECT count(*) FROM uploads")
        if count >= OPEN_MAX:
            raise Refusal(Code.TOOMANYREQUESTS, "too many uploads are under way")
        upload = Upload(self._root / secrets.token_hex(16), repository)
        with translated("blob upload"):
            os.close(os.open(upload.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._database.execute(
            "INSERT INTO uploads VALUES (?, ?, ?)", (upload.id, repository, int(time.time()))
        )
        self._known[upload.id] = upload
        return upload

    def find(self, repository: str, identity: str) -> Upload:
        """An upload of the repository, begun by this process or an earlier one. Raises Refusal."""
        upload = self._known.get(check_upload(identity))
        if upload is None:
            rows = self._database.query("SELECT repository FROM uploads WHERE id = ?", (identity,))
            if rows and (self._root / identity).exists():
                upload = self._known[identity] = Upload(self._root / identity, rows[0][0])
        if upload is None or upload.repository != repository:
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN, "blob upload unknown to registry")
        return upload

    async def receive(self, upload: Upload, body: AsyncIterator[bytes]) -> None:
        """Append a body; the caller holds the lock. What came before a failure stays.

        Raises Refusal past the most that a blob may have, and what the body raises.
        """
        with ExitStack() as stack:
            with translated("blob upload"):
                fd = os.open(upload.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            batch: list[bytes] = []
            held, left = 0, self._max_bytes - upload.offset
            try:
                async for chunk in body:
                    held += len(chunk)
                    if held > left:
                        raise Refusal(Code.SIZE_INVALID, f"a blob may have at most {self._max_bytes} bytes")
                    batch.append(chunk)
                    if held >= BATCH:
                        full, batch, left, held = batch, [], left - held, 0
                        await self.run(append, fd, upload, full)
            finally:
                if batch:
                    await self.run(append, fd, upload, batch)

    async def finish(self, upload: Upload, digest: str) -> tuple[Digest, int]:
        """Verify and sync the whole; its name in the content store, and its size. The file is the caller's.

        Raises Refusal, and the upload is gone, where it has another digest.
        """
        blob, actual, size = await self.run(seal, upload, digest)
        if actual != digest:
            await self.run(self.remove, upload)
            raise Refusal(
                Code.DIGEST_INVALID, f"provided digest did not match uploaded content: {digest} is {actual}"
            )
        return blob, size

    def end(self, upload: Upload) -> None:
        """Forget the upload; its file has been adopted or is the caller's to remove."""
        self._known.pop(upload.id, None)
        self._database.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))

    def remove(self, upload: Upload) -> None:
        """Remove the file; `end` forgets it. Blocks."""
        upload.path.unlink(missing_ok=True)

    async def cancel(self, upload: Upload) -> None:
        """Give the upload up."""
        async with upload.lock:
            self.end(upload)
            await self.run(self.remove, upload)

    def expire(self, seconds: float = STALE_SECONDS) -> list[Path]:
        """Forget uploads that nobody has written to for so long; returns what to remove."""
        stale = []
        known = {identity for (identity,) in self._database.query("SELECT id FROM uploads")}
        with translated("blob uploads"):
            entries = {entry.name: entry.stat().st_mtime for entry in os.scandir(self._root)}
        for name in known | entries.keys():
            busy = name in self._known and self._known[name].lock.locked()
            if not busy and time.time() - entries.get(name, 0.0) >= seconds:
                self._known.pop(name, None)
                self._database.execute("DELETE FROM uploads WHERE id = ?", (name,))
                stale.append(self._root / name)
        return stale

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run what blocks in the executor, to its end even if the request is cancelled."""
        return await to_end(asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments))


async def to_end(future: "asyncio.Future[T]") -> T:
    """The future's result; a cancelled caller still waits for it: a thread uses what the caller closes."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with suppress(BaseException):
            await asyncio.wait([future])
        if future.done() and not future.cancelled():
            future.exception()  # it is nobody's any more: asyncio would report it
        raise


def append(fd: int, upload: Upload, batch: Sequence[bytes]) -> None:
    """Write chunks at the end and hash them; blocks."""
    with translated("blob upload"):
        start = os.fstat(fd).st_size
        write_all(fd, batch)
    if start == upload.hashed:
        for chunk in batch:
            upload.hash.update(chunk)
            upload.hashed += len(chunk)


def write_all(fd: int, batch: Sequence[bytes]) -> None:
    """Every byte of every chunk."""
    for first in range(0, len(batch), _IOV_MAX):
        part = batch[first : first + _IOV_MAX]
        done = os.writev(fd, part)
        if done < sum(map(len, part)):  # a signal, or a disk that is nearly full
            rest = memoryview(b"".join(part))[done:]
            while rest:
                rest = rest[os.write(fd, rest) :]


def seal(upload: Upload, digest: str) -> tuple[Digest, str, int]:
    """(sha256 of the whole, its digest by the algorithm of `digest`, size), synced to disk; blocks."""
    with translated("blob upload"), upload.path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if upload.hashed != size:
            upload.hash, upload.hashed = hashlib.sha256(), 0
            feed(upload.hash, file)
            upload.hashed = size
        blob = f"sha256:{upload.hash.hexdigest()}"
        actual = blob
        if not digest.startswith("sha256:"):
            file.seek(0)
            other = hasher(digest)
            feed(other, file)
            actual = f"{other.name}:{other.hexdigest()}"
        if actual == digest:
            os.fsync(file.fileno())
    return Digest(blob), actual, size


def feed(state: Any, file: Any) -> None:
    """Hash a file from where it stands to its end."""
    while chunk := file.read(BATCH):
        state.update(chunk)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """A failed system call as System: `what: No space left on device`."""
    try:
        yield
    except OSError as exc:
        raise System(f"{what}: {exc.strerror or exc}") from exc

"""The content store: blobs by digest, complete and verified or not there at all.

Owns <data_root>/content:

    blobs/sha256/<hex>    a blob; known to the database = complete, unknown = garbage
    partial/<hex>         a download under way or broken off: what is there of the blob of that digest
    ingest/<random>/      scratch of one load or import, gone when it ends; garbage at start

A blob is written in scratch or as a partial, its digest computed from the bytes on disk or on their way
there, renamed, and only then recorded. What blobs mean and who needs them is engine/images' business. Layers
are kept in the compression they came with: what is saved or pushed has the digests that it came with.

Power loss: a kill -9 loses nothing of what was written, only a kernel that goes does. A store that is told
its kernel's boot (the daemon's) lets nobody wait for the disk: a blob is recorded with that boot's mark, and
whoever syncs the file system afterwards takes the marks away (`unsynced`, `synced`). What bears the mark of
another boot at the start is `doubtful`: it is to be digested again, and to go where it is not what it was.
A store without a boot (the registry's) has each blob's file on the disk before it is recorded; a row
whose rename did not get there is no blob, as whoever opens it finds.

A partial outlives the process that wrote it, kill -9 included: the next download goes on at its end. Its
bytes are synced only when the blob is whole, and digested again whenever they are used, so what a power loss
made of them costs a second download and nothing else. It is kept for PARTIAL_SECONDS after its last byte.

Words: ingest, commit, lease as in containerd's core/content.
"""

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol, Self

import proa_native

from proa.errors import Conflict, NotFound, System
from proa.schema.reference import Digest, digest_hex, parse_digest

PARTIAL_SECONDS: Final = 24 * 3600
"""How long what a broken download left waits for the next one."""

_STEP: Final = 1 << 20

SCHEMA: Final = (
    """
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        diff_id TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "ALTER TABLE blobs ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
)
"""`boot`: of which boot's kernel it is in memory, perhaps not on disk; empty: it is on disk."""


class Database(Protocol):
    """The metadata store as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


@contextmanager
def translated(what: str) -> Iterator[None]:
    """A failed system call as System: `what: No space left on device`."""
    try:
        yield
    except OSError as exc:
        raise System(f"{what}: {exc.strerror or exc}") from exc


class Ingest:
    """One blob on its way in, by digest: a file that the next process can go on with.

    Whoever has it verifies: only what had the digest when its bytes went through may be sealed and adopted.
    """

    def __init__(self, path: Path, digest: Digest, *, sync: bool = True) -> None:
        """For `Content.ingest`. Opens what is there."""
        self.path = path
        self.digest = digest
        self._sync = sync
        with translated(f"open {path}"):
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.lseek(self.fd, 0, os.SEEK_END)

    @property
    def offset(self) -> int:
        """Bytes that are there: where a download goes on."""
        return os.fstat(self.fd).st_size

    def kept(self) -> Iterator[bytes]:
        """What is there already, from the start, in steps; blocks in the file system."""
        position = 0
        while True:
            with translated(f"read {self.path}"):
                chunk = os.pread(self.fd, _STEP, position)
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    def write(self, chunk: bytes) -> None:
        """Append; blocks in the file system."""
        rest = memoryview(chunk)
        with translated(f"write {self.path}"):
            while rest:
                rest = rest[os.write(self.fd, rest) :]

    def restart(self) -> None:
        """Drop what is there: it was not the blob's beginning."""
        with translated(f"write {self.path}"):
            os.ftruncate(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)

    def seal(self) -> None:
        """The blob is whole and verified: let it reach the disk, where the store wants that; blocks."""
        if not self._sync:
            return
        with translated(f"write {self.path}"):
            os.fsync(self.fd)

    def close(self) -> None:
        """Let go of the file; it stays if there is something in it to go on with. Idempotent."""
        if self.fd < 0:
            return
        if not self.offset:
            with suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Content:
    """Blobs by digest. Methods only touch the database or one inode; without a boot `place` blocks."""

    def __init__(self, root: Path, database: Database, *, boot: str = "") -> None:
        """`root` is <data_root>/content; made, mode 0700, where missing. `boot`: this kernel's boot id."""
        self.root = root
        self._boot = boot
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._partial = root / "partial"
        self._open: set[Digest] = set()
        self._database = database
        with translated(f"content store {root}"):
            for directory in (root, root / "blobs", self._blobs, self._ingest, self._partial):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where a blob lies, or would."""
        return self._blobs / digest_hex(digest)

    def find(self, digest: Digest) -> tuple[int, str] | None:
        """(size, diff_id) of a blob that is there."""
        rows = self._database.query("SELECT size, diff_id FROM blobs WHERE digest = ?", (digest,))
        return rows[0] if rows else None

    def size(self, digest: Digest) -> int:
        """Bytes of a blob. Raises NotFound."""
        found = self.find(digest)
        if found is None:
            raise NotFound(f"content {digest}: not found")
        return found[0]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory for one ingest, removed (blocking: keep it flat) at the end."""
        directory = self._ingest / secrets.token_hex(8)
        with translated("content store"):
            directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            with suppress(OSError):
                proa_native.remove_tree(str(directory))

    @contextmanager
    def ingest(self, digest: Digest) -> Iterator[Ingest]:
        """Begin a blob, or go on where an earlier attempt ended; one at a time. Raises Conflict, System."""
        if digest in self._open:
            raise Conflict(f"content {digest}: is being written")
        self._open.add(digest)
        try:
            path = self._partial / digest_hex(digest)
            with Ingest(path, digest, sync=not self._boot) as ingest:
                yield ingest
        finally:
            self._open.discard(digest)

    def adopt(self, digest: Digest) -> None:
        """Move a sealed ingest to its digest's name, at once, without waiting for the disk.

        Belongs before `record`, in the same transaction: nobody may await between them.
        """
        with translated(f"content {digest}"):
            (self._partial / digest_hex(digest)).replace(self.path(digest))

    def expired(self, seconds: float = PARTIAL_SECONDS) -> list[Path]:
        """Put partials aside that nobody has written to for so long; returns what to remove."""
        aside = []
        with translated("content store"):
            for entry in list(os.scandir(self._partial)):
                digest = Digest(f"sha256:{entry.name}")
                target = self._ingest / f"unlink-{secrets.token_hex(8)}"
                with suppress(FileNotFoundError):  # a download that failed takes its empty one away itself
                    if digest in self._open or time.time() - entry.stat().st_mtime < seconds:
                        continue
                    os.rename(entry.path, target)
                    aside.append(target)
        return aside

    def place(self, source: Path, digest: Digest) -> None:
        """Move a complete, verified file to its digest's name. `record` makes it known."""
        with translated(f"content {digest}"):
            if not self._boot:
                with source.open("rb") as file:
                    os.fsync(file.fileno())
            source.replace(self.path(digest))

    def record(self, digest: Digest, size: int, diff_id: str) -> None:
        """Make a placed blob known. Idempotent; belongs into the transaction that makes it needed."""
        self._database.execute(
            "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?)", (digest, size, diff_id, self._boot)
        )

    def forget(self, digests: Iterable[str]) -> None:
        """Make blobs unknown; `discard` them once that is committed."""
        for digest in digests:
            self._database.execute("DELETE FROM blobs WHERE digest = ?", (digest,))

    def discard(self, digests: Iterable[str]) -> list[Path]:
        """Move forgotten blobs aside, at once, so that their names can be used again.

        Returns what to unlink; that may take a while and is for an executor.
        """
        aside = []
        for digest in digests:
            target = self._ingest / f"unlink-{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                self.path(parse_digest(digest)).rename(target)
                aside.append(target)
        return aside

    # ---- power loss -----------------------------------------------------------------------------

    def unsynced(self) -> list[str]:
        """What this boot recorded and no sync has seen: to be asked for before one."""
        if not self._boot:
            return []
        rows = self._database.query("SELECT digest FROM blobs WHERE boot = ?", (self._boot,))
        return [digest for (digest,) in rows]

    def synced(self, digests: Iterable[str]) -> None:
        """They are on disk."""
        for digest in digests:
            self._database.execute("UPDATE blobs SET boot = '' WHERE digest = ?", (digest,))

    def doubtful(self) -> list[Digest]:
        """What an earlier boot recorded and never synced. For the start."""
        rows = self._database.query("SELECT digest FROM blobs WHERE boot NOT IN ('', ?)", (self._boot,))
        return [Digest(digest) for (digest,) in rows]

    def verified(self, digest: Digest) -> None:
        """A doubtful blob is what it was; the next sync takes the doubt away."""
        self._database.execute("UPDATE blobs SET boot = ? WHERE digest = ?", (self._boot, digest))

    # ---- start ----------------------------------------------------------------------------------

    def sweep(self) -> list[Path]:
        """Put what the database does not know out of the way. For the start, before any ingest.

        Returns what to remove; that may take a while and is for an executor.
        """
        known = {digest for (digest,) in self._database.query("SELECT digest FROM blobs")}
        with translated("content store"):
            for entry in list(os.scandir(self._blobs)):
                if f"sha256:{entry.name}" not in known:
                    os.rename(entry.path, self._ingest / f"unlink-{secrets.token_hex(8)}")
            return list(self._ingest.iterdir())


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files or directories, as far as they are there; blocks."""
    for path in paths:
        with translated(f"content store {path}"):
            proa_native.remove_tree(str(path))


def digest_of(data: bytes) -> Digest:
    """The digest of bytes in memory."""
    return Digest("sha256:" + sha256(data).hexdigest())

"""The metadata store: one SQLite database in WAL mode that holds what must survive any process's death.

Owns the connection, the pragmas, schema versions and checkpoints; must not know what the tables mean.
`synchronous=NORMAL`: a commit is one write() into the log (survives kill -9 of anything), fsync happens
at checkpoints only, which run on a thread with a connection of its own. All other calls are made in the
loop thread; one takes tens of microseconds.

A room's SCHEMA is a tuple of SQL scripts, one per version, oldest first; versions are kept per room.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proa.errors import System

CHECKPOINT_EVERY = 500
"""Committed transactions between checkpoints: about 4 MB of log."""

_VERSIONS = "CREATE TABLE IF NOT EXISTS schema_version (room TEXT PRIMARY KEY, version INTEGER NOT NULL)"


class Metadata:
    """The open store. Implements the `Database` Protocols of the rooms that keep something here."""

    def __init__(
        self, path: Path, schemas: Mapping[str, Sequence[str]], executor: Executor | None = None
    ) -> None:
        """Open or make the database at `path` and bring every room's tables up to date.

        Raises System when it cannot be opened or was written by a newer version.
        """
        self._path = path
        self._executor = executor
        self._depth = 0
        self._commits = 0
        self._checkpoint: asyncio.Future[None] | None = None
        try:
            # It has the environment of every container in it. What SQLite puts beside it takes its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise System(f"metadata store {path}: {exc.strerror}") from exc
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "wal_autocheckpoint=0",
                "foreign_keys=ON",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(_VERSIONS)
            for room, scripts in schemas.items():
                self._migrate(room, scripts)
        except sqlite3.Error as exc:
            raise System(f"metadata store {path}: {exc}") from exc

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            raise translate(exc) from exc

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement, committed at once unless inside `transaction()`; returns the rows changed."""
        try:
            changed = self._connection.execute(sql, parameters).rowcount
        except sqlite3.Error as exc:
            raise translate(exc) from exc
        if not self._depth:
            self._committed()
        return changed

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing for what is executed inside. Nests: the outermost commits. Must not await inside."""
        if self._depth:
            yield
            return
        self._begin()
        try:
            yield
        except BaseException:
            self._depth = 0
            self._connection.execute("ROLLBACK")
            raise
        self._depth = 0
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise translate(exc) from exc
        self._committed()

    async def close(self) -> None:
        """Write the log back and close; the store stays valid without this, too."""
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._connection.close()

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            raise translate(exc) from exc
        self._depth = 1

    def _migrate(self, room: str, scripts: Sequence[str]) -> None:
        rows = self.query("SELECT version FROM schema_version WHERE room = ?", (room,))
        version = rows[0][0] if rows else 0
        if version > len(scripts):
            raise System(
                f"metadata store {self._path}: {room} has version {version}, this proad knows {len(scripts)}"
            )
        for number, script in enumerate(scripts[version:], version + 1):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {script.rstrip().rstrip(';')};"
                f"INSERT OR REPLACE INTO schema_version VALUES ('{room}', {number}); COMMIT;"
            )

    def _committed(self) -> None:
        self._commits += 1
        if self._commits < CHECKPOINT_EVERY or (self._checkpoint and not self._checkpoint.done()):
            return
        self._commits = 0
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # opened and filled before the loop runs
            _write_back(self._path)
            return
        self._checkpoint = loop.run_in_executor(self._executor, _write_back, self._path)


def translate(exc: sqlite3.Error) -> System:
    """The error a user reads: a full disk is told in the kernel's words."""
    if getattr(exc, "sqlite_errorname", "").startswith("SQLITE_FULL"):
        return System("metadata store: no space left on device")
    return System(f"metadata store: {exc}")


def _write_back(path: Path) -> None:
    """Move the log into the database file as far as no reader needs it; the next writer starts it over."""
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.OperationalError:
        pass  # busy or disk full: the next one tries again, the log only grows meanwhile
    finally:
        connection.close()

"""Mark and sweep. The tables are the marks; what no row needs is taken away in short transactions.

Safe beside a server with the same root, in another process or this one: a link that no manifest needs
survives for `grace` seconds after it was made or asked for, so that a push under way finds what it was told
is there; and a manifest is stored in the same kind of transaction that looks for its blobs, so that one which
was collected is missed then and not later.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct

from proa.distribution.repositories import Database
from proa.schema.reference import Digest

GRACE_SECONDS: Final = 24 * 3600
BATCH: Final = 500
"""Rows that one transaction takes away: a server's requests wait for it."""

_UNTAGGED = """
    SELECT m.rowid, m.repository, m.digest FROM manifests m WHERE m.stored < ?
    AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository = m.repository AND t.digest = m.digest)
    AND NOT EXISTS (SELECT 1 FROM members p WHERE p.repository = m.repository AND p.digest = m.digest)
    AND (m.subject = '' OR NOT EXISTS (
        SELECT 1 FROM manifests s WHERE s.repository = m.repository AND s.digest = m.subject))
    LIMIT ?
"""
_UNNEEDED = """
    SELECT l.repository, l.digest FROM links l WHERE l.used < ?
    AND NOT EXISTS (SELECT 1 FROM members m WHERE m.repository = l.repository AND m.digest = l.digest)
    LIMIT ?
"""
_UNLINKED = """
    SELECT b.digest, b.size FROM blobs b
    WHERE NOT EXISTS (SELECT 1 FROM links l WHERE l.blob = b.digest) LIMIT ?
"""
_EMPTY = """
    DELETE FROM repositories WHERE
    NOT EXISTS (SELECT 1 FROM links l WHERE l.repository = name)
    AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository = name)
"""


class Blobs(Protocol):
    """The content store as the collection sees it."""

    def forget(self, digests: Sequence[str]) -> None: ...
    def discard(self, digests: Sequence[str]) -> list[Path]: ...


class Collected(Struct, frozen=True, kw_only=True):
    """What went."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    size: int = 0
    """Bytes of the blobs."""
    aside: list[Path] = []
    """Files to unlink; that may take a while and is for an executor."""


def collect(
    database: Database, content: Blobs, now: float, *, grace: float = GRACE_SECONDS, untagged: bool = False
) -> Collected:
    """Take away links and blobs that nothing needs, and with `untagged` manifests that no tag leads to."""
    before = int(now - grace)
    manifests = _untagged(database, before) if untagged else 0
    links = _batches(database, _UNNEEDED, (before, BATCH), _unlink)
    blobs, size, aside = 0, 0, list[Path]()
    while True:
        with database.transaction():
            found = database.query(_UNLINKED, (BATCH,))
            digests = [Digest(digest) for digest, _ in found]
            content.forget(digests)
            aside += content.discard(digests)
        blobs += len(found)
        size += sum(bytes_ for _, bytes_ in found)
        if len(found) < BATCH:
            break
    with database.transaction():
        database.execute(_EMPTY)
    return Collected(manifests=manifests, links=links, blobs=blobs, size=size, aside=aside)


def _untagged(database: Database, before: int) -> int:
    """An index that goes makes its children garbage: again until nothing is found."""
    total = 0
    while count := _batches(database, _UNTAGGED, (before, BATCH), _drop_manifest):
        total += count
    return total


def _batches(database: Database, select: str, parameters: Sequence[object], remove: Any) -> int:
    total = 0
    while True:
        with database.transaction():
            rows = database.query(select, parameters)
            for row in rows:
                remove(database, row)
        total += len(rows)
        if len(rows) < BATCH:
            return total


def _drop_manifest(database: Database, row: tuple[Any, ...]) -> None:
    rowid, repository, digest = row
    database.execute("DELETE FROM manifests WHERE rowid = ?", (rowid,))
    database.execute("DELETE FROM members WHERE repository = ? AND manifest = ?", (repository, digest))


def _unlink(database: Database, row: tuple[Any, ...]) -> None:
    database.execute("DELETE FROM links WHERE repository = ? AND digest = ?", row)

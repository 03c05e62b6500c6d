"""Repositories: which blobs, manifests and tags each one has. The database's side of the registry.

    links       repository, digest -> a blob of the content store: a repository sees what was pushed or
                mounted to it and nothing else
    manifests   as they came; small, so that they lie in the database itself
    members     what a manifest refers to: the marks of the collection
    tags        repository, tag -> a manifest's digest

A blob is asked for by the digest that its pusher used (sha256 or sha512); the content store knows it by its
sha256. Every method is short and runs in the loop's thread; several processes may have the store open
(the server and `gc`), and what belongs together is one IMMEDIATE transaction.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from proa.distribution.failures import Code, Refusal
from proa.distribution.manifests import Parsed
from proa.distribution.names import is_digest
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest

TOUCH_SECONDS: Final = 600
"""How exactly it is known when a link was last asked for by a pusher."""

SCHEMA: Final = (
    """
    CREATE TABLE repositories (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE links (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        blob TEXT NOT NULL,
        size INTEGER NOT NULL,
        used INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX links_blob ON links (blob);
    CREATE TABLE manifests (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        data BLOB NOT NULL,
        subject TEXT NOT NULL,
        artifact_type TEXT NOT NULL,
        annotations BLOB NOT NULL,
        stored INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) STRICT;
    CREATE INDEX manifests_subject ON manifests (repository, subject, digest);
    CREATE TABLE members (
        repository TEXT NOT NULL,
        manifest TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (repository, digest, manifest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX members_manifest ON members (repository, manifest);
    CREATE TABLE tags (
        repository TEXT NOT NULL,
        tag TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_digest ON tags (repository, digest)
    """,
)


class Database(Protocol):
    """The metadata store as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...
    def transaction(self) -> AbstractContextManager[None]: ...


class Link(Struct, frozen=True):
    """A blob as one repository has it: `blob` is its name in the content store."""

    blob: Digest
    size: int


class Stored(Struct, frozen=True):
    """A manifest as it came."""

    digest: str
    media_type: str
    data: bytes


class Repositories:
    """The registry's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- blobs -----------------------------------------------------------------------------------

    def link(self, repository: str, digest: str, blob: Digest, size: int) -> None:
        """Let the repository have a blob of the content store. Idempotent."""
        self._note(repository)
        self._database.execute(
            "INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?)",
            (repository, digest, blob, size, int(time.time())),
        )

    def find_blob(self, repository: str, digest: str) -> Link | None:
        """The blob, where the repository has it."""
        rows = self._database.query(
            "SELECT blob, size FROM links WHERE repository = ? AND digest = ?", (repository, digest)
        )
        return Link(*rows[0]) if rows else None

    def blob(self, repository: str, digest: str) -> Link:
        """The blob; raises Refusal."""
        found = self.find_blob(repository, digest)
        if found is None:
            raise Refusal(Code.BLOB_UNKNOWN, f"blob unknown to registry: {digest}")
        return found

    def touch(self, repository: str, digest: str) -> None:
        """A pusher was told that the blob is here: it is kept for the manifest that is to come."""
        now = int(time.time())
        self._database.execute(
            "UPDATE links SET used = ? WHERE repository = ? AND digest = ? AND used < ?",
            (now, repository, digest, now - TOUCH_SECONDS),
        )

    def unlink(self, repository: str, digest: str) -> None:
        """Take a blob from the repository; raises Refusal where it has none."""
        if not self._database.execute(
            "DELETE FROM links WHERE repository = ? AND digest = ?", (repository, digest)
        ):
            raise Refusal(Code.BLOB_UNKNOWN, f"blob unknown to registry: {digest}")

    # ---- manifests -------------------------------------------------------------------------------

    def find_manifest(self, repository: str, reference: str) -> Stored | None:
        """By tag or digest."""
        digest = reference if is_digest(reference) else self.tagged(repository, reference)
        rows = self._database.query(
            "SELECT digest, media_type, data FROM manifests WHERE repository = ? AND digest = ?",
            (repository, digest),
        )
        return Stored(*rows[0]) if rows else None

    def manifest(self, repository: str, reference: str) -> Stored:
        """By tag or digest; raises Refusal."""
        found = self.find_manifest(repository, reference)
        if found is not None:
            return found
        if not self.exists(repository):
            raise Refusal(Code.NAME_UNKNOWN, f"repository name not known to registry: {repository}")
        raise Refusal(Code.MANIFEST_UNKNOWN, f"manifest unknown: {reference}")

    def tagged(self, repository: str, tag: str) -> str:
        """The digest that a tag stands for, empty for none."""
        rows = self._database.query(
            "SELECT digest FROM tags WHERE repository = ? AND tag = ?", (repository, tag)
        )
        return str(rows[0][0]) if rows else ""

    def put(
        self,
        repository: str,
        stored: Stored,
        parsed: Parsed,
        tags: Sequence[str],
        complete: bool = True,
    ) -> None:
        """Store a manifest and move tags to it; raises Refusal where `complete` and something is missing."""
        with self._database.transaction():
            if complete:
                self._check_complete(repository, parsed)
            self._note(repository)
            self._database.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    repository,
                    stored.digest,
                    stored.media_type,
                    stored.data,
                    parsed.subject,
                    parsed.artifact_type,
                    msgspec.json.encode(parsed.annotations),
                    int(time.time()),
                ),
            )
            for member in (*parsed.blobs, *parsed.children, *parsed.elsewhere):
                self._database.execute(
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)",
                    (repository, stored.digest, member.digest, member.size),
                )
            for tag in tags:
                self.tag(repository, tag, stored.digest)

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Move a tag."""
        self._database.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (repository, tag, digest))

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Whether it is there."""
        return bool(
            self._database.query(
                "SELECT 1 FROM manifests WHERE repository = ? AND digest = ?", (repository, digest)
            )
        )

    def member_size(self, repository: str, digest: str) -> int | None:
        """Bytes of a blob by the word of a manifest of the repository."""
        rows = self._database.query(
            "SELECT size FROM members WHERE repository = ? AND digest = ? LIMIT 1", (repository, digest)
        )
        return int(rows[0][0]) if rows else None

    def delete(self, repository: str, reference: str) -> None:
        """Delete a tag, or a manifest with every tag on it; raises Refusal where it is not there."""
        with self._database.transaction():
            if not is_digest(reference):
                sql = "DELETE FROM tags WHERE repository = ? AND tag = ?"
            else:
                sql = "DELETE FROM manifests WHERE repository = ? AND digest = ?"
                for table, column in (("tags", "digest"), ("members", "manifest")):
                    self._database.execute(
                        f"DELETE FROM {table} WHERE repository = ? AND {column} = ?", (repository, reference)
                    )
            if not self._database.execute(sql, (repository, reference)):
                raise Refusal(Code.MANIFEST_UNKNOWN, f"manifest unknown: {reference}")

    def referrers(
        self, repository: str, subject: str, artifact_type: str, after: str, count: int
    ) -> list[Descriptor]:
        """Descriptors of manifests whose subject it is, by digest, at most `count` after `after`."""
        rows = self._database.query(
            "SELECT digest, media_type, length(data), artifact_type, annotations FROM manifests "
            "WHERE repository = ? AND subject = ? AND digest > ? AND (? = '' OR artifact_type = ?) "
            "ORDER BY digest LIMIT ?",
            (repository, subject, after, artifact_type, artifact_type, count),
        )
        return [
            Descriptor(
                digest=digest,
                media_type=media_type,
                size=size,
                artifact_type=kind,
                annotations=msgspec.json.decode(annotations),
            )
            for digest, media_type, size, kind, annotations in rows
        ]

    # ---- names -----------------------------------------------------------------------------------

    def exists(self, repository: str) -> bool:
        """Whether anything was ever pushed to it, and not collected since."""
        return bool(self._database.query("SELECT 1 FROM repositories WHERE name = ?", (repository,)))

    def tags(self, repository: str, after: str, count: int) -> list[str]:
        """Sorted by bytes, at most `count` after `after`. Raises Refusal for an unknown repository."""
        if not self.exists(repository):
            raise Refusal(Code.NAME_UNKNOWN, f"repository name not known to registry: {repository}")
        rows = self._database.query(
            "SELECT tag FROM tags WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?",
            (repository, after, count),
        )
        return [tag for (tag,) in rows]

    def names(self, after: str, count: int) -> list[str]:
        """Repositories, sorted by bytes."""
        rows = self._database.query(
            "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", (after, count)
        )
        return [name for (name,) in rows]

    def _note(self, repository: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO repositories VALUES (?)", (repository,))

    def _check_complete(self, repository: str, parsed: Parsed) -> None:
        for blob in parsed.blobs:
            found = self.find_blob(repository, blob.digest)
            if found is None:
                raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"blob unknown to registry: {blob.digest}")
            if found.size != blob.size:
                raise Refusal(
                    Code.MANIFEST_INVALID,
                    f"manifest invalid: {blob.digest} has {found.size} bytes, not {blob.size}",
                )
        for child in parsed.children:
            if not self.has_manifest(repository, child.digest):
                raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, f"manifest unknown to registry: {child.digest}")

"""Blobs of the content store as repositories have them: what ties files and tables together.

A file becomes a blob, and a blob a repository's, in one transaction of the loop's thread; the collection
takes blobs away in another. So neither a crash nor a collection in another process can come between.
"""

import os
from pathlib import Path
from typing import Protocol

from proa.distribution.repositories import Database, Link, Repositories
from proa.distribution.uploads import Upload, Uploads
from proa.schema.reference import Digest


class Blobs(Protocol):
    """The content store as this room sees it."""

    def path(self, digest: Digest) -> Path: ...
    def find(self, digest: Digest) -> tuple[int, str] | None: ...
    def record(self, digest: Digest, size: int, diff_id: str) -> None: ...


class Store:
    """What the server reads and writes."""

    def __init__(
        self, database: Database, content: Blobs, repositories: Repositories, uploads: Uploads
    ) -> None:
        self._database = database
        self.content = content
        self.repositories = repositories
        self.uploads = uploads

    async def commit(self, upload: Upload, digest: str) -> Link:
        """End an upload as a blob of its repository; the caller holds its lock. Raises Refusal, System."""
        try:
            blob, size = await self.uploads.finish(upload, digest)
        except BaseException:
            if not upload.path.exists():
                self.uploads.end(upload)
            raise
        with self._database.transaction():
            if not self.has(blob):
                os.replace(upload.path, self.content.path(blob))
                self.content.record(blob, size, "")
            self.repositories.link(upload.repository, digest, blob, size)
            self.uploads.end(upload)
        await self.uploads.run(self.uploads.remove, upload)
        return Link(blob, size)

    def has(self, blob: Digest) -> bool:
        """Whether the content store has it: a collection that died may have left a row without its file."""
        return self.content.find(blob) is not None and self.content.path(blob).exists()

    def open(self, link: Link) -> int:
        """A descriptor of a blob's file, the caller's; it outlives the blob's deletion. Raises OSError."""
        return os.open(self.content.path(link.blob), os.O_RDONLY | os.O_CLOEXEC)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Let `repository` share a blob of `source`; False where that has none."""
        with self._database.transaction():
            found = self.repositories.find_blob(source, digest)
            if found is None:
                return False
            self.repositories.link(repository, digest, found.blob, found.size)
        return True

"""Indexes: what a name means that stands for images of several platforms, one of them the name's own here.

Every image of an index is named by its manifest's digest in the name's repository, and its manifest is kept.
A name that is given anew means one image again.

Source: OCI image specification, image-index.md.
"""

from typing import Final

import msgspec

from proa.engine.ports import Database
from proa.schema.oci import Index
from proa.schema.reference import Reference

SCHEMA: Final = """
    CREATE TABLE image_indexes (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        data BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """

_index = msgspec.json.Decoder(Index)


class Indexes:
    """Indexes by name. Every call is direct."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, name: Reference, image_id: str, data: bytes) -> None:
        """What a name means beside its image; for the transaction that names it, after that."""
        self._database.execute(
            "INSERT OR REPLACE INTO image_indexes VALUES (?, ?, ?)", (name.canonical, image_id, data)
        )

    def forget(self, name: Reference) -> None:
        """The name means one image."""
        self._database.execute("DELETE FROM image_indexes WHERE name = ?", (name.canonical,))

    def find(self, name: Reference) -> bytes | None:
        """The index of a name, as it was made."""
        rows = self._database.query("SELECT data FROM image_indexes WHERE name = ?", (name.canonical,))
        return rows[0][0] if rows else None


def children(name: Reference, index: bytes) -> list[Reference]:
    """The names of an index's images, in its order."""
    return [
        Reference(name.domain, name.path, "", descriptor.digest)
        for descriptor in _index.decode(index).manifests
    ]

"""Indexes: what a name means that stands for images of several platforms, one of them the name's own here.

Every image of an index is named by its manifest's digest in the name's repository, and its manifest is kept.
A name that is given anew means one image again, and those names go with the last index that has them.

Source: OCI image specification, image-index.md.
"""

from typing import Final

import msgspec

from proa.engine.ports import Database
from proa.schema.oci import Descriptor, Index
from proa.schema.reference import Reference, parse_digest, parse_reference

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

    def forget(self, name: Reference) -> list[Reference]:
        """The name means one image; returns the names of those that no index has any more."""
        index = self.find(name)
        if index is None:
            return []
        self._database.execute("DELETE FROM image_indexes WHERE name = ?", (name.canonical,))
        left = self.names()
        return [child for child in children(name, index) if child.canonical not in left]

    def names(self) -> set[str]:
        """The names (canonical) of every index's images."""
        rows = self._database.query("SELECT name, data FROM image_indexes")
        return {child.canonical for name, data in rows for child in children(parse_reference(name), data)}

    def find(self, name: Reference) -> bytes | None:
        """The index of a name, as it was made."""
        rows = self._database.query("SELECT data FROM image_indexes WHERE name = ?", (name.canonical,))
        return rows[0][0] if rows else None


def children(name: Reference, index: bytes) -> list[Reference]:
    """The names of an index's images, in its order."""
    return [child_name(name, descriptor) for descriptor in descriptors(index)]


def child_name(name: Reference, descriptor: Descriptor) -> Reference:
    """What an index's image is named by."""
    return Reference(name.domain, name.path, "", parse_digest(descriptor.digest))


def descriptors(index: bytes) -> list[Descriptor]:
    """What an index names, in its order."""
    return _index.decode(index).manifests

"""What the engine stores of a container: the record (settled at create) and the state, in one row each.

Two tables, because the record is large and never changes, and the state is small and changes often.
"""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from proa.engine.ports import Database
from proa.engine.resolve import Resolved
from proa.engine.state import State

SCHEMA: tuple[str, ...] = (
    """
    CREATE TABLE container (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE container_state (
        id TEXT PRIMARY KEY REFERENCES container(id) ON DELETE CASCADE, state BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
)


class Record(Struct, frozen=True, kw_only=True):
    """A container as it was created, with the changes of rename and update."""

    id: str
    name: str
    """Without the slash."""
    created_ns: int
    image_id: str
    """`sha256:<hex>`, empty with ProaRootfs."""
    image_layers: tuple[str, ...]
    """Directories of its image's layers, top first."""
    platform: str
    resolved: Resolved


_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_state = msgspec.msgpack.Decoder(State).decode


class ContainerTable:
    """The rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Iterator[tuple[Record, State]]:
        """Every container, as it was stored last."""
        rows = self._database.query("SELECT record, state FROM container JOIN container_state USING (id)")
        for record, state in rows:
            yield _decode_record(record), _decode_state(state)

    def insert(self, record: Record, state: State) -> None:
        """A new container: from here on it exists."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO container VALUES (?, ?, ?)", (record.id, record.name, _encode(record))
            )
            self._database.execute("INSERT INTO container_state VALUES (?, ?)", (record.id, _encode(state)))

    def save_record(self, record: Record) -> None:
        """Its record has changed (rename, update)."""
        self._database.execute(
            "UPDATE container SET name = ?, record = ? WHERE id = ?",
            (record.name, _encode(record), record.id),
        )

    def save_state(self, id_: str, state: State) -> None:
        """Its state has changed."""
        self._database.execute("UPDATE container_state SET state = ? WHERE id = ?", (_encode(state), id_))

    def delete(self, id_: str) -> None:
        """It is gone."""
        self._database.execute("DELETE FROM container WHERE id = ?", (id_,))

"""The networks in the metadata store: ids that stay, and the subnet that the default bridge was given."""

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

SCHEMA = (
    """
    CREATE TABLE networks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        driver TEXT NOT NULL,
        subnet TEXT NOT NULL DEFAULT '',
        gateway TEXT NOT NULL DEFAULT '',
        created_ns INTEGER NOT NULL
    );
    """,
)

PREDEFINED = (("bridge", "bridge"), ("host", "host"), ("none", "null"))
"""Name and driver of the networks that are always there."""


class Database(Protocol):
    """The metadata store, as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


class NetworkRecord(Struct, frozen=True, kw_only=True):
    """One network; subnet and gateway in text, empty where it has none (yet)."""

    id: str
    name: str
    driver: str
    subnet: str = ""
    gateway: str = ""
    created_ns: int = 0


_COLUMNS = "id, name, driver, subnet, gateway, created_ns"


def load(database: Database) -> dict[str, NetworkRecord]:
    """All networks by name; the predefined ones are made if missing."""
    found = {row[1]: _record(row) for row in database.query(f"SELECT {_COLUMNS} FROM networks")}
    for name, driver in PREDEFINED:
        if name not in found:
            record = NetworkRecord(
                id=os.urandom(32).hex(), name=name, driver=driver, created_ns=time.time_ns()
            )
            store(database, record)
            found[name] = record
    return found


def store(database: Database, record: NetworkRecord) -> None:
    """Write one network, new or changed."""
    database.execute(
        f"INSERT OR REPLACE INTO networks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (record.id, record.name, record.driver, record.subnet, record.gateway, record.created_ns),
    )


def _record(row: tuple[Any, ...]) -> NetworkRecord:
    return NetworkRecord(
        id=row[0], name=row[1], driver=row[2], subnet=row[3], gateway=row[4], created_ns=row[5]
    )

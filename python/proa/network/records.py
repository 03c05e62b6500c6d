"""The networks in the metadata store: what was asked for at their creation, and ids that stay."""

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from proa.network.ipam import IPV4, Subnet, parse_any

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
    """
    CREATE TABLE network (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO network
        SELECT id, name, CAST(json_object(
            'id', id, 'name', name, 'driver', driver, 'created_ns', created_ns,
            'subnets', CASE subnet WHEN '' THEN json('[]')
                ELSE json_array(json_object('subnet', subnet, 'gateway', gateway)) END
        ) AS BLOB) FROM networks;
    DROP TABLE networks;
    """,
)

PREDEFINED = (("bridge", "bridge"), ("host", "host"), ("none", "null"))
"""Name and driver of the networks that are always there."""
BUILTIN = frozenset(name for name, _ in PREDEFINED)


class Database(Protocol):
    """The metadata store, as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


class SubnetRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One subnet of a network; all in text, empty for what there is not."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    configured: bool = False
    """It was asked for, not chosen from a pool: only then may containers ask for addresses."""
    gateway_chosen: bool = False
    """Nobody asked for this gateway."""

    @property
    def range(self) -> Subnet:
        """The subnet, parsed."""
        return Subnet.parse(self.subnet)

    @property
    def reserved(self) -> tuple[int, ...]:
        """Addresses that no container gets."""
        named = [*((self.gateway,) if self.gateway else ()), *self.auxiliary.values()]
        return tuple(parse_any(text)[0] for text in named)


class NetworkRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One network, as it was created."""

    id: str
    name: str
    driver: str
    created_ns: int = 0
    subnets: tuple[SubnetRecord, ...] = ()
    scope: str = "local"
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    config_only: bool = False
    """It only lends others its configuration: nothing of it is on the host, and no container is on it."""
    config_from: str = ""
    """The name of the one whose configuration it has."""

    @property
    def builtin(self) -> bool:
        """One of the three that are always there."""
        return self.name in BUILTIN

    @property
    def subnet(self) -> str:
        """The first IPv4 subnet; empty without one."""
        return next((s.subnet for s in self.subnets if s.range.bits == IPV4), "")

    @property
    def gateway(self) -> str:
        """Of the first IPv4 subnet; empty without one."""
        return next((s.gateway for s in self.subnets if s.range.bits == IPV4), "")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(NetworkRecord).decode


def load(database: Database) -> dict[str, NetworkRecord]:
    """All networks by name; the predefined ones are made if missing."""
    found = {row[0]: _decode(row[1]) for row in database.query("SELECT name, record FROM network")}
    for name, driver in PREDEFINED:
        if name not in found:
            record = NetworkRecord(id=new_id(), name=name, driver=driver, created_ns=time.time_ns())
            store(database, record)
            found[name] = record
    return found


def store(database: Database, record: NetworkRecord) -> None:
    """Write one network, new or changed."""
    database.execute(
        "INSERT OR REPLACE INTO network VALUES (?, ?, ?)", (record.id, record.name, _encode(record))
    )


def delete(database: Database, record: NetworkRecord) -> None:
    """Forget one network."""
    database.execute("DELETE FROM network WHERE id = ?", (record.id,))


def new_id() -> str:
    """64 hex digits."""
    return os.urandom(32).hex()

"""The build cache: which step, on what, made which layer.

A step's key is the digest of its operation, of the keys of its inputs and of the content it reads from
outside the graph. An image's key is the layers it has, so that a base of another name changes nothing.

Owns the table of tables.py. An entry keeps its layer, and all below it, from being collected; a layer that an
image has, too, is no garbage once its entry is pruned.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from proa.build import graph

_VERSION: Final = 2
"""Raised whenever what a step makes of the same operation changes."""


class Database(Protocol):
    """The metadata store as the cache sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


class Identity(Struct, frozen=True):
    """What a key was made of, by part, so that a miss can be explained."""

    key: str
    parts: dict[str, str]


class Entry(Struct, frozen=True):
    """A layer that is there."""

    key: str
    chain_id: str
    diff_id: str
    description: str
    created_ns: int
    used_ns: int
    uses: int


def identify(operation: graph.Operation, inputs: Sequence[str], reads: Sequence[str]) -> Identity:
    """The identity of a step: its operation, its inputs' keys, the digests of what else it reads."""
    if isinstance(operation, graph.Image):
        operation = msgspec.structs.replace(operation, reference="", id="")
    parts = {"operation": _digest(msgspec.json.encode(operation))}
    parts |= {f"input {number}": key for number, key in enumerate(inputs)}
    parts |= {f"content {number}": digest for number, digest in enumerate(reads)}
    return Identity(_digest(msgspec.json.encode([_VERSION, sorted(parts.items())])), parts)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


class Cache:
    """Entries by key. Every call is direct."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str) -> Entry | None:
        """The layer of a step that was done before; counts as a use."""
        rows = self._database.query(
            "SELECT key, chain_id, diff_id, description, created_ns, used_ns, uses"
            " FROM build_cache WHERE key = ?",
            (key,),
        )
        return Entry(*rows[0]) if rows else None

    def used(self, keys: Iterable[str]) -> None:
        """These were of use now."""
        now = time.time_ns()
        for key in keys:
            self._database.execute(
                "UPDATE build_cache SET used_ns = ?, uses = uses + 1 WHERE key = ?", (now, key)
            )

    def record(
        self, identity: Identity, chain_id: str, diff_id: str, description: str, created_ns: int
    ) -> None:
        """Keep a layer; belongs into the transaction that makes it known."""
        self._database.execute(
            "INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
            (
                identity.key,
                chain_id,
                diff_id,
                description,
                created_ns,
                created_ns,
                msgspec.json.encode(identity.parts),
            ),
        )

    def forget(self, keys: Iterable[str]) -> None:
        """Drop entries; their layers go with the next collection unless something else needs them."""
        for key in keys:
            self._database.execute("DELETE FROM build_cache WHERE key = ?", (key,))

    def all(self) -> list[Entry]:
        """Every entry, the one used last first."""
        return [
            Entry(*row)
            for row in self._database.query(
                "SELECT key, chain_id, diff_id, description, created_ns, used_ns, uses FROM build_cache "
                "ORDER BY used_ns DESC, key"
            )
        ]

    def explain(self, description: str, identity: Identity) -> str:
        """Why a step was not found: what differs from the last one of the same description."""
        rows = self._database.query(
            "SELECT reads FROM build_cache WHERE description = ? ORDER BY used_ns DESC LIMIT 1",
            (description,),
        )
        if not rows:
            return "no step like this was done before"
        before: Mapping[str, str] = msgspec.json.decode(rows[0][0], type=dict[str, str])
        changed = sorted(
            name
            for name in before.keys() | identity.parts.keys()
            if before.get(name) != identity.parts.get(name)
        )
        return f"changed: {', '.join(changed)}" if changed else "its layer is gone"

"""What clients have sent of their directories, kept for their next builds: then only what has changed comes.

One place for each key, lent to one build at a time; a second one at the same time gets a place of its own,
which goes when it ends. The places used last stay, within bounds; a restart of the daemon forgets all.

Source: moby/buildkit source/local (a snapshot for each shared key).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

import proa_native

from proa.errors import System

_PLACES: Final = 32
_BYTES: Final = 4 << 30


class Place:
    """Where one directory of a client's is kept; `path` is what it may be kept in, and with."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.title = ""
        self.size = 0
        """Bytes; whoever fills it says."""
        self.whole = False
        """It may be used again."""
        self.in_use = True
        self.uses = 0
        self.created_ns = self.used_ns = time.time_ns()

    @property
    def id(self) -> str:
        """What df and prune call it."""
        return self.path.name


class KeptContexts:
    """The places of one daemon."""

    def __init__(self, root: Path, executor: Executor | None) -> None:
        """They are made below `root`, which is emptied when a daemon starts."""
        self._root = root
        self._executor = executor
        self._places: dict[str, Place] = {}
        """By key, the one used longest ago first."""

    @asynccontextmanager
    async def borrow(self, key: str, title: str) -> AsyncIterator[Place]:
        """The key's place, for as long as this lasts; `whole` as the borrower says. Raises System."""
        place = self._places.get(key)
        if place is None or place.in_use:
            place = self._made(key)
            self._places.setdefault(key, place)
        place.title = title
        place.in_use, place.whole = True, False
        try:
            yield place
        finally:
            await asyncio.shield(asyncio.ensure_future(self._returned(place)))

    def _made(self, key: str) -> Place:
        path = self._root / token_hex(12)
        try:
            os.makedirs(path, 0o700)
        except OSError as exc:
            raise System(f"mkdir {path}: {(exc.strerror or '').lower()}") from exc
        return Place(path, key)

    async def _returned(self, place: Place) -> None:
        place.in_use = False
        place.used_ns = time.time_ns()
        place.uses += 1
        doomed = []
        if self._places.get(place.key) is not place:
            doomed.append(place)
        else:
            del self._places[place.key]
            if place.whole:
                self._places[place.key] = place
            else:
                doomed.append(place)
        doomed += self._too_many()
        for each in doomed:
            with suppress(OSError):
                await self._remove_tree(each)

    def _too_many(self) -> list[Place]:
        """Those past the bounds, which are not known any more."""
        doomed = []
        total = sum(place.size for place in self._places.values())
        for place in list(self._places.values()):
            if len(self._places) <= _PLACES and total <= _BYTES:
                break
            if not place.in_use:
                doomed.append(self._places.pop(place.key))
                total -= place.size
        return doomed

    def all(self) -> list[Place]:
        """Those that are known."""
        return list(self._places.values())

    async def remove(self, id_: str) -> None:
        """One of them, unless it is in use by now. Raises OSError."""
        for place in self.all():
            if place.id == id_ and not place.in_use:
                del self._places[place.key]
                await self._remove_tree(place)

    async def _remove_tree(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, proa_native.remove_tree, str(place.path))

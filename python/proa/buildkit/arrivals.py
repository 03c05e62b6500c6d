"""What comes on one connection and is asked for on another, by its id: whoever asks first waits a little."""

import asyncio
from typing import Final, Generic, TypeVar

from proa.errors import InvalidParameter

PATIENCE: Final = 5.0
"""Seconds."""

T = TypeVar("T")


class Arrivals(Generic[T]):
    """Things by id."""

    def __init__(self, what: str, keep: int = 0) -> None:
        """`what` they are, for errors. Beyond `keep`, the oldest go when another one comes; 0: none does."""
        self._what = what
        self._keep = keep
        self._there: dict[str, T] = {}
        self._arrived = asyncio.Condition()

    async def add(self, id_: str, thing: T) -> None:
        """It is there from now on. Raises InvalidParameter for a second one of an id."""
        self.check(id_)
        while self._keep and len(self._there) >= self._keep:
            del self._there[next(iter(self._there))]
        self._there[id_] = thing
        async with self._arrived:
            self._arrived.notify_all()

    def check(self, id_: str) -> None:
        """Raises InvalidParameter where the id is taken, or none."""
        if not id_:
            raise InvalidParameter(f"no {self._what} id")
        if id_ in self._there:
            raise InvalidParameter(f"{self._what} {id_} exists")

    def remove(self, id_: str) -> None:
        """It is gone. Idempotent."""
        self._there.pop(id_, None)

    async def find(self, id_: str) -> T:
        """The thing, as soon as it is there. Raises InvalidParameter."""
        try:
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(lambda: id_ in self._there)
        except TimeoutError as exc:
            raise InvalidParameter(f"no active {self._what} for {id_}: context deadline exceeded") from exc
        return self._there[id_]

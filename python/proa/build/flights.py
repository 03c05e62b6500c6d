"""Work that several want: done once, watched by all, ended when the last one leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
Listener = Callable[[int, bytes], None]

_REMEMBERED = 1 << 20
"""Bytes of output that who comes late is told."""


class Flight(Generic[_T]):
    """One piece of work on its way."""

    def __init__(self) -> None:
        self.task: asyncio.Task[_T] | None = None
        self.listeners: list[Listener] = []
        self._told: list[tuple[int, bytes]] = []
        self._size = 0

    def tell(self, stream: int, data: bytes) -> None:
        """Output of the work, to everybody who waits for it."""
        if self._size < _REMEMBERED:
            self._told.append((stream, data))
            self._size += len(data)
        for listener in self.listeners:
            listener(stream, data)

    def listen(self, listener: Listener) -> None:
        """Be told from now on, and of what was told before."""
        for stream, data in self._told:
            listener(stream, data)
        self.listeners.append(listener)


class Flights(Generic[_T]):
    """What is on its way, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight[_T]] = {}

    async def join(self, key: str, start: Callable[[Flight[_T]], Awaitable[_T]], listener: Listener) -> _T:
        """Wait for the work of this key; begin it if nobody did. Raises what it raises.

        Cancelled, it cancels the work if nobody else waits, and returns when that has ended.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight()
            flight.task = asyncio.ensure_future(start(flight))
            flight.task.add_done_callback(lambda _: self._flights.pop(key, None))
        assert flight.task is not None
        flight.listen(listener)
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            flight.listeners.remove(listener)
            if not flight.listeners and not flight.task.done():
                self._flights.pop(key, None)
                flight.task.cancel()
                await asyncio.wait((flight.task,))
            raise

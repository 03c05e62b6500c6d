"""Docker's JSON stream of one pull or push: what is said, in which order, and how often.

Statuses go out as they come. Counts of bytes do so at most ten times a second for each layer, and one that
the client has not taken yet is replaced by the next: however slow it is, what waits for it stays small.

Source: moby pkg/streamformatter, pkg/jsonmessage.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import msgspec

_COUNTS_APART: Final = 0.1
"""Seconds between two counts of one layer."""
_BAR: Final = 50

_encode = msgspec.json.Encoder().encode


class Progress:
    """The lines of one stream that are not taken yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[object, bytes] = {}
        self._counted: dict[str, float] = {}
        self._ready = asyncio.Event()
        self._ended = False

    def message(self, status: str, id_: str = "") -> None:
        """A line of its own."""
        self._put(object(), {"status": status, "id": id_} if id_ else {"status": status})

    def layer(self, status: str, id_: str) -> None:
        """A layer's new status; a count that still waits is of the old one."""
        self._pending.pop(id_, None)
        self._counted.pop(id_, None)
        self._put(object(), {"status": status, "progressDetail": {}, "id": id_})

    def count(self, status: str, id_: str, current: int, total: int) -> None:
        """How far a layer is, in bytes; cheap, for every chunk. Without an id, how far the whole is."""
        now = self._clock()
        if now - self._counted.get(id_, 0.0) < _COUNTS_APART:
            return
        self._counted[id_] = now
        self._pending.pop(id_, None)
        detail = {"current": current, "total": total}
        bar = progress_bar(current, total)
        named = {"id": id_} if id_ else {}
        self._put(id_, {"status": status, "progressDetail": detail, "progress": bar, **named})

    def line(self, value: dict[str, Any]) -> None:
        """Any other object."""
        self._put(object(), value)

    def aux(self, value: dict[str, Any]) -> None:
        """What programs read of the outcome."""
        self._put(object(), {"progressDetail": {}, "aux": value})

    def end(self, _: object = None) -> None:
        """Nothing follows."""
        self._ended = True
        self._ready.set()

    async def take(self) -> bytes:
        """All lines that wait, at least one; empty after the last."""
        while not self._pending and not self._ended:
            self._ready.clear()
            await self._ready.wait()
        lines = b"".join(self._pending.values())
        self._pending.clear()
        return lines

    def _put(self, key: object, line: dict[str, Any]) -> None:
        self._pending[key] = _encode(line) + b"\r\n"
        self._ready.set()


class LayerProgress:
    """The lines of one layer."""

    def __init__(self, progress: Progress, id_: str) -> None:
        self._progress = progress
        self._id = id_

    def status(self, text: str) -> None:
        """A new status."""
        self._progress.layer(text, self._id)

    def count(self, text: str, current: int, total: int) -> None:
        """How far it is, in bytes."""
        self._progress.count(text, self._id, current, total)


async def streamed(work: Callable[[Progress], Coroutine[Any, Any, None]]) -> AsyncIterator[bytes]:
    """Run `work` and yield what it tells; its failure is raised after that. Closing cancels it and waits."""
    progress = Progress()
    task = asyncio.ensure_future(work(progress))
    task.add_done_callback(progress.end)
    try:
        while lines := await progress.take():
            yield lines
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        # Its failure has this frame: with it in there, that is a cycle, and what it opened stays open.
        del task


async def streamed_lines(
    work: Callable[[Callable[[dict[str, Any]], None]], Coroutine[Any, Any, None]],
) -> AsyncIterator[bytes]:
    """Run `work(send)` and yield each object that it sends as a line; otherwise as `streamed`."""

    async def with_progress(progress: Progress) -> None:
        await work(progress.line)

    async for lines in streamed(with_progress):
        yield lines


def progress_bar(current: int, total: int) -> str:
    """Docker's: `[====>   ]  1.2MB/3MB`."""
    if total <= 0:
        return f"{_size(current):>8}"
    filled = min(_BAR, current * _BAR // total)
    numbers = f"{_size(current):>8}" if current > total else f"{_size(current):>8}/{_size(total)}"
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}] {numbers}"


def _size(count: float) -> str:
    """Decimal units, four significant digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g}{unit}"
        count /= 1000
    return f"{count:.4g}TB"

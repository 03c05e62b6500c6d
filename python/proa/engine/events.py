"""Events: a ring of two files with sequence numbers, read by cursor, so that nothing is lost or told twice.

One line an event, `<seq> <EventMessage as JSON>`, appended by one write(): it survives the death of proad.
A subscriber holds a cursor, not a queue: one that is slow reads on from the files. Must not know what
the events mean.

Source: the Docker Engine API, v1.51, GET /events; moby daemon/events.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec

from proa.engine.event_filter import EventFilter
from proa.schema.system import EventActor, EventMessage

log = logging.getLogger(__name__)

SEGMENT = 8 << 20
"""Bytes after which the current file becomes the older one, and the older one goes."""
RECENT = 1024
"""Events kept in memory: what subscribers that keep up read."""

_LONGEST_LINE = 1 << 18
"""Bytes within which the last line of a file ends: labels make events long."""

Numbered = tuple[int, EventMessage]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(EventMessage).decode


class Events:
    """The events of this daemon. Implements EventSink."""

    def __init__(self, directory: Path) -> None:
        """Open the ring at `directory`, cutting off a line that a crash left torn."""
        self._path = directory / "events.log"
        self._older = directory / "events.log.1"
        self._recent: deque[Numbered] = deque(maxlen=RECENT)
        self._changed: asyncio.Future[None] | None = None
        self._listeners = 0
        self._closed = False
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = _cut_torn_line(self._file)
        self._seq = _last_number(self._path) or _last_number(self._older)

    @property
    def listeners(self) -> int:
        """Subscribers now."""
        return self._listeners

    def emit(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """One event, now."""
        now = time.time_ns()
        message = EventMessage(
            type=type_,
            action=action,
            actor=EventActor(id=actor_id, attributes=attributes),
            scope="local",
            time=now // 1_000_000_000,
            time_nano=now,
        )
        self._seq += 1
        self._recent.append((self._seq, message))
        self._append(b"%d %b\n" % (self._seq, _encode(message)))
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def stream(
        self, since_ns: int, until_ns: int, filters: Mapping[str, Sequence[str]]
    ) -> AsyncIterator[EventMessage]:
        """Past events since `since_ns` (0: none), then live ones until `until_ns` (0: for ever).

        The subscription begins when this returns. Raises InvalidParameter for an unknown filter.
        """
        cursor = self._seq if not since_ns else 0
        return self._follow(cursor, since_ns, until_ns, EventFilter(filters))

    def close(self) -> None:
        """End every subscription and close the file."""
        self._closed = True
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        os.close(self._file)

    async def _follow(
        self, cursor: int, since_ns: int, until_ns: int, wanted: EventFilter
    ) -> AsyncIterator[EventMessage]:
        self._listeners += 1
        try:
            while not self._closed:
                batch, cursor = await self._after(cursor)
                for message in batch:
                    if until_ns and message.time_nano > until_ns:
                        return
                    if message.time_nano >= since_ns and wanted(message):
                        yield message
                if not batch and not await self._wait(cursor, until_ns):
                    return
        finally:
            self._listeners -= 1

    async def _after(self, cursor: int) -> tuple[list[EventMessage], int]:
        """The next events with numbers above `cursor`, and the cursor behind them."""
        if cursor >= self._seq:
            return [], cursor
        first_recent = self._recent[0][0] if self._recent else self._seq + 1
        if first_recent <= cursor + 1:
            return [message for number, message in self._recent if number > cursor], self._seq
        stored = await asyncio.get_running_loop().run_in_executor(None, self._read_stored)
        return [message for number, message in stored if cursor < number < first_recent], first_recent - 1

    def _read_stored(self) -> list[Numbered]:
        # The newer file first: where it becomes the older one meanwhile, it is read twice rather than missed.
        newer = _read(self._path)
        older = _read(self._older)
        return sorted(dict((*older, *newer)).items())

    async def _wait(self, cursor: int, until_ns: int) -> bool:
        """Wait for an event past `cursor`; False where `until_ns` comes first."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        if cursor < self._seq or self._closed:
            return True
        if not until_ns:
            await asyncio.shield(self._changed)
            return True
        left = (until_ns - time.time_ns()) / 1e9
        if left <= 0:
            return False
        done, _ = await asyncio.wait([self._changed], timeout=left)
        return bool(done)

    def _append(self, line: bytes) -> None:
        """Append; a full disk loses the event for the future only, subscribers still see it."""
        try:
            if self._size + len(line) > SEGMENT:
                self._rotate()
            self._size += os.write(self._file, line)
        except OSError as exc:
            log.warning("%s: %s", self._path, exc.strerror)

    def _rotate(self) -> None:
        os.rename(self._path, self._older)
        old, self._file = (
            self._file,
            os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600),
        )
        os.close(old)
        self._size = 0


def _read(path: Path) -> list[Numbered]:
    """The events of one file; a line that cannot be read is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events: list[Numbered] = []
    for line in lines[:-1]:
        number, _, text = line.partition(b" ")
        try:
            events.append((int(number), _decode(text)))
        except (ValueError, msgspec.MsgspecError):
            log.warning("%s: a line cannot be read", path)
    return events


def _last_number(path: Path) -> int:
    """The number of a file's last whole line; 0 for none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    number = lines[-1].partition(b" ")[0] if lines else b""
    return int(number) if number.isdigit() else 0


def _cut_torn_line(file: int) -> int:
    """Truncate after the last whole line; returns the size."""
    size = os.lseek(file, 0, os.SEEK_END)
    tail_at = max(0, size - _LONGEST_LINE)
    tail = os.pread(file, size - tail_at, tail_at)
    whole = tail_at + tail.rfind(b"\n") + 1
    if whole != size:
        os.ftruncate(file, whole)
    return whole

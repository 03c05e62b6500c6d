"""One stream of an HTTP/2 connection: bytes in, bytes out, headers and trailers.

A stream is for one reader and one writer at a time. It sends through its connection, which tells it what
came.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

Headers = Sequence[tuple[str, str]]

WINDOW: Final = 1 << 20
"""Bytes that the other side may send before they are read."""
DATA, RST_STREAM, WINDOW_UPDATE = 0, 3, 8
END_STREAM, CANCEL = 0x1, 8


class Sender(Protocol):
    """What a stream asks of its connection."""

    def send_frame(self, kind: int, flags: int, number: int, payload: bytes = b"") -> None: ...
    def send_headers(self, number: int, headers: Headers, *, end: bool) -> None: ...
    async def send_data(self, stream: "Stream", data: bytes) -> None: ...
    def forget_ended(self, stream: "Stream") -> None: ...


class StreamReset(ConnectionResetError):
    """The other side has given the stream up, or the connection is gone."""


class Stream:
    """One request and its answer."""

    def __init__(self, connection: Sender, number: int, window: int) -> None:
        self.number = number
        self.headers: list[tuple[str, str]] = []
        """What the other side began with; of a client's stream empty until the answer begins."""
        self.trailers: list[tuple[str, str]] = []
        self.window = window
        self._connection = connection
        self._chunks: list[bytes] = []
        self._credit = 0
        self._room = WINDOW
        self._ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.closed_by_us = False

    async def read(self) -> bytes:
        """What has come and was not read, at least a byte; empty at the end. Raises StreamReset."""
        while not self._chunks:
            if self._ended:  # what comes after, as a server's reset of what it did not read, changes nothing
                return b""
            if self._failure is not None:
                raise self._failure
            await self._changed()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._give_credit(len(data))
        return data

    async def begun(self) -> None:
        """Wait for the other side's headers. Raises StreamReset."""
        while not self.headers:
            if self._failure is not None:
                raise self._failure
            await self._changed()

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _give_credit(self, count: int) -> None:
        self._credit += count
        if self._credit >= WINDOW // 4 and not self._ended:
            self._connection.send_frame(WINDOW_UPDATE, 0, self.number, self._credit.to_bytes(4, "big"))
            self._room += self._credit
            self._credit = 0

    async def write(self, data: bytes) -> None:
        """Send bytes, as fast as the other side takes them. Raises StreamReset."""
        await self._connection.send_data(self, data)

    def send_headers(self, headers: Headers, *, end: bool = False) -> None:
        """Headers or, at the end, trailers."""
        self._connection.send_headers(self.number, headers, end=end)
        if end:
            self.end_ours()

    def end(self) -> None:
        """Nothing more is sent."""
        if not self.closed_by_us:
            self._connection.send_frame(DATA, END_STREAM, self.number)
            self.end_ours()

    def end_ours(self) -> None:
        """Our half is closed."""
        self.closed_by_us = True
        self._connection.forget_ended(self)

    def reset(self, code: int = CANCEL) -> None:
        """Give the stream up. Idempotent."""
        if not (self.closed_by_us and self.ended):
            self._connection.send_frame(RST_STREAM, 0, self.number, code.to_bytes(4, "big"))
        self.fail(StreamReset("the stream was reset"))
        self.closed_by_us = True
        self._connection.forget_ended(self)

    # ---- what the connection tells ------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Nothing more comes."""
        return self._ended or self._failure is not None

    @property
    def failure(self) -> Exception | None:
        """Why nothing more comes or goes."""
        return self._failure

    def received(self, data: bytes) -> bool:
        """Bytes of the body; False where the other side had no right to send as many."""
        self._room -= len(data)
        self._chunks.append(data)
        self._wake()
        return self._room >= 0

    def received_headers(self, headers: list[tuple[str, str]]) -> None:
        """The first are headers, the next trailers."""
        if self.headers:
            self.trailers = headers
        else:
            self.headers = headers
        self._wake()

    def received_end(self) -> None:
        """The other half is closed."""
        self._ended = True
        self._wake()

    def fail(self, failure: Exception) -> None:
        """Whoever reads or writes is told."""
        if self._failure is None:
            self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

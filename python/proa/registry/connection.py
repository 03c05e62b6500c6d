"""One HTTP/1.1 connection to a registry: bytes out, bytes in, bounded both ways; response.py reads them.

A client of our own because of what a pull is measured by: importing aiohttp takes 190 ms of CPU and 16 MB,
its reader 0.2 s of CPU a GB more; here a body's bytes are the objects that the event loop made of what it
read. Bounded: reading pauses when the consumer is behind, heads are at most HEAD_MAX bytes.

Source: RFC 9112.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

HEAD_MAX: Final = 64 * 1024
"""Bytes of a response's head, and of a chunked body's size lines and trailers."""
BUFFER_MAX: Final = 1024 * 1024
"""Bytes that wait for the consumer before reading pauses; also the largest chunk handed out."""
SMALL: Final = 64 * 1024
"""Smaller reads that queue up are joined: each chunk costs its consumer a switch of threads."""
STALL_TIMEOUT: Final = 60.0
"""Seconds without a byte either way before the peer is given up."""


class Broken(Exception):
    """The connection ended, stalled or talks no HTTP; the text says which.

    `orderly`: the peer closed it between two bytes, without an error.
    """

    def __init__(self, message: str, *, orderly: bool = False) -> None:
        super().__init__(message)
        self.orderly = orderly


EOF: Final = "unexpected EOF"


class Connection(asyncio.Protocol):
    """Requests one after the other; what is not asyncio.Protocol's is for one task at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended: str = ""
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    # ---- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Once when connected; again when TLS has been put over it."""
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(BUFFER_MAX)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > BUFFER_MAX and self._reading:
            self._transport.pause_reading()
            self._reading = False
        self._wake()
        self._let_write()  # an answer before the body's end is told at once

    def eof_received(self) -> None:
        """The peer says no more; the connection closes."""
        self._end(EOF)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; what came before can still be read."""
        self._end(_reason(exc) if exc is not None else EOF)
        self._let_write()

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It does again."""
        self._let_write()
        self._writable = None

    # ---- ours ------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Another request may be sent."""
        return not (self._ended or self._chunks or self._transport.is_closing())

    @property
    def transport(self) -> asyncio.Transport:
        """For TLS inside a proxy's tunnel."""
        return self._transport

    def close(self) -> None:
        """Drop it. Idempotent."""
        self._end("connection closed")
        self._transport.abort()

    async def send(self, head: bytes, body: bytes | AsyncIterator[bytes] = b"") -> bool:
        """Send a request; False where its streamed body was not sent to the end.

        That is so where the answer comes early, or the connection ends: reading tells. Raises Broken.
        """
        if isinstance(body, bytes):
            self._transport.write(head + body)
            return True
        self._transport.write(head)
        async for chunk in body:
            if self._chunks or self._ended:
                return False
            self._transport.write(chunk)
            if self._writable is not None:
                await self._within(self._writable)
        return True

    async def some(self) -> bytes:
        """The next bytes, one or more. Raises Broken at the end."""
        while not self._chunks:
            if self._ended:
                raise Broken(self._ended, orderly=self._ended == EOF)
            if not self._reading:
                self._transport.resume_reading()
                self._reading = True
            self._waiter = asyncio.get_running_loop().create_future()
            await self._within(self._waiter)
        first = self._chunks.popleft()
        if len(first) < SMALL and self._chunks:
            parts, size = [first], len(first)
            while self._chunks and size + len(self._chunks[0]) <= BUFFER_MAX:
                parts.append(self._chunks.popleft())
                size += len(parts[-1])
            first = b"".join(parts)
        self._size -= len(first)
        if not self._reading and self._size < BUFFER_MAX // 2 and not self._ended:
            self._transport.resume_reading()
            self._reading = True
        return first

    def unread(self, data: bytes) -> None:
        """Put bytes back that belong to what follows."""
        if data:
            self._chunks.appendleft(data)
            self._size += len(data)

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes, a few. Raises Broken."""
        data = b""
        while len(data) < size:
            data += await self.some()
        self.unread(data[size:])
        return data[:size]

    async def until(self, mark: bytes, limit: int = HEAD_MAX) -> bytes:
        """What comes before `mark`, which is taken away too. Raises Broken."""
        data = b""
        while (end := data.find(mark)) < 0:
            if len(data) > limit:
                raise Broken("malformed HTTP response: header too large")
            data += await self.some()
        self.unread(data[end + len(mark) :])
        return data[:end]

    async def _within(self, future: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await future
        except TimeoutError:
            self.close()
            raise Broken("i/o timeout") from None

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._wake()

    def _let_write(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _reason(exc: Exception) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return (text or type(exc).__name__).lower()

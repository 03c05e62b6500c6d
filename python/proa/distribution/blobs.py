"""Blobs on their way out: whole or a range, by sendfile where the socket is plain.

A worker thread pushes as long as the client takes it; one that makes no progress goes back to the loop and
waits there, so that slow clients hold no thread. uvloop has no sendfile of its own.

Source: sendfile(2); RFC 9110, 14 (range requests).
"""

import asyncio
import os
import re
import select
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Final

from proa.distribution.failures import Code, Refusal
from proa.distribution.uploads import to_end

STEP: Final = 4 << 20
"""Bytes that one sendfile call is asked for."""

TURN: Final = 64 << 20
"""Bytes after which a thread serves the next client in line."""

PATIENCE_MS: Final = 20
"""How long a thread waits for a client that is behind."""

STALL_SECONDS: Final = 120.0
"""How long a client may take nothing at all."""

READ: Final = 256 << 10

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FileBody(AsyncIterator[bytes]):
    """`length` bytes of an open file from `offset` on; the fd is its own."""

    def __init__(self, fd: int, offset: int, length: int, executor: Executor) -> None:
        self._fd = fd
        self._offset = offset
        self._end = offset + length
        self._executor = executor
        self._head = b""

    async def __anext__(self) -> bytes:
        """The next chunk, for TLS."""
        count = min(READ, self._end - self._offset)
        if not count:
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        chunk = await to_end(loop.run_in_executor(self._executor, os.pread, self._fd, count, self._offset))
        if not chunk:
            raise ConnectionResetError("the blob's file is shorter than it was")
        self._offset += len(chunk)
        return chunk

    async def send_to(self, sock: int, head: bytes) -> None:
        """Write head and body to a plain socket; raises ConnectionResetError when the client is gone."""
        self._head = head
        loop = asyncio.get_running_loop()
        while not await to_end(loop.run_in_executor(self._executor, self._push, sock)):
            await writable(sock)

    def _push(self, sock: int) -> bool:
        """Send until a turn is over; whether everything is sent. Blocks for PATIENCE_MS and the disk."""
        turn = min(self._end, self._offset + TURN)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        try:
            while self._head or self._offset < turn:
                try:
                    if self._head:
                        self._head = self._head[os.write(sock, self._head) :]
                        continue
                    sent = os.sendfile(sock, self._fd, self._offset, min(STEP, turn - self._offset))
                except BlockingIOError:
                    if not poll.poll(PATIENCE_MS):
                        return False
                    continue
                if not sent:
                    raise ConnectionResetError("the blob's file is shorter than it was")
                self._offset += sent
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise ConnectionResetError("the client is gone") from exc
        return self._offset == self._end

    async def aclose(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


async def writable(sock: int) -> None:
    """Wait until the client has taken something; raises ConnectionResetError when it takes too long."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, wake)
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await ready
    except TimeoutError as exc:
        raise ConnectionResetError("the client reads nothing") from exc
    finally:
        loop.remove_writer(sock)


def wanted(header: str | None, size: int) -> tuple[int, int] | None:
    """(offset, length) of a Range header, None for the whole.

    Several ranges, and units nobody knows, are answered with the whole. Raises Refusal where none of it is
    there.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        offset, end = max(0, size - int(last)), size
    else:
        offset, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < offset:
            return None
    if offset >= end:
        raise Refusal(
            Code.RANGE_INVALID, "requested range not satisfiable", {"Content-Range": f"bytes */{size}"}
        )
    return offset, end - offset

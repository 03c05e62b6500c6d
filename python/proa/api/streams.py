"""Streamed answers: JSON lines, progress, a body that comes when a future resolves.

The answer's head goes out when the handler returns, so what may fail with a status number must have failed
by then. These are classes and not async generators because closing a generator that has not started does
nothing, and a client may be gone before its answer starts: what is behind the stream must end all the same.
"""

from asyncio import Future
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from proa.errors import ProaError

_encode = msgspec.json.Encoder().encode


class WhenDone(AsyncIterator[bytes]):
    """The future's result as one JSON document; the future is cancelled when the client goes away."""

    def __init__(self, future: "Future[Any]") -> None:
        self._future = future
        self._sent = False

    async def __anext__(self) -> bytes:
        if self._sent:
            raise StopAsyncIteration
        result = await self._future
        self._sent = True
        return _encode(result) + b"\n"

    async def aclose(self) -> None:
        """Cancel the future where it is pending."""
        self._future.cancel()


class JSONLines(AsyncIterator[bytes]):
    """One JSON document a line, each item passed through `convert` before."""

    def __init__(self, items: AsyncIterator[Any], convert: Callable[[Any], Any] | None = None) -> None:
        self._items = items
        self._convert = convert

    async def __anext__(self) -> bytes:
        item = await anext(self._items)
        return _encode(self._convert(item) if self._convert is not None else item) + b"\n"

    async def aclose(self) -> None:
        """Close the source."""
        await close(self._items)


class Progress(AsyncIterator[bytes]):
    """A stream of progress objects that tells its own failure, in-band, once its first chunk is there.

    Source: moby pkg/streamformatter.
    """

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest
        self._failed = False

    @classmethod
    async def start(cls, chunks: AsyncIterator[bytes]) -> "Progress":
        """Wait for the first chunk; raises what the source raises before it, which has a status number."""
        source = aiter(chunks)
        try:
            return cls(await anext(source, b""), source)
        except BaseException:
            await close(source)
            raise

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._failed:
            raise StopAsyncIteration
        try:
            return await anext(self._rest)
        except ProaError as error:
            self._failed = True
            return _encode({"errorDetail": _detail(error), "error": str(error)}) + b"\r\n"

    async def aclose(self) -> None:
        """Close the source."""
        await close(self._rest)


def _detail(error: ProaError) -> dict[str, object]:
    """An error's text, and the exit code where it is of a command: the docker CLI ends with that."""
    code = getattr(error, "code", None)
    return {"message": str(error)} if code is None else {"code": code, "message": str(error)}


async def close(source: AsyncIterator[Any]) -> None:
    """Close what can be closed: async generators and the streams above."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()

"""Streamed answers: JSON lines, progress, a body that comes when a future resolves.

The answer's head goes out when the handler returns, so what may fail with a status number must have failed
by then.
"""

from asyncio import Future
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from proa.errors import ProaError

_encode = msgspec.json.Encoder().encode


async def when_done(future: "Future[Any]") -> AsyncIterator[bytes]:
    """The future's result as one JSON document; cancels the future when the client goes away."""
    yield _encode(await future) + b"\n"


async def json_lines(items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """One JSON document a line."""
    try:
        async for item in items:
            yield _encode(item) + b"\n"
    finally:
        await close(items)


async def progress(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Wait for the first chunk, whose failure still has a status number; later ones end the stream in-band.

    Raises what the source raises before its first chunk. Source: moby pkg/streamformatter.
    """
    source = aiter(chunks)
    try:
        first = await anext(source)
    except StopAsyncIteration:
        first = b""
    except BaseException:
        await close(source)
        raise
    return _progress(first, source)


async def _progress(first: bytes, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for chunk in source:
            yield chunk
    except ProaError as error:
        message = str(error)
        yield _encode({"errorDetail": {"message": message}, "error": message}) + b"\r\n"
    finally:
        await close(source)


async def close(source: AsyncIterator[Any]) -> None:
    """Close an async generator; other iterators have nothing to close."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()

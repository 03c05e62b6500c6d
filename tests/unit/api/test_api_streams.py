"""What is behind a stream ends with it, also where the client left before the answer began."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proa.api.streams import JSONLines, Progress, WhenDone
from proa.errors import InvalidParameter


class Source(AsyncIterator[object]):
    """Gives what it was made with, raises what is an exception, knows whether it was closed."""

    def __init__(self, *items: object) -> None:
        self._items = list(items)
        self.closed = False

    async def __anext__(self) -> object:
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        self.closed = True


async def test_a_wait_that_is_closed_unread_is_cancelled() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    await WhenDone(future).aclose()
    assert future.cancelled()


async def test_a_wait_says_its_result_once() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    future.set_result({"StatusCode": 0})
    assert [chunk async for chunk in WhenDone(future)] == [b'{"StatusCode":0}\n']


async def test_json_lines() -> None:
    source = Source(1, 2)
    lines = JSONLines(source, lambda item: {"n": item})
    assert [line async for line in lines] == [b'{"n":1}\n', b'{"n":2}\n']
    await lines.aclose()
    assert source.closed


async def test_progress_that_fails_first_raises_and_closes_its_source() -> None:
    source = Source(InvalidParameter("bad"))
    with pytest.raises(InvalidParameter, match="bad"):
        await Progress.start(source)
    assert source.closed


async def test_progress_that_fails_later_says_so() -> None:
    progress = await Progress.start(Source(b"one", InvalidParameter("bad")))
    assert [chunk async for chunk in progress] == [
        b"one",
        b'{"errorDetail":{"message":"bad"},"error":"bad"}\r\n',
    ]


async def test_progress_may_be_empty() -> None:
    source = Source()
    progress = await Progress.start(source)
    assert [chunk async for chunk in progress] == []
    await progress.aclose()
    assert source.closed

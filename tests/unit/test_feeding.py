"""Bodies on their way to the native core: nothing of one is left when it ends, however it does."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import proa_native
import pytest

from proa.errors import InvalidParameter
from proa.feeding import supply


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def cut_short() -> AsyncIterator[bytes]:
    yield b"x" * 100
    raise InvalidParameter("unexpected EOF")


async def whole() -> AsyncIterator[bytes]:
    yield b"x" * 100_000


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("body", [cut_short, whole])
async def test_a_failure_keeps_no_descriptor(body: Callable[[], AsyncIterator[bytes]], tmp_path: Any) -> None:
    loop = asyncio.get_running_loop()
    numbers = []

    def unpack(feed: proa_native.ByteFeed) -> None:
        numbers.append(feed.fileno())
        proa_native.unpack_layer(feed, str(tmp_path))

    async def fail(pool: ThreadPoolExecutor) -> None:
        with pytest.raises((InvalidParameter, ValueError)):
            await supply(
                body(), unpack, lambda call, feed: loop.run_in_executor(pool, call, feed), asyncio.to_thread
            )

    # A thread lets go of its work a moment after its future is done: ended, it has.
    with ThreadPoolExecutor(1) as pool:
        await fail(pool)
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(numbers[0])

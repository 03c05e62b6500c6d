"""Calls on threads of their own that fail let go of what they were given, without a collection of garbage.

What they have is a view of a container's files: a mount namespace with its root file system mounted.
"""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from proa.engine.transfer import Transfers


class View:
    """Its calls fail."""

    def fail(self, *_: object) -> None:
        raise OSError(2, "No such file or directory")


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    found = Transfers()
    gc.disable()
    yield found
    gc.enable()
    found.close()


async def body() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"x" * 1000


async def run(transfers: Transfers, view: View) -> None:
    await transfers.run(lambda: view.fail())


async def receive(transfers: Transfers, view: View) -> None:
    await transfers.receive(body(), lambda fd: view.fail(fd))


async def send(transfers: Transfers, view: View) -> None:
    outgoing = transfers.send(lambda fd: view.fail(fd))
    try:
        async for _ in outgoing:
            pass
    finally:
        await outgoing.aclose()


@pytest.mark.parametrize("verb", [run, receive, send])
async def test_a_failed_call_keeps_nothing(
    transfers: Transfers, verb: Callable[[Transfers, View], Awaitable[None]]
) -> None:
    view = View()
    gone = asyncio.Event()
    weakref.finalize(view, asyncio.get_running_loop().call_soon_threadsafe, gone.set)
    try:
        await verb(transfers, view)
    except OSError:
        pass
    else:
        pytest.fail("it did not fail")
    del view
    await asyncio.wait_for(gone.wait(), 30)  # the thread lets go of its frames in its own time

"""A client's body to a native call that reads it from a descriptor.

Between the two lies a socket pair: nothing is held in memory and back-pressure is the kernel's. The call
lasts as long as the client likes; it must have none of the daemon's few threads, which everything else waits
for.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

from proa.expanding import expanded

T = TypeVar("T")


async def feed(body: AsyncIterator[bytes], executor: Executor | None, read: Callable[[int], T]) -> T:
    """What `read(fd)`, which reads to the end, makes of the body; both have ended when this returns.

    xz and bzip2 are expanded on the way.
    """
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)

        def consume() -> T:
            # Closed by who reads it, so that nobody else's descriptor is ever read in its place.
            with theirs:
                return read(theirs.fileno())

        job = asyncio.get_running_loop().run_in_executor(executor, consume)
        sending = asyncio.ensure_future(_send(body, ours))
        both: set[asyncio.Future[Any]] = {job, sending}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                await sending  # A failed client must not look like the archive's end.
                with suppress(OSError):
                    ours.shutdown(socket.SHUT_WR)
            return await asyncio.shield(job)
        finally:
            sending.cancel()
            # Also wakes a reader that waits for bytes that will never come.
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            await asyncio.shield(settled(both))


async def settled(tasks: "set[asyncio.Future[Any]]") -> None:
    """All of them have ended, and nobody complains of failures that nobody asked for."""
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _send(body: AsyncIterator[bytes], target: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    def run(call: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        # Not where the readers are: those that wait for this hold its threads.
        return loop.run_in_executor(None, call, *arguments)

    # A reader that has ended says itself why.
    with suppress(BrokenPipeError, ConnectionResetError):
        async for chunk in expanded(body, run):
            await loop.sock_sendall(target, chunk)

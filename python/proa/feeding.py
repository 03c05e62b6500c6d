"""A client's body to a native call that reads it in another thread, without xz and bzip2.

`supply` is for calls that read a `ByteFeed` (layers and archives): about a MiB is held, and while a large
body flows the call reads the client's socket itself. `feed` is for calls that read a descriptor: between the
two lies a socket pair, nothing is held in memory and back-pressure is the kernel's. Either call lasts as long
as the client likes; it must have none of the daemon's few threads, which everything else waits for.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Protocol, TypeVar, runtime_checkable

import proa_native

from proa.expanding import Expander, Run, beginning, expanded

T = TypeVar("T")


@runtime_checkable
class Lender(Protocol):
    """A body whose socket may be read past the loop, which is then not told of its bytes."""

    def lend(self) -> tuple[int, str, int, bytes] | None:
        """(fd, phase, bytes left, bytes not parsed), as `ByteFeed.lend` takes them; None where there is none.

        Nothing comes from the body until `take_back`.
        """

    def take_back(self, state: tuple[str, int, bytes] | None) -> None:
        """The state as `ByteFeed.reclaim` gives it; None where it is lost, and the connection with it."""


async def supply(
    body: AsyncIterator[bytes],
    consume: Callable[[proa_native.ByteFeed], T],
    start: "Callable[[Callable[..., T], proa_native.ByteFeed], asyncio.Future[T]]",
    run: Run,
) -> T:
    """What `consume(feed)`, which reads to the end, makes of the body; both have ended when this returns.

    `start` runs it in a thread; `run` is for decompressing. What the client was cut short by is raised, too.
    """
    source = proa_native.ByteFeed()
    job = start(consume, source)
    pouring = asyncio.ensure_future(_pour(body, source, run))
    both: set[asyncio.Future[Any]] = {job, pouring}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            await pouring  # A failed client must not look like the archive's end.
            source.end()
        return await asyncio.shield(job)
    finally:
        pouring.cancel()
        # Also wakes a reader that waits for bytes that will never come.
        source.close()
        await asyncio.shield(settled(both))
        # A failure has this frame: with them in it, that is a cycle, and what `consume` has open stays open.
        del job, pouring, both


async def _pour(body: AsyncIterator[bytes], source: proa_native.ByteFeed, run: Run) -> None:
    # A reader that has ended says itself why.
    with suppress(BrokenPipeError):
        start = await beginning(body)
        expander = Expander.of(start)
        if expander is not None:
            async for chunk in expander.all(start, body, run):
                await _give(source, chunk)
            return
        await _give(source, start)
        await _lend(source, body)
        async for chunk in body:
            await _give(source, chunk)
            await _lend(source, body)


async def _lend(source: proa_native.ByteFeed, lender: AsyncIterator[bytes]) -> None:
    """Let the reader have the socket behind a body, where there is one, until it gives it back."""
    if not isinstance(lender, Lender) or (lent := lender.lend()) is None:
        return
    try:
        source.lend(*lent)
    except OSError:
        lender.take_back(lent[1:])
        raise
    try:
        await _readable(source)
    finally:
        lender.take_back(source.reclaim())


async def _give(source: proa_native.ByteFeed, chunk: bytes) -> None:
    """Hand over a chunk; waits while there is no room for it."""
    while not source.try_write(chunk):
        await _readable(source)


async def _readable(source: proa_native.ByteFeed) -> None:
    loop = asyncio.get_running_loop()
    signal = asyncio.Event()
    loop.add_reader(source.fileno(), signal.set)
    try:
        await signal.wait()
    finally:
        loop.remove_reader(source.fileno())


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
            # A failure has this frame: with them in it, that is a cycle, and what `read` has open stays open.
            del job, sending, both


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

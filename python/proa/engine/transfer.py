"""Bytes between clients and native calls that read or write a descriptor.

Such a call lasts as long as its client likes: it runs on a thread of its own pool, so that slow clients wait
for each other and nobody else does. Between the two lies a socket pair: nothing is held in memory and
back-pressure is the kernel's.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from proa.feeding import feed, settled

T = TypeVar("T")

AT_ONCE = 32
"""Transfers; more of them wait."""
_STEP = 1 << 18


class Transfers:
    """The pool; its threads come with the work."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="proad-copy")

    def close(self) -> None:
        """No more of them; those under way end with their clients."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, call: Callable[[], T]) -> T:
        """One blocking call; it is waited for even where its caller is cancelled."""
        job = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(job)
        finally:
            # Its exception has this frame and those that called it, with the view of a container's files:
            # in a cycle they would stay, and so would what that has mounted, until the next collection.
            del job

    def send(self, write: Callable[[int], object]) -> "Outgoing":
        """What `write(fd)` writes, from now on."""
        return Outgoing(write, self._executor)

    async def receive(self, body: AsyncIterator[bytes], read: Callable[[int], T]) -> T:
        """Feed a client's body to `read(fd)`, which reads to the end; both have ended when this returns.

        xz and bzip2 are expanded on the way.
        """
        return await feed(body, self._executor, read)


class Outgoing(AsyncIterator[bytes]):
    """What a native call writes. Its failure is raised at the end of what it wrote."""

    def __init__(self, write: Callable[[int], object], executor: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)

        def run() -> None:
            with theirs:
                write(theirs.fileno())

        self._job: asyncio.Future[None] | None = self._loop.run_in_executor(executor, run)

    async def __anext__(self) -> bytes:
        chunk = await self._loop.sock_recv(self._ours, _STEP)
        if not chunk:
            if self._job is not None:
                await asyncio.shield(self._job)
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """The client has gone, or has everything: the call ends at its next write."""
        self._ours.close()
        if self._job is not None:
            await asyncio.shield(settled({self._job}))
            self._job = None  # its failure has us: no cycle

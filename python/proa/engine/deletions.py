"""Directories of containers that are gone, deleted in batches: one turn of a thread for many containers.

What is not deleted when the daemon ends, however it ends, is garbage to the next boot's sweep.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from proa.errors import ProaError

log = logging.getLogger(__name__)

GATHER = 0.05
"""Seconds in which removals are gathered to one batch."""
BACKLOG = 64
"""Containers that may wait for their deletion before a removal has to."""

Delete = Callable[[str], None]
"""Deletes all directories of one container, by its id; blocks."""


class Deletions:
    """What is still to be deleted."""

    def __init__(self, delete: Delete, executor: Executor | None = None) -> None:
        self._delete = delete
        self._executor = executor
        self._waiting: list[str] = []
        self._batch: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, container_id: str) -> None:
        """Delete the container's directories soon."""
        self._waiting.append(container_id)
        if self._timer is None and self._batch is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._start)

    async def room(self) -> None:
        """Wait while there is too much to delete: creation must not outrun deletion."""
        while len(self._waiting) >= BACKLOG:
            if self._batch is None:
                self._start()
            else:
                await asyncio.wait([self._batch])

    async def settle(self) -> None:
        """Delete what waits, now."""
        while self._waiting or self._batch is not None:
            self._start()
            if self._batch is not None:
                await asyncio.wait([self._batch])

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batch is not None or not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        self._batch = asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch)
        self._batch.add_done_callback(self._done)

    def _done(self, batch: "asyncio.Future[None]") -> None:
        self._batch = None
        if not batch.cancelled() and (failure := batch.exception()) is not None:
            log.error("deleting directories: %s", failure)
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._start)

    def _run(self, batch: list[str]) -> None:
        for container_id in batch:
            try:
                self._delete(container_id)
            except (OSError, ProaError) as exc:
                log.error("unable to remove the directories of %s: %s", container_id, exc)

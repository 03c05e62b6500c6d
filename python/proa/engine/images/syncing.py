"""Lets blobs and snapshots reach the disk in the background, so that no load, pull or build waits for it.

Both rooms record with a mark of the kernel's boot (content.py, snapshots.py). After the transaction one sync
of the file system, for all that was recorded until it began, takes the marks away; what comes meanwhile
shares the next one. A daemon that dies or ends before leaves the marks to the next one, which syncs again.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, Protocol

import proa_native

log: Final = logging.getLogger(__name__)


class Room(Protocol):
    """What records with a mark."""

    @property
    def root(self) -> Path: ...
    def unsynced(self) -> list[str]: ...
    def synced(self, names: Iterable[str], /) -> None: ...


class Syncing:
    """Syncs for some rooms, one sync at a time."""

    def __init__(
        self,
        rooms: Sequence[Room],
        executor: Executor | None = None,
        *,
        sync: Callable[[str], None] = proa_native.sync_file_system,
    ) -> None:
        self._rooms = rooms
        self._executor = executor
        self._sync = sync
        self._running: asyncio.Future[Any] | None = None
        self._again = False
        self._closed = False

    def later(self) -> None:
        """Let what is recorded by now reach the disk."""
        if self._running is not None:
            self._again = True
            return
        self._again = False
        marked = [(room, names) for room in self._rooms if (names := room.unsynced())]
        if marked:
            roots = [room.root for room, _ in marked]
            self._running = asyncio.get_running_loop().run_in_executor(self._executor, self._all, roots)
            self._running.add_done_callback(lambda running: self._done(running, marked))

    def _all(self, roots: Sequence[Path]) -> None:
        """Each file system once; blocks."""
        for root in {os.stat(root).st_dev: root for root in roots}.values():
            self._sync(str(root))

    def _done(self, running: "asyncio.Future[Any]", marked: Sequence[tuple[Room, list[str]]]) -> None:
        self._running = None
        if running.cancelled() or self._closed:
            return
        if (failure := running.exception()) is not None:
            # The marks stay: the next sync, or the start after a power loss, deals with them.
            log.warning("images could not be synced: %s", failure)
            return
        for room, names in marked:
            room.synced(names)
        if self._again:
            self.later()

    def close(self) -> None:
        """Look at no sync's end any more; what is not on disk by then keeps its mark."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()  # one that has just ended is not

    async def settle(self) -> None:
        """Wait until what was to be synced is."""
        while self._running is not None:
            await asyncio.wait([self._running])

"""Removes what nothing needs any more, in its own time: a big tree takes its file system tens of seconds.

Whatever comes here was put aside by a rename: its name is free, nobody sees it, and where the daemon ends or
dies before it is gone, the next start's sweeps find it. One thread for all, so that neither the executor nor
the disk is full of removals. A daemon that ends waits for the tree at hand: the interpreter cannot go from
under a native call (CPython ends a thread that comes back to it by unwinding, which aborts).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from proa.content import remove_all
from proa.errors import System

log: Final = logging.getLogger(__name__)


class Disposal:
    """Trees and files on their way out."""

    def __init__(self, remove: Callable[[Iterable[Path]], None] = remove_all) -> None:
        self._remove = remove
        self._waiting: deque[Path] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, aside: Iterable[Path]) -> None:
        """Remove these, some time; returns at once."""
        with self._lock:
            if self._closed:
                return
            self._waiting.extend(aside)
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="proad-removal")
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                path = self._waiting.popleft()
            try:
                self._remove([path])
            except System as exc:
                log.warning("what no image needs could not be removed: %s", exc)

    def close(self) -> None:
        """Begin no other removal: the next start does."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def settle(self) -> None:
        """Wait until all is gone; blocks."""
        if (thread := self._thread) is not None:
            thread.join()

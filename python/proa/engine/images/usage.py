"""When each image was used last, and which ones somebody relies on right now: what eviction goes by.

A use is whatever shows that the image is wanted: a pull, a load, a tag, a container made from it or gone, a
build that stands on it, a push. The database learns of it at most once a minute for each image: exact enough
to tell which one was used longest ago, and a create pays nothing for it.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from proa.engine.ports import Database

SCHEMA: Final = """
    CREATE TABLE image_uses (
        image TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
        used_ns INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
"""
_WRITTEN_NS: Final = 60 * 10**9
"""A use so soon after the one that is written is not."""


class Usage:
    """Last uses by image, read from memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[str, int] = dict(database.query("SELECT image, used_ns FROM image_uses"))
        self._written = dict(self._used)
        self._lent: Counter[str] = Counter()

    def touch(self, image_id: str) -> None:
        """An image that is known is used now."""
        now = self._used[image_id] = time.time_ns()
        if now - self._written.get(image_id, 0) > _WRITTEN_NS:
            self._database.execute("INSERT OR REPLACE INTO image_uses VALUES (?, ?)", (image_id, now))
            self._written[image_id] = now

    def last(self, image_id: str) -> int:
        """Nanoseconds since 1970; 0 where no use is known."""
        return self._used.get(image_id, 0)

    @contextmanager
    def lent(self, image_ids: Iterable[str]) -> Iterator[None]:
        """Somebody relies on these between two looks: they are not evicted meanwhile."""
        ids = tuple(image_ids)
        self._lent.update(ids)
        try:
            yield
        finally:
            self._lent -= Counter(ids)

    def is_lent(self, image_id: str) -> bool:
        """Whether somebody is at work with it."""
        return self._lent[image_id] > 0

    def forget(self, image_id: str) -> None:
        """An image is gone, and with it what the database said of it."""
        self._used.pop(image_id, None)
        self._written.pop(image_id, None)

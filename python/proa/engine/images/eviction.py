"""Image garbage collection: past a high mark images are removed until a low one is reached.

    an image becomes known -> once no load, save or build is at work -> past the high mark?
                                                                       `-> the one used longest ago,
                                                                           until the low mark is reached

What is measured is what the images hold: their layers, unpacked and as blobs, each once. Layers that the
build cache keeps do not count, as no image's removal frees them. Never removed: an image that a container was
made from, one that another was made from, one whose name matches a pattern of `keep`, one used within
`min_age`, one that somebody is at work with, and one whose removal would free nothing.

An image is chosen and deleted without a pause in between, so that nobody can come to use it meanwhile; the
disk is given back in the background. Off without a high mark.

Source: the kubelet's image garbage collection (ImageGCHighThresholdPercent, ImageMinimumGCAge).
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from proa.engine.images.filters import glob_pattern, matches_reference
from proa.engine.images.records import ImageRecord
from proa.engine.images.removal import Remover
from proa.engine.images.store import ImageStore
from proa.engine.ports import ContainersOfImages
from proa.schema.config import DaemonConfig
from proa.schema.watermarks import Watermarks

log: Final = logging.getLogger(__name__)


class Evictor:
    """Keeps images below the marks; asleep while nothing grows."""

    def __init__(
        self, store: ImageStore, remover: Remover, containers: ContainersOfImages, config: DaemonConfig
    ) -> None:
        """Raises InvalidParameter."""
        self._store = store
        self._remover = remover
        self._containers = containers
        self._marks = _marks(config)
        self._running: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._short = False
        """The last look could not reach the low mark."""

    def reload(self, config: DaemonConfig) -> None:
        """Take over other marks. Raises InvalidParameter."""
        self._marks = _marks(config)
        self.wake()

    def wake(self) -> None:
        """Look at the size, soon: once no load, save or build relies on what is here."""
        if self._marks is not None:
            self._store.when_idle(self._begin)

    def released(self) -> None:
        """A container is gone: what it stood on may be what could not go before."""
        if self._short:
            self.wake()

    async def settle(self) -> None:
        """Wait until nothing is looked at any more."""
        while self._running is not None:
            await asyncio.wait((self._running,))

    def close(self) -> None:
        """Look at nothing from now on."""
        self._marks = None
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        if self._running is not None:
            self._again = True
            return
        self._again = False
        self._running = asyncio.get_running_loop().create_task(self._look(), name="image garbage collection")
        self._running.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and task.exception() is not None:
            log.error("image garbage collection failed", exc_info=task.exception())
        if self._again and self._marks is not None:
            self._begin()

    async def _look(self) -> None:
        marks = self._marks
        if marks is None or (before := self._holdings().size) <= marks.high:
            self._short = False
            return
        removed = 0
        while not self._store.is_busy and (holdings := self._holdings()).size > marks.low:
            victim = self._oldest(marks, holdings)
            if victim is None:
                break
            self._evict(victim, holdings)
            removed += 1
            await asyncio.sleep(0)  # requests go on between two images
        self._tell(marks, before, self._holdings().size, removed)

    def _evict(self, victim: ImageRecord, holdings: "_Holdings") -> None:
        names = ", ".join(name.familiar for name in self._store.references(victim.id)) or victim.id
        age = (time.time_ns() - self._used(victim)) // 10**9
        log.info("image gc: removing %s, %d bytes, last used %d s ago", names, holdings.alone(victim), age)
        self._remover.evict(victim)

    def _tell(self, marks: Watermarks, before: int, after: int, removed: int) -> None:
        if removed:
            log.info(
                "image gc: freed %d bytes of %d images; %d bytes are left", before - after, removed, after
            )
        short, self._short = self._short, after > marks.low
        if self._short and self._store.is_busy:
            self._store.when_idle(self._begin)
        elif self._short:
            if not short:
                log.warning(
                    "image gc: images hold %d bytes, the low mark is %d; they are in use, kept or young",
                    after,
                    marks.low,
                )
            self._look_later(marks)

    def _look_later(self, marks: Watermarks) -> None:
        """When the image that is nearest to it has come of age."""
        now = time.time_ns()
        waits = [wait for r in self._store.all() if (wait := self._used(r) + marks.min_age_ns - now) > 0]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if waits:
            self._timer = asyncio.get_running_loop().call_later(min(waits) / 10**9, self.wake)

    # ---- which one ------------------------------------------------------------------------------

    def _oldest(self, marks: Watermarks, holdings: "_Holdings") -> ImageRecord | None:
        """Of those that may go and free something with all that may go, the one used longest ago."""
        free = [record for record in self._store.all() if self._may_go(record, marks)]
        ids = {record.id for record in free}
        staying = holdings.of([record for record in self._store.all() if record.id not in ids])
        free = [record for record in free if holdings.of([record]).keys() - staying.keys()]
        return min(free, key=lambda record: (self._used(record), record.id), default=None)

    def _may_go(self, record: ImageRecord, marks: Watermarks) -> bool:
        return not (
            time.time_ns() - self._used(record) < marks.min_age_ns
            or self._containers.using_image(record.id)
            or self._store.lineage.children(record.id)
            or self._store.usage.is_lent(record.id)
            or any(matches_reference(name, marks.keep) for name in self._store.references(record.id))
        )

    def _used(self, record: ImageRecord) -> int:
        return max(self._store.usage.last(record.id), record.added_ns)

    def _holdings(self) -> "_Holdings":
        return _Holdings.of_store(self._store)


class _Holdings(Struct, frozen=True):
    """What images hold: bytes by chain id of a layer and by digest of a blob."""

    bytes: Mapping[str, int]
    holders: Mapping[str, int]
    """How many images have it."""

    @classmethod
    def of_store(cls, store: ImageStore) -> "_Holdings":
        kept = store.kept()
        found: Counter[str] = Counter()
        for id_, size in store.held_bytes():
            if id_ not in kept:
                found[id_] += size
        holders = Counter(id_ for record in store.all() for id_ in _ids(record) if id_ in found)
        return cls(found, holders)

    @property
    def size(self) -> int:
        return sum(self.bytes[id_] for id_ in self.holders)

    def of(self, records: Sequence[ImageRecord]) -> dict[str, int]:
        """What these hold."""
        return {id_: self.bytes[id_] for record in records for id_ in _ids(record) if id_ in self.bytes}

    def alone(self, record: ImageRecord) -> int:
        """Bytes that go with an image."""
        return sum(size for id_, size in self.of([record]).items() if self.holders[id_] == 1)


def _ids(record: ImageRecord) -> set[str]:
    return {id_ for layer in record.content for id_ in (layer.chain_id, layer.digest)}


def _marks(config: DaemonConfig) -> Watermarks | None:
    marks = Watermarks.of(config)
    for pattern in marks.keep if marks else ():
        glob_pattern(pattern)
    return marks

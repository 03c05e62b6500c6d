"""Volumes that are there only while they are mounted: by whom and for how long.

A holder is a container's id. Each mount is in the database before it happens and until it is undone, so
that a daemon that comes after a crash finds it: what belongs to no running container by then is unmounted
(`settle`). One lock a volume; a mount that was begun goes on to its end, and whoever gave up undoes it then.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from proa.errors import ProaError
from proa.volumes import DRIVER, LocalMounts, Plugins, VolumeRecord, VolumeStore

log = logging.getLogger(__name__)


class VolumeMounts:
    """Mounts and unmounts."""

    def __init__(self, store: VolumeStore, local: LocalMounts, plugins: Plugins) -> None:
        self._store = store
        self._local = local
        self._plugins = plugins
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        """Volume to who has it mounted."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        for name, holder in store.mounts():
            self._holders[name].add(holder)
        self._earlier = set(store.mounts())
        """Of a daemon before this one, not looked at yet."""

    async def mount(self, record: VolumeRecord, holder: str) -> str:
        """Where it is; mounted before for the same holder is no error. Raises NotFound (driver), System.

        Whoever is cancelled or fails calls `unmount`, too.
        """
        mounting = asyncio.ensure_future(self._mount(record, holder))
        mounting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(mounting)

    async def unmount(self, name: str, holder: str) -> None:
        """The holder has done with it; one that has it not mounted is no error. Failures are logged."""
        async with self._lock(name):
            await self._unmount(name, holder)

    def held_by(self, holder: str) -> Sequence[str]:
        """Names of the volumes that are mounted for it."""
        return [name for name, holders in self._holders.items() if holder in holders]

    async def settle(self, alive: Callable[[str], bool]) -> None:
        """Unmount what an earlier daemon mounted for containers that do not run."""
        for name, holder in tuple(self._earlier):
            if alive(holder):
                continue
            async with self._lock(name):
                if (name, holder) in self._earlier:  # nobody has mounted it again meanwhile
                    await self._unmount(name, holder)

    # ---- inside ----------------------------------------------------------------------------------

    async def _mount(self, record: VolumeRecord, holder: str) -> str:
        async with self._lock(record.name):
            self._earlier.discard((record.name, holder))
            self._store.mounted(record.name, holder)
            self._holders[record.name].add(holder)
            try:
                if record.driver != DRIVER:
                    return await self._plugins.mount(record.driver, record.name, holder)
                await self._local.mount(record.path, record.options)
            except ProaError:
                await self._unmount(record.name, holder)
                raise
            return record.path

    async def _unmount(self, name: str, holder: str) -> None:
        holders = self._holders[name]
        if holder in holders:
            holders.discard(holder)
            try:
                await self._let_go(name, holder, last=not holders)
            except ProaError as exc:
                log.warning("volume %s: %s", name, exc)
            self._store.unmounted(name, holder)
        self._earlier.discard((name, holder))
        if not holders:
            self._holders.pop(name, None)

    async def _let_go(self, name: str, holder: str, *, last: bool) -> None:
        record = self._store.find(name)
        if record is not None and record.driver != DRIVER:
            await self._plugins.unmount(record.driver, name, holder)
        elif last:
            await self._local.unmount(self._store.path(name))

    @asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[None]:
        lock = self._locks[name]
        async with lock:
            yield
        if not lock.locked():
            self._locks.pop(name, None)

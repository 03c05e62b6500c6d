"""The verbs of /volumes, and what container create and removal need of volumes.

In use means: a container that exists mounts it, or is being created. Trees are copied and deleted in the
executor, never in the loop. Drivers that are plugins are asked only for their own volumes, and by `list` and
`inspect`; one that does not answer costs a warning.
"""

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime

from msgspec.structs import replace

from proa.copyup import copy_up
from proa.engine.mounting import VolumeMounts
from proa.engine.ports import EventSink
from proa.engine.resolve import VolumeWish
from proa.errors import Conflict, InvalidParameter, NotFound, ProaError, System
from proa.schema.prune import VolumesPruneReport
from proa.schema.volume import UsageData, Volume, VolumeCreateOptions, VolumeListResponse
from proa.sizes import parse_size
from proa.volumes import (
    ANONYMOUS_LABEL,
    DRIVER,
    LocalMounts,
    Plugins,
    PluginVolume,
    VolumeRecord,
    VolumeStore,
    check_name,
    check_options,
)

log = logging.getLogger(__name__)

Filters = Mapping[str, list[str]]

_LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class VolumeVerbs:
    """Implements the engine's Volumes and ContainerVolumes."""

    def __init__(
        self,
        store: VolumeStore,
        events: EventSink,
        *,
        local: LocalMounts,
        plugins: Plugins,
        using_volume: Callable[[str], Sequence[str]],
        remove_tree: Callable[[str], None],
        disk_usage: Callable[[str], tuple[int, int]],
        executor: Executor | None = None,
    ) -> None:
        """`using_volume` gives the ids of the containers that mount one; the two others are proa_native's."""
        self._store = store
        self._events = events
        self._local = local
        self._plugins = plugins
        self._mounts = VolumeMounts(store, local, plugins)
        self._using_volume = using_volume
        self._remove_tree = remove_tree
        self._disk_usage = disk_usage
        self._executor = executor
        self._held: dict[str, set[str]] = {}
        self._filling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # ---- the verbs -------------------------------------------------------------------------------

    async def list(self, filters: Filters) -> VolumeListResponse:
        _check_filters(filters, _LIST_FILTERS)
        dangling = _boolean("dangling", filters)
        theirs, warnings = await self._of_plugins()
        known = [_shown(volume, plugin=theirs.pop(volume.name, None)) for volume in self._store.list()]
        others = [_shown_plugin(driver, volume) for driver, volume in theirs.values()]
        found = [
            volume
            for volume in (*known, *others)
            if _matches(volume, filters) and (dangling is None or dangling == (not self._users(volume.name)))
        ]
        return VolumeListResponse(volumes=found, warnings=[*warnings])

    async def create(self, body: VolumeCreateOptions) -> Volume:
        if body.cluster_volume_spec:
            raise InvalidParameter("cluster volumes need a swarm, which proa is not part of")
        record, _ = await self._create(body.name, body.driver, body.driver_opts or {}, body.labels or {})
        return await self._detailed(record)

    async def inspect(self, name: str) -> Volume:
        record = self._store.find(name)
        if record is not None:
            return await self._detailed(record)
        theirs, _ = await self._of_plugins()
        if name not in theirs:
            raise NotFound(f"get {name}: no such volume")
        return _shown_plugin(*theirs[name])

    async def remove(self, name: str, *, force: bool) -> None:
        record = self._store.find(name)
        if record is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        users = self._users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        try:
            await self._remove(record)
        except ProaError as exc:
            if not force or record.driver == DRIVER:
                raise
            log.warning("volume %s is forgotten, its driver failed: %s", name, exc)
            self._forget(record)

    async def prune(self, filters: Filters) -> VolumesPruneReport:
        """Unused volumes of the local driver: anonymous ones, or with the filter `all=true` every one."""
        _check_filters(filters, _PRUNE_FILTERS)
        every = _boolean("all", filters) or False
        deleted: list[str] = []
        reclaimed = 0
        for volume in self._store.list():
            # What lies on a file system of its own is not this host's to clear away.
            wanted = (every or volume.anonymous) and volume.driver == DRIVER and not volume.options
            wanted = wanted and _matches(_shown(volume), filters)
            if not wanted or self._store.find(volume.name) is None:
                continue
            size = await self._size(volume.path)
            # Looked at after the wait: a container may have come meanwhile.
            if self._users(volume.name) or self._store.find(volume.name) is None:
                continue
            await self._remove(volume)
            deleted.append(volume.name)
            reclaimed += size
        self._events.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return VolumesPruneReport(volumes_deleted=deleted, space_reclaimed=reclaimed)

    async def usage(self) -> Sequence[Volume]:
        """All volumes with size and count of users, for `system df`; -1 is the size of what others store."""
        found = []
        for volume in self._store.list():
            size = -1 if volume.mounts else await self._size(volume.path)
            found.append(_shown(volume, UsageData(size=size, ref_count=len(self._users(volume.name)))))
        return found

    # ---- what containers need --------------------------------------------------------------------

    def path(self, name: str) -> str:
        """Where a volume of this name has its data, existing or not."""
        return self._store.path(name)

    async def provide(self, container_id: str, wishes: Sequence[VolumeWish], layers: Sequence[str]) -> None:
        """Create what is missing, copy up from the image's layers, and hold each for the container.

        On failure the volumes stay, as Docker leaves them, but those made for this container alone.
        """
        made: list[str] = []
        try:
            for wish in wishes:
                self._held.setdefault(wish.name, set()).add(container_id)
                labels = {**wish.labels, ANONYMOUS_LABEL: ""} if wish.anonymous else wish.labels
                record, new = await self._create(wish.name, wish.driver, wish.driver_opts, labels)
                if new:
                    made.append(wish.name)
                if wish.copy_up and layers:
                    await self._copy_up(wish, record, layers, container_id)
        except BaseException:
            self.release(container_id)
            for wish in wishes:
                if wish.anonymous and wish.name in made:
                    await self.remove_anonymous(wish.name, container_id)
            raise

    def release(self, container_id: str) -> None:
        """The container is gone; unknown ones are no error."""
        for name, holders in tuple(self._held.items()):
            holders.discard(container_id)
            if not holders:
                del self._held[name]

    async def remove_anonymous(self, name: str, container_id: str) -> None:
        """Remove a volume made for this container alone, unless another uses it by now."""
        volume = self._store.find(name)
        if volume is not None and volume.anonymous and not {*self._users(name)} - {container_id}:
            await self._remove(volume)

    async def mount(self, container_id: str, wishes: Sequence[VolumeWish]) -> Mapping[str, str]:
        """Mount those volumes that have to be; where each of these is, by name. Undone by `unmount`.

        Raises NotFound (driver), System.
        """
        places: dict[str, str] = {}
        for wish in wishes:
            record = self._store.find(wish.name)
            if record is not None and record.mounts and wish.name not in places:
                places[wish.name] = await self._mounts.mount(record, container_id)
        return places

    async def unmount(self, container_id: str) -> None:
        """The container does not run any more, or was not started; failures are logged."""
        for name in self._mounts.held_by(container_id):
            await self._mounts.unmount(name, container_id)

    async def settle(self, alive: Callable[[str], bool]) -> None:
        """At daemon start: unmount what no running container has any more."""
        await self._mounts.settle(alive)

    async def sweep(self) -> None:
        """At daemon start: delete what an interrupted create or removal left."""
        for directory in self._store.sweep():
            await self._delete(directory)

    # ---- inside ----------------------------------------------------------------------------------

    async def _create(
        self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]
    ) -> tuple[VolumeRecord, bool]:
        """The volume, new or as it was, and whether it is new."""
        if driver not in ("", DRIVER) and name and self._store.find(name) is None:
            check_name(name)
            try:
                await self._plugins.create(driver, name, options)
            except ProaError as exc:
                raise type(exc)(f"create {name}: {exc}") from exc
        elif driver not in ("", DRIVER) and not name:
            return await self._create(os.urandom(32).hex(), driver, options, {**labels, ANONYMOUS_LABEL: ""})
        elif driver in ("", DRIVER):
            check_options(name, options)
        record, new = self._store.create(name, driver=driver, options=options, labels=labels)
        if new:
            await self._bound(record)
            self._events.emit("volume", "create", record.name, {"driver": record.driver})
        return record, new

    async def _bound(self, record: VolumeRecord) -> None:
        """A new volume of the local driver may have a size."""
        if record.mounts or "size" not in record.options:
            return
        try:
            self._local.limit(record.name, record.path, parse_size(record.options["size"]))
        except ProaError:
            await self._delete(self._store.take_away(record.name))
            raise

    async def _copy_up(
        self, wish: VolumeWish, record: VolumeRecord, layers: Sequence[str], container_id: str
    ) -> None:
        """One at a time for a volume: the second container finds it filled."""
        loop = asyncio.get_running_loop()
        async with self._filling[wish.name]:
            try:
                path = await self._mounts.mount(record, container_id) if record.mounts else record.path
                await loop.run_in_executor(
                    self._executor, copy_up, tuple(layers), wish.target, path, wish.subpath
                )
            finally:
                if record.mounts:
                    await self._mounts.unmount(wish.name, container_id)
        if not self._filling[wish.name].locked():
            self._filling.pop(wish.name, None)

    def _users(self, name: str) -> Sequence[str]:
        return sorted({*self._using_volume(name), *self._held.get(name, ())})

    async def _remove(self, record: VolumeRecord) -> None:
        if record.driver != DRIVER:
            try:
                await self._plugins.remove(record.driver, record.name)
            except ProaError as exc:
                raise type(exc)(f"remove {record.name}: {exc}") from exc
        elif "size" in record.options:
            self._local.lift(record.path)
        await self._delete(self._forget(record))

    def _forget(self, record: VolumeRecord) -> str:
        directory = self._store.take_away(record.name)
        self._events.emit("volume", "destroy", record.name, {"driver": record.driver})
        return directory

    async def _of_plugins(self) -> tuple[dict[str, tuple[str, PluginVolume]], Sequence[str]]:
        """What every plugin says that it has, by name: (driver, volume); and what went wrong."""
        drivers = sorted({*self._plugins.names(), *(v.driver for v in self._store.list())} - {DRIVER})
        if not drivers:
            return {}, []
        answers = await asyncio.gather(*map(self._plugins.list, drivers), return_exceptions=True)
        found: dict[str, tuple[str, PluginVolume]] = {}
        warnings = []
        for driver, answer in zip(drivers, answers, strict=True):
            if isinstance(answer, ProaError):
                warnings.append(f"error while retrieving volumes of driver {driver}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.update((volume.name, (driver, volume)) for volume in answer)
        return found, warnings

    async def _detailed(self, record: VolumeRecord) -> Volume:
        if record.driver == DRIVER:
            return _shown(record)
        try:
            volume = await self._plugins.get(record.driver, record.name)
            scope = await self._plugins.scope(record.driver)
        except ProaError as exc:
            log.warning("volume %s: %s", record.name, exc)
            return _shown(record)
        return replace(_shown(record, plugin=(record.driver, volume)), scope=scope)

    async def _delete(self, directory: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._remove_tree, directory)
        except OSError as exc:
            raise System(f"remove {directory}: {(exc.strerror or str(exc)).lower()}") from exc

    async def _size(self, path: str) -> int:
        loop = asyncio.get_running_loop()
        try:
            return (await loop.run_in_executor(self._executor, self._disk_usage, path))[0]
        except OSError:
            return 0  # somebody removed the directory by hand


def _shown(
    volume: VolumeRecord,
    usage: UsageData | None = None,
    plugin: tuple[str, PluginVolume] | None = None,
) -> Volume:
    created = datetime.fromtimestamp(volume.created_ns // 1_000_000_000, UTC)
    own = volume.driver == DRIVER
    theirs = plugin[1] if plugin is not None and plugin[0] == volume.driver else PluginVolume()
    return Volume(
        name=volume.name,
        driver=volume.driver,
        mountpoint=volume.path if own else theirs.mountpoint,
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        status=theirs.status,
        labels=volume.labels or None,
        scope="local",
        options=volume.options or None,
        usage_data=usage,
    )


def _shown_plugin(driver: str, volume: PluginVolume) -> Volume:
    """One that its driver knows and proa does not."""
    return Volume(
        name=volume.name,
        driver=driver,
        mountpoint=volume.mountpoint,
        created_at=volume.created_at,
        status=volume.status,
        scope="local",
    )


def _matches(volume: Volume, filters: Filters) -> bool:
    names, drivers = filters.get("name"), filters.get("driver")
    labels = volume.labels or {}
    if names and not any(name in volume.name for name in names):
        return False
    if drivers and volume.driver not in drivers:
        return False
    if not all(_has_label(labels, label) for label in filters.get("label", ())):
        return False
    return not any(_has_label(labels, label) for label in filters.get("label!", ()))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _check_filters(filters: Filters, known: frozenset[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def _boolean(name: str, filters: Filters) -> bool | None:
    values = filters.get(name)
    if not values:
        return None
    if values[0] in _TRUE:
        return True
    if values[0] in _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")

"""The verbs of /volumes, and what container create and removal need of volumes.

In use means: a container that exists mounts it, or is being created. Trees are copied and deleted in the
executor, never in the loop.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime

from proa.copyup import copy_up
from proa.engine.ports import EventSink
from proa.engine.resolve import VolumeWish
from proa.errors import Conflict, InvalidParameter, NotFound, System
from proa.schema.prune import VolumesPruneReport
from proa.schema.volume import UsageData, Volume, VolumeCreateOptions, VolumeListResponse
from proa.volumes import ANONYMOUS_LABEL, DRIVER, VolumeRecord, VolumeStore

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
        using_volume: Callable[[str], Sequence[str]],
        remove_tree: Callable[[str], None],
        disk_usage: Callable[[str], tuple[int, int]],
        executor: Executor | None = None,
    ) -> None:
        """`using_volume` gives the ids of the containers that mount one; the two others are proa_native's."""
        self._store = store
        self._events = events
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
        found = [
            volume
            for volume in self._store.list()
            if _matches(volume, filters) and (dangling is None or dangling == (not self._users(volume.name)))
        ]
        return VolumeListResponse(volumes=[_shown(volume) for volume in found], warnings=[])

    async def create(self, body: VolumeCreateOptions) -> Volume:
        if body.cluster_volume_spec:
            raise InvalidParameter("cluster volumes need a swarm, which proa is not part of")
        record, new = self._store.create(
            body.name, driver=body.driver, options=body.driver_opts, labels=body.labels
        )
        if new:
            self._events.emit("volume", "create", record.name, {"driver": DRIVER})
        return _shown(record)

    async def inspect(self, name: str) -> Volume:
        return _shown(self._store.get(name))

    async def remove(self, name: str, *, force: bool) -> None:
        if self._store.find(name) is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        users = self._users(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        await self._remove(name)

    async def prune(self, filters: Filters) -> VolumesPruneReport:
        """Unused volumes: anonymous ones, or with the filter `all=true` every one."""
        _check_filters(filters, _PRUNE_FILTERS)
        every = _boolean("all", filters) or False
        deleted: list[str] = []
        reclaimed = 0
        for volume in self._store.list():
            wanted = (every or volume.anonymous) and _matches(volume, filters)
            if not wanted or self._store.find(volume.name) is None:
                continue
            size = await self._size(volume.path)
            # Looked at after the wait: a container may have come meanwhile.
            if self._users(volume.name) or self._store.find(volume.name) is None:
                continue
            await self._remove(volume.name)
            deleted.append(volume.name)
            reclaimed += size
        self._events.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return VolumesPruneReport(volumes_deleted=deleted, space_reclaimed=reclaimed)

    async def usage(self) -> Sequence[Volume]:
        """All volumes with size and count of users, for `system df`."""
        found = []
        for volume in self._store.list():
            usage = UsageData(size=await self._size(volume.path), ref_count=len(self._users(volume.name)))
            found.append(_shown(volume, usage))
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
                if self._create(wish):
                    made.append(wish.name)
                if wish.copy_up and layers:
                    await self._copy_up(wish, layers)
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
            await self._remove(name)

    async def sweep(self) -> None:
        """At daemon start: delete what an interrupted create or removal left."""
        for directory in self._store.sweep():
            await self._delete(directory)

    # ---- inside ----------------------------------------------------------------------------------

    def _create(self, wish: VolumeWish) -> bool:
        labels = {**wish.labels, ANONYMOUS_LABEL: ""} if wish.anonymous else wish.labels
        record, new = self._store.create(
            wish.name, driver=wish.driver, options=wish.driver_opts, labels=labels
        )
        if new:
            self._events.emit("volume", "create", record.name, {"driver": DRIVER})
        return new

    async def _copy_up(self, wish: VolumeWish, layers: Sequence[str]) -> None:
        """One at a time for a volume: the second container finds it filled."""
        loop = asyncio.get_running_loop()
        async with self._filling[wish.name]:
            path = self._store.path(wish.name)
            await loop.run_in_executor(self._executor, copy_up, tuple(layers), wish.target, path)
        if not self._filling[wish.name].locked():
            self._filling.pop(wish.name, None)

    def _users(self, name: str) -> Sequence[str]:
        return sorted({*self._using_volume(name), *self._held.get(name, ())})

    async def _remove(self, name: str) -> None:
        directory = self._store.take_away(name)
        self._events.emit("volume", "destroy", name, {"driver": DRIVER})
        await self._delete(directory)

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


def _shown(volume: VolumeRecord, usage: UsageData | None = None) -> Volume:
    created = datetime.fromtimestamp(volume.created_ns // 1_000_000_000, UTC)
    return Volume(
        name=volume.name,
        driver=DRIVER,
        mountpoint=volume.path,
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        labels=volume.labels or None,
        scope="local",
        options=volume.options or None,
        usage_data=usage,
    )


def _matches(volume: VolumeRecord, filters: Filters) -> bool:
    names, drivers = filters.get("name"), filters.get("driver")
    if names and not any(name in volume.name for name in names):
        return False
    if drivers and DRIVER not in drivers:
        return False
    if not all(_has_label(volume.labels, label) for label in filters.get("label", ())):
        return False
    return not any(_has_label(volume.labels, label) for label in filters.get("label!", ()))


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
    raise InvalidParameter(f"invalid filter '{name}={values}'")

"""The cache as df shows it and prune empties it: entries of steps, cache mounts, and contexts that are kept.

Source: the Docker Engine API v1.51, BuildPrune, BuildCache; docker builder prune's reference.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

import proa_native
from msgspec import Struct

from proa.build.cache import Cache
from proa.engine.builds.cache_mounts import CacheDirectories
from proa.engine.builds.kept import KeptContexts
from proa.engine.durations import rfc3339
from proa.engine.images.filters import parse_until
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter, System
from proa.schema.build import BuildCacheRecord, BuildPruneReport
from proa.schema.build_gc import GcRule

_STATED = ("inuse", "shared", "private")
_ONCE = ("until", "unused-for", "id", "parent", "type", "description")
_FILTERS = frozenset((*_STATED, *_ONCE, "label", "label!"))

_CONTEXT = "source.local"
_STATES: Mapping[str, Callable[[BuildCacheRecord], bool]] = {
    "inuse": lambda record: record.in_use,
    "shared": lambda record: record.shared,
    "private": lambda record: not record.shared,
}


class Space(Struct, frozen=True, kw_only=True):
    """What a prune is to leave, in bytes; 0 is no bound.

    It removes until at most `most` are used and `free` are free, and never goes below `least`; alone, that
    is what it leaves.
    """

    least: int = 0
    most: int = 0
    free: int = 0

    def to_keep(self, used: int, free: int) -> int:
        """Bytes that may stay of `used`. Source: BuildKit, cache/manager.go, calculateKeepBytes."""
        kept = self.most or (used if self.free else 0)
        if (missing := self.free - free) > 0:
            kept = min(kept, used - missing)
        return max(kept, self.least)

    @property
    def bounded(self) -> bool:
        """Whether it says anything."""
        return bool(self.least or self.most or self.free)


class _Candidate(Struct, frozen=True):
    record: BuildCacheRecord
    used_ns: int
    directory: str = ""
    """Of a cache mount; empty for anything else."""


class Pruner:
    """Looks at the cache, and takes from it."""

    def __init__(
        self,
        *,
        store: ImageStore,
        cache: Cache,
        caches: CacheDirectories,
        contexts: KeptContexts,
        collect: Callable[[], object],
        executor: Executor | None,
        rules: Sequence[GcRule],
        spawn: Callable[..., "asyncio.Task[None]"],
    ) -> None:
        """`collect` removes what nothing needs any more; `rules` are followed in the background."""
        self._rules = rules
        self._spawn = spawn
        self._following: asyncio.Task[None] | None = None
        self._store = store
        self._cache = cache
        self._caches = caches
        self._contexts = contexts
        self._collect = collect
        self._executor = executor

    def records(self) -> list[BuildCacheRecord]:
        """Every entry, the one used last first; sizes of cache mounts are not looked at."""
        return [candidate.record for candidate in (*self._steps(), *self._kept())]

    async def prune(
        self,
        *,
        all: bool,
        filters: Mapping[str, Sequence[str]],
        keep_bytes: int = 0,
        max_used: int = 0,
        min_free: int = 0,
    ) -> BuildPruneReport:
        """Remove entries, the one used longest ago first, until there is the `Space` that is asked for.

        Without `all`, only layers that no image has are counted and removed. Raises InvalidParameter.
        """
        tests = _tests(filters)
        steps = self._steps()
        mounts = await asyncio.get_running_loop().run_in_executor(self._executor, self._mounts)
        found = sorted((*steps, *mounts, *self._kept()), key=lambda candidate: candidate.used_ns)
        found = [each for each in found if all or not each.record.shared]
        kept = sum(each.record.size for each in found)
        space = Space(least=keep_bytes, most=max_used, free=min_free)
        wanted = space.to_keep(kept, self._free())
        doomed = []
        for candidate in found:
            if space.bounded and kept <= wanted:
                break
            if candidate.record.in_use or not tests(candidate):
                continue
            doomed.append(candidate)
            kept -= candidate.record.size
        await self._remove(doomed)
        return BuildPruneReport(
            caches_deleted=[each.record.id for each in doomed] or None,
            space_reclaimed=sum(each.record.size for each in doomed if not each.record.shared),
        )

    def follow_rules_later(self) -> None:
        """Remove what the daemon's configuration does not keep; one look at a time."""
        if self._rules and (self._following is None or self._following.done()):
            self._following = self._spawn(self._follow_rules(), "build cache collection")

    async def _follow_rules(self) -> None:
        for rule in self._rules:
            bounds = (rule.reserved, rule.max_used, rule.min_free)
            if rule.of_disk:
                whole = os.statvfs(self._store.snapshots.root)
                total = whole.f_blocks * whole.f_frsize
                bounds = (total // 10, total * 3 // 4, total // 5)
            keep_bytes, max_used, min_free = bounds
            await self.prune(
                all=rule.all,
                filters=rule.filters,
                keep_bytes=keep_bytes,
                max_used=max_used,
                min_free=min_free,
            )

    def _free(self) -> int:
        found = os.statvfs(self._store.snapshots.root)
        return found.f_bavail * found.f_frsize

    async def _remove(self, doomed: Sequence[_Candidate]) -> None:
        self._cache.forget(each.record.id for each in doomed if each.record.type == "regular")
        loop = asyncio.get_running_loop()
        for each in doomed:
            if each.directory and (gone := self._caches.doom(each.directory)) is not None:
                await loop.run_in_executor(self._executor, _remove_tree, gone)
            if each.record.type == _CONTEXT:
                await self._contexts.remove(each.record.id)
        self._collect()

    def _steps(self) -> list[_Candidate]:
        snapshots = {snapshot.chain_id: snapshot for snapshot in self._store.snapshots.all()}
        of_images = self._store.needed_by_images()
        of_images |= {snapshots[chain_id].same_files for chain_id in of_images & snapshots.keys()}
        entries = self._cache.all()
        makers = {entry.chain_id: entry.key for entry in entries}
        candidates = []
        counted: set[str] = set()
        for entry in entries:
            snapshot = snapshots.get(entry.chain_id)
            size = snapshot.size if snapshot and entry.chain_id not in counted else 0
            counted.add(entry.chain_id)
            record = BuildCacheRecord(
                id=entry.key,
                parents=[makers[snapshot.parent]] if snapshot and snapshot.parent in makers else None,
                description=entry.description,
                shared=entry.chain_id in of_images,
                size=size,
                created_at=rfc3339(entry.created_ns),
                last_used_at=rfc3339(entry.used_ns),
                usage_count=entry.uses,
            )
            candidates.append(_Candidate(record, entry.used_ns))
        return candidates

    def _kept(self) -> list[_Candidate]:
        return [
            _Candidate(
                BuildCacheRecord(
                    id=place.id,
                    type=_CONTEXT,
                    description=f"local source for {place.title}",
                    in_use=place.in_use,
                    size=place.size,
                    created_at=rfc3339(place.created_ns),
                    last_used_at=rfc3339(place.used_ns),
                    usage_count=place.uses,
                ),
                place.used_ns,
            )
            for place in self._contexts.all()
        ]

    def _mounts(self) -> list[_Candidate]:
        """Directories of cache mounts; blocks."""
        candidates = []
        for path, in_use in self._caches.all():
            try:
                size, _ = proa_native.disk_usage(path)
                used_ns = os.stat(path).st_mtime_ns
            except OSError:
                continue  # it went meanwhile
            record = BuildCacheRecord(
                id=os.path.basename(path),
                type="exec.cachemount",
                description="cache mount",
                in_use=in_use,
                size=size,
                created_at=rfc3339(used_ns),
                last_used_at=rfc3339(used_ns),
            )
            candidates.append(_Candidate(record, used_ns, path))
        return candidates


def _remove_tree(path: str) -> None:
    try:
        proa_native.remove_tree(path)
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


def _states(name: str, values: Sequence[str]) -> set[bool]:
    """What a filter of yes or no lets pass; without a value it is yes. Raises InvalidParameter."""
    found = set()
    for value in values or ("",):
        if value.lower() not in ("", "1", "0", "true", "false"):
            raise InvalidParameter(f"invalid filter '{name}={value}'")
        found.add(value.lower() in ("", "1", "true"))
    return found


def _tests(filters: Mapping[str, Sequence[str]]) -> Callable[[_Candidate], bool]:
    for name in filters:
        if name not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
        if name in _ONCE and len(filters[name]) > 1:
            raise InvalidParameter("filters expect only one value")
    if "until" in filters and "unused-for" in filters:
        raise InvalidParameter('conflicting filters: "until" and "unused-for"')
    ages = filters.get("until") or filters.get("unused-for")
    before = parse_until(ages[0]) if ages else None
    wanted = {name: filters[name][0] for name in _ONCE if filters.get(name)}
    states = [(name, _states(name, filters[name])) for name in _STATES if name in filters]

    def test(candidate: _Candidate) -> bool:
        record = candidate.record
        if "label" in filters:
            return False  # `system prune` asks all kinds of things with one filter; these have no labels
        return (
            all(_STATES[name](record) in wished for name, wished in states)
            and (before is None or candidate.used_ns <= before)
            and record.id.startswith(wanted.get("id", ""))
            and wanted.get("parent", "") in ("", *(record.parents or ()))
            and wanted.get("type", record.type) == record.type
            and wanted.get("description", record.description) == record.description
        )

    return test

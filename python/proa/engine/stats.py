"""`docker stats`: one sampler for all subscribers, and deltas against the sample before.

While anybody listens, every container listened to is sampled once a second, all in one executor job;
with nobody there nothing runs. A single answer takes a recent sample as the one before, so that it
need not wait a second.

Source: the Docker Engine API, v1.51, GET /containers/{id}/stats; moby daemon/stats.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from proa.engine.container import Container
from proa.engine.durations import ZERO, rfc3339
from proa.engine.ports import NativeCgroups
from proa.schema.stats import ContainerBlkioStats as BlkioStats
from proa.schema.stats import (
    ContainerCPUStats,
    ContainerMemoryStats,
    ContainerNetworkStats,
    ContainerPidsStats,
    ContainerStatsResponse,
)

INTERVAL = 1.0
FIRST_INTERVAL = 0.25
"""Seconds between the two samples of a single answer where none is cached."""
CACHED_NS = 30_000_000_000
"""Age up to which a sample serves as the one before."""


class Sample(msgspec.Struct, frozen=True):
    """One container at one time."""

    time_ns: int
    cpu: ContainerCPUStats
    memory: ContainerMemoryStats
    pids: ContainerPidsStats
    blkio: BlkioStats
    networks: dict[str, ContainerNetworkStats | None] | None


class Stats:
    """The sampler."""

    def __init__(self, native: NativeCgroups, executor: Executor | None = None) -> None:
        self._native = native
        self._executor = executor
        self._last: dict[str, Sample] = {}
        self._listeners: dict[str, tuple[Container, int]] = {}
        self._tick: asyncio.Future[dict[str, Sample]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._round: asyncio.Task[None] | None = None

    async def stream(
        self, container: Container, *, stream: bool, one_shot: bool
    ) -> AsyncIterator[ContainerStatsResponse]:
        """Samples once a second while it exists; without `stream` a single one.

        A container that does not run gives an empty sample, and waits for its start when streamed.
        """
        if not stream:
            return self._single(container, one_shot)
        return self._follow(container)

    def forget(self, container_id: str) -> None:
        """The container has ended: its next run starts from zero."""
        self._last.pop(container_id, None)

    async def _single(self, container: Container, one_shot: bool) -> AsyncIterator[ContainerStatsResponse]:
        before = self._last.get(container.id)
        if before is not None and time.time_ns() - before.time_ns > CACHED_NS:
            before = None
        if before is None and not one_shot and container.state.alive:
            before = (await self._sample([container])).get(container.id)
            await asyncio.sleep(FIRST_INTERVAL)
        now = (await self._sample([container])).get(container.id)
        yield response(container, None if one_shot else before, now)

    async def _follow(self, container: Container) -> AsyncIterator[ContainerStatsResponse]:
        self._enter(container)
        try:
            before = self._last.get(container.id)
            now = (await self._sample([container])).get(container.id)
            yield response(container, before, now)
            while not container.gone:
                before = now
                now = (await self._next()).get(container.id)
                yield response(container, before if now else None, now)
        finally:
            self._leave(container)

    def _enter(self, container: Container) -> None:
        count = self._listeners.get(container.id, (container, 0))[1]
        self._listeners[container.id] = (container, count + 1)

    def _leave(self, container: Container) -> None:
        count = self._listeners[container.id][1]
        if count > 1:
            self._listeners[container.id] = (container, count - 1)
            return
        del self._listeners[container.id]
        if not self._listeners and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _next(self) -> dict[str, Sample]:
        """The next round, which all listeners share."""
        loop = asyncio.get_running_loop()
        if self._tick is None or self._tick.done():
            self._tick = loop.create_future()
        if self._timer is None:
            self._timer = loop.call_later(INTERVAL, self._due)
        return await asyncio.shield(self._tick)

    def _due(self) -> None:
        self._timer = None
        self._round = asyncio.get_running_loop().create_task(self._sample_all())

    async def _sample_all(self) -> None:
        tick, samples = self._tick, await self._sample([c for c, _ in self._listeners.values()])
        if tick is not None and not tick.done():
            tick.set_result(samples)

    async def _sample(self, containers: Iterable[Container]) -> dict[str, Sample]:
        """Sample those that run, in one job."""
        wanted = [
            (c.id, c.record.resolved.plan.cgroup.path, c.state.pid) for c in containers if c.state.alive
        ]
        if not wanted:
            return {}
        loop = asyncio.get_running_loop()
        samples = await loop.run_in_executor(self._executor, self._read, wanted)
        self._last.update(samples)
        return samples

    def _read(self, wanted: list[tuple[str, str, int]]) -> dict[str, Sample]:
        """In the executor; a container that ends meanwhile is left out."""
        system, cpus = _system_cpu_ns(), len(os.sched_getaffinity(0))
        samples: dict[str, Sample] = {}
        for id_, path, pid in wanted:
            try:
                samples[id_] = self._one(path, pid, system, cpus)
            except OSError:
                continue
        return samples

    def _one(self, path: str, pid: int, system: int, cpus: int) -> Sample:
        raw = self._native.cgroup_stats(path)
        cpu = msgspec.convert(raw.get("cpu_stats") or {}, ContainerCPUStats)
        return Sample(
            time_ns=time.time_ns(),
            cpu=msgspec.structs.replace(
                cpu, system_cpu_usage=cpu.system_cpu_usage or system, online_cpus=cpu.online_cpus or cpus
            ),
            memory=msgspec.convert(raw.get("memory_stats") or {}, ContainerMemoryStats),
            pids=msgspec.convert(raw.get("pids_stats") or {}, ContainerPidsStats),
            blkio=msgspec.convert(raw.get("blkio_stats") or {}, BlkioStats),
            networks=self._networks(pid),
        )

    def _networks(self, pid: int) -> dict[str, ContainerNetworkStats | None] | None:
        interfaces = self._native.network_stats(pid)
        interfaces.pop("lo", None)
        if not interfaces:
            return None
        return {
            name: msgspec.convert(counters, ContainerNetworkStats) for name, counters in interfaces.items()
        }


def response(container: Container, before: Sample | None, now: Sample | None) -> ContainerStatsResponse:
    """A sample with the one before it; without one, zeros."""
    name = f"/{container.record.name}"
    if now is None:
        return ContainerStatsResponse(
            name=name,
            id=container.id,
            read=ZERO,
            preread=ZERO,
            pids_stats=ContainerPidsStats(),
            blkio_stats=BlkioStats(),
            cpu_stats=_NO_CPU,
            precpu_stats=_NO_CPU,
            memory_stats=ContainerMemoryStats(),
        )
    return ContainerStatsResponse(
        name=name,
        id=container.id,
        read=rfc3339(now.time_ns),
        preread=rfc3339(before.time_ns) if before else ZERO,
        pids_stats=now.pids,
        blkio_stats=now.blkio,
        num_procs=0,
        cpu_stats=now.cpu,
        precpu_stats=before.cpu if before else _NO_CPU,
        memory_stats=now.memory,
        networks=now.networks,
    )


_NO_CPU = msgspec.convert({"cpu_usage": {"total_usage": 0}, "throttling_data": {}}, ContainerCPUStats)


def _system_cpu_ns() -> int:
    """Time all processors spent, in nanoseconds. Source: proc(5), /proc/stat."""
    with Path("/proc/stat").open() as file:
        fields = file.readline().split()[1:8]
    return sum(int(field) for field in fields) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

"""What proa has on disk, by kind: `system df`.

A container's size is its writable layer and its own directory, with its logs: on a full disk it is those
that matter. Sizes of layers and images are what the snapshots' records say; only containers and volumes are
counted now.

Source: moby daemon/disk_usage.go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from proa.errors import InvalidParameter
from proa.schema.build import BuildCacheRecord
from proa.schema.container_state import ContainerSummary
from proa.schema.image import ImageSummary
from proa.schema.system import SystemDataUsage
from proa.schema.volume import Volume

KINDS = frozenset(("container", "image", "volume", "build-cache"))


class UsedImages(Protocol):
    """engine/images."""

    def usage(self) -> tuple[int, list[ImageSummary]]: ...


class UsedVolumes(Protocol):
    """engine/volumes.py."""

    async def usage(self) -> Sequence[Volume]: ...


class ListedContainers(Protocol):
    """engine/containers.py."""

    async def list(
        self, *, all: bool, limit: int, size: bool, filters: Mapping[str, list[str]]
    ) -> Sequence[ContainerSummary]: ...


class DiskUsage:
    """Counts."""

    def __init__(
        self,
        *,
        images: UsedImages,
        containers: ListedContainers,
        volumes: UsedVolumes,
        build_cache: Callable[[], list[BuildCacheRecord]],
        directory: Path,
        disk_usage: Callable[[str], tuple[int, int]],
        executor: Executor | None = None,
    ) -> None:
        """`disk_usage` is proa_native's."""
        self._build_cache = build_cache
        self._images = images
        self._containers = containers
        self._volumes = volumes
        self._directory = directory
        self._disk_usage = disk_usage
        self._executor = executor

    async def count(self, kinds: Collection[str]) -> SystemDataUsage:
        """The kinds that are asked for, all where none is. Raises InvalidParameter for one that is none."""
        for kind in kinds:
            if kind not in KINDS:
                raise InvalidParameter(f"unknown object type: {kind}")
        wanted = frozenset(kinds) or KINDS
        layers_size, images = self._images.usage() if "image" in wanted else (0, None)
        return SystemDataUsage(
            layers_size=layers_size,
            images=images,
            containers=await self._with_logs() if "container" in wanted else None,
            volumes=list(await self._volumes.usage()) if "volume" in wanted else None,
            build_cache=self._build_cache() if "build-cache" in wanted else None,
        )

    async def _with_logs(self) -> list[ContainerSummary]:
        found = await self._containers.list(all=True, limit=0, size=True, filters={})
        own = [await self._own(container.id) for container in found]
        return [
            replace(container, size_rw=(container.size_rw or 0) + size)
            for container, size in zip(found, own, strict=True)
        ]

    async def _own(self, container_id: str) -> int:
        loop = asyncio.get_running_loop()
        counting: Awaitable[tuple[int, int]] = loop.run_in_executor(
            self._executor, self._disk_usage, str(self._directory / container_id)
        )
        try:
            return (await counting)[0]
        except OSError:
            return 0  # it was removed meanwhile

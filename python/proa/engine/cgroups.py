"""Control groups of containers by their plan's path: the native calls off the loop, failures translated."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import msgspec

from proa.engine.ports import NativeCgroups
from proa.errors import InvalidParameter, ProaError, System
from proa.schema.plan import Resources

T = TypeVar("T")


class Cgroups:
    """What the engine does to control groups that exist."""

    def __init__(self, native: NativeCgroups, executor: Executor | None = None) -> None:
        self._native = native
        self._executor = executor

    async def update(self, path: str, resources: Resources) -> None:
        """Write new limits, all or nothing."""
        packed = msgspec.msgpack.encode(resources)
        await self._call(lambda: self._native.cgroup_update(path, packed))

    async def freeze(self, path: str, frozen: bool) -> None:
        """Freeze or thaw, and wait until it is so."""
        await self._call(lambda: self._native.cgroup_freeze(path, frozen))

    async def pids(self, path: str) -> list[int]:
        """Processes of the group and below, ascending."""
        return await self._call(lambda: self._native.cgroup_pids(path))

    async def kill(self, path: str) -> None:
        """SIGKILL all; a missing group is no error."""
        await self._call(lambda: self._native.cgroup_kill(path))

    async def remove(self, path: str) -> None:
        """Remove the group and those below; a missing one is no error."""
        await self._call(lambda: self._native.cgroup_remove(path))

    async def names(self, parent: str) -> list[str]:
        """Groups right below `parent`."""
        return await self._call(lambda: self._native.cgroup_list(parent))

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except (OSError, ValueError) as exc:
            raise translate(exc) from exc


def translate(exc: OSError | ValueError) -> ProaError:
    """A native failure as clients are told it."""
    if isinstance(exc, ValueError):
        return InvalidParameter(str(exc))
    return System(str(exc))

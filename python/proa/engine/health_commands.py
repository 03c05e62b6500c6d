"""Healthchecks that are commands: exec'd in the container, one after the other.

Source: moby daemon/health.go.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from proa.engine.background import Background
from proa.engine.container import Container
from proa.errors import ProaError, System
from proa.schema.exec import ExecCreateRequest

if TYPE_CHECKING:
    from proa.engine.health import Course


class Prober(Protocol):
    """What runs a command (engine/execs.py)."""

    async def probe(
        self, container: Container, request: ExecCreateRequest, timeout_ns: int
    ) -> tuple[int | None, str]:
        """(exit code, or None where it was killed for taking too long; output)."""
        ...


class CommandMonitor:
    """The clock of one container's commands."""

    def __init__(
        self, course: "Course", arguments: list[str], prober: Prober, background: Background
    ) -> None:
        self._course = course
        self._request = ExecCreateRequest(cmd=arguments, attach_stdout=True, attach_stderr=True)
        self._prober = prober
        self._background = background
        self._task: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """The first check comes an interval from now."""
        name = f"healthcheck of {self._course.container.id[:12]}"
        self._task = self._background.spawn(self._run(), name)

    def stop(self) -> None:
        """No further check; of one under way, which ends by its timeout, nothing is told."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._course.end()

    def catch_up(self) -> None:
        """Results are told as they come."""

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._course.pause_before_next())
            start = time.time_ns()
            code, output = await self._check()
            self._course.add(start, time.time_ns(), code, output)

    async def _check(self) -> tuple[int, str]:
        times, container = self._course.times, self._course.container
        try:
            if not self._request.cmd:
                raise System(f"healthcheck for container {container.id} has no command")
            code, output = await self._prober.probe(container, self._request, times.timeout)
        except ProaError as exc:
            return -1, str(exc)
        if code is None:
            return -1, f"{times.late}: {output}" if output else times.late
        return code, output

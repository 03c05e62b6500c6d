"""Healthchecks: a probe exec'd at intervals while a container runs, its results, and the status they make.

`judge` is the pure rule; `Monitor` is its clock. Source: moby daemon/health.go.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec.structs import replace

from proa.engine.background import Background
from proa.engine.container import Container
from proa.engine.durations import rfc3339
from proa.engine.notices import Notices
from proa.engine.state import Status
from proa.errors import ProaError, StartFailed
from proa.schema.container import HealthConfig
from proa.schema.container_state import Health, HealthcheckResult
from proa.schema.exec import ExecCreateRequest

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
INTERVAL = 30 * SECOND
TIMEOUT = 30 * SECOND
START_INTERVAL = 5 * SECOND
RETRIES = 3
KEPT_RESULTS = 5
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

DEFAULT_SHELL = ["/bin/sh", "-c"]


class Prober(Protocol):
    """What runs a probe (engine/execs.py)."""

    async def probe(
        self, container: Container, request: ExecCreateRequest, timeout: float
    ) -> tuple[int, str]: ...


def judge(health: Health, result: HealthcheckResult, *, retries: int, starting: bool) -> Health:
    """The health after one more result; failures count only once `starting` is over."""
    kept = [*(health.log or ()), result][-KEPT_RESULTS:]
    if result.exit_code == 0:
        return Health(status=HEALTHY, failing_streak=0, log=kept)
    if starting and health.status == STARTING:
        return replace(health, log=kept)
    streak = health.failing_streak + 1
    status = UNHEALTHY if streak >= retries else health.status
    return Health(status=status, failing_streak=streak, log=kept)


def command(config: HealthConfig | None, shell: list[str] | None) -> list[str] | None:
    """The probe's command line; None for no healthcheck."""
    if config is None or not config.test or config.test[0] == "NONE":
        return None
    kind, *arguments = config.test
    if kind == "CMD-SHELL":
        return [*(shell or DEFAULT_SHELL), *arguments]
    return arguments if kind == "CMD" else None


class Healthchecks:
    """Starts monitors."""

    def __init__(self, prober: Prober, notices: Notices, background: Background) -> None:
        self._prober = prober
        self._notices = notices
        self._background = background

    def monitor(self, container: Container) -> "Monitor | None":
        """Watch a container that has just started; None where it has no healthcheck."""
        config = container.record.resolved.config
        arguments = command(config.healthcheck, config.shell)
        if not arguments or config.healthcheck is None:
            container.health = None
            return None
        container.health = Health(status=STARTING, log=[])
        request = ExecCreateRequest(cmd=arguments, attach_stdout=True, attach_stderr=True)

        async def probe(timeout: float) -> tuple[int, str]:
            return await self._prober.probe(container, request, timeout)

        monitor = Monitor(container, config.healthcheck, probe, self._notices)
        self._background.spawn(monitor.run(), f"healthcheck of {container.id[:12]}")
        return monitor


class Monitor:
    """The clock of one container's healthcheck."""

    def __init__(
        self,
        container: Container,
        config: HealthConfig,
        probe: Callable[[float], Awaitable[tuple[int, str]]],
        notices: Notices,
    ) -> None:
        self._container = container
        self._config = config
        self._probe = probe
        self._notices = notices
        self._stopped = asyncio.Event()
        self._start_ends = time.time_ns() + config.start_period

    def stop(self) -> None:
        """No further probe; the one under way is not told any more."""
        self._stopped.set()

    async def run(self) -> None:
        """Probe until stopped."""
        while not await self._stopped_within(self._interval()):
            if self._container.state.status is Status.RUNNING:  # in a frozen one a probe would hang
                result = await self._check()
                if not self._stopped.is_set():
                    self._tell(result)

    def _interval(self) -> float:
        health = self._container.health
        if health is not None and health.status == STARTING and time.time_ns() < self._start_ends:
            return (self._config.start_interval or START_INTERVAL) / SECOND
        return (self._config.interval or INTERVAL) / SECOND

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def _check(self) -> HealthcheckResult:
        timeout = (self._config.timeout or TIMEOUT) / SECOND
        start = time.time_ns()
        try:
            code, output = await self._probe(timeout)
        except TimeoutError:
            code, output = -1, f"Health check exceeded timeout ({timeout:g}s)"
        except StartFailed as exc:
            code, output = exc.code, str(exc)
        except ProaError as exc:
            code, output = -1, str(exc)
        return HealthcheckResult(
            start=rfc3339(start), end=rfc3339(time.time_ns()), exit_code=code, output=output
        )

    def _tell(self, result: HealthcheckResult) -> None:
        before = self._container.health or Health(status=STARTING, log=[])
        after = judge(
            before,
            result,
            retries=self._config.retries or RETRIES,
            starting=time.time_ns() < self._start_ends,
        )
        self._container.health = after
        if after.status != before.status:
            self._notices.tell(self._container, f"health_status: {after.status}")

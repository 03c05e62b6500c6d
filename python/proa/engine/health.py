"""Healthchecks: a container asked at intervals while it runs, the results, and the status they make.

`judge` is the pure rule, `Course` what one container's results have come to. Who asks, and when, is
health_commands.py (a command inside) and health_probes.py (over the network, natively).

Source: moby daemon/health.go.
"""

import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from proa.durations import go_duration
from proa.engine.background import Background
from proa.engine.container import Container, Monitor
from proa.engine.durations import rfc3339
from proa.engine.health_commands import CommandMonitor, Prober
from proa.engine.health_probes import NativeProbes, ProbeMonitor, Probes
from proa.engine.notices import Notices
from proa.engine.resolve import COMMANDS, PROBES, probe_target
from proa.engine.state import Status
from proa.schema.container import HealthConfig
from proa.schema.container_state import Health, HealthcheckResult

SECOND = 1_000_000_000
INTERVAL = 30 * SECOND
TIMEOUT = 30 * SECOND
START_INTERVAL = 5 * SECOND
RETRIES = 3
KEPT_RESULTS = 5
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

DEFAULT_SHELL = ["/bin/sh", "-c"]


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


class Times(Struct, frozen=True, kw_only=True):
    """When to ask, with Docker's defaults. Nanoseconds."""

    interval: int
    """From the end of one check to the start of the next; before the first, too."""
    start_interval: int
    """The same until the first success, as long as the start period lasts."""
    start_ends: int
    """Unix time at which the start period ends."""
    timeout: int
    retries: int

    @classmethod
    def of(cls, config: HealthConfig, started_ns: int) -> "Times":
        """Of a container that began then."""
        return cls(
            interval=config.interval or INTERVAL,
            start_interval=config.start_interval or START_INTERVAL,
            start_ends=started_ns + config.start_period,
            timeout=config.timeout or TIMEOUT,
            retries=config.retries or RETRIES,
        )

    @property
    def late(self) -> str:
        """What is told of a check that took too long."""
        return f"Health check exceeded timeout ({go_duration(self.timeout)})"


class Course:
    """What the checks of one container have come to; kept in the container."""

    def __init__(self, container: Container, times: Times, notices: Notices) -> None:
        self.container = container
        self.times = times
        self._notices = notices

    @property
    def starting(self) -> bool:
        """There was neither a success nor a lasting failure yet."""
        return self._health.status == STARTING

    def pause_before_next(self) -> float:
        """Seconds."""
        starting = self.starting and time.time_ns() < self.times.start_ends
        return (self.times.start_interval if starting else self.times.interval) / SECOND

    def add(self, start_ns: int, end_ns: int, code: int, output: str) -> None:
        """One more result; tells of a new status."""
        result = HealthcheckResult(
            start=rfc3339(start_ns), end=rfc3339(end_ns), exit_code=code, output=output
        )
        before = self._health
        starting = start_ns < self.times.start_ends
        after = judge(before, result, retries=self.times.retries, starting=starting)
        self.container.health = after
        if after.status != before.status:
            self._notices.tell(self.container, f"health_status: {after.status}")

    def end(self) -> None:
        """Nobody checks any more: as Docker has it, that is unhealthy, and told to nobody."""
        self.container.health = replace(self._health, status=UNHEALTHY)

    @property
    def _health(self) -> Health:
        return self.container.health or Health(status=STARTING, log=[])


class Healthchecks:
    """Starts monitors."""

    def __init__(
        self,
        prober: Prober,
        native: Callable[[], NativeProbes],
        notices: Notices,
        background: Background,
    ) -> None:
        self._prober = prober
        self._probes = Probes(native)
        self._notices = notices
        self._background = background

    def monitor(self, container: Container) -> Monitor | None:
        """Watch a container that has just started; None where it has no healthcheck.

        What was found when it ran before stays in the log.
        """
        config = container.record.resolved.config.healthcheck
        if config is None or not config.test or config.test[0] not in (*COMMANDS, *PROBES):
            container.health = None
            return None
        target = probe_target(config.test)
        found_before = container.health.log if container.health is not None else []
        container.health = Health(status=STARTING, log=found_before)
        course = Course(container, Times.of(config, container.state.started_ns), self._notices)
        monitor: Monitor
        if target is not None:
            monitor = ProbeMonitor(course, target, self._probes)
        else:
            monitor = CommandMonitor(course, self._command(container), self._prober, self._background)
        if container.state.status is not Status.PAUSED:
            monitor.resume()
        return monitor

    def close(self) -> None:
        """After the last monitor was stopped."""
        self._probes.close()

    def _command(self, container: Container) -> list[str]:
        config = container.record.resolved.config
        return command(config.healthcheck, config.shell)


def command(config: HealthConfig | None, shell: list[str] | None) -> list[str]:
    """A check's command line; empty where it has none."""
    if config is None or not config.test or len(config.test) == 1:
        return []
    kind, *arguments = config.test
    return [*(shell or DEFAULT_SHELL), *arguments] if kind == "CMD-SHELL" else arguments

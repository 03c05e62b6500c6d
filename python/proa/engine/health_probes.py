"""Healthchecks over the network: the native core asks and keeps the clock, here its answers are read.

As long as nothing changes it tells nothing: a container that stays healthy costs no Python. What it found
waits there until somebody inspects the container.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from proa.engine.resolve import Target

if TYPE_CHECKING:
    from proa.engine.health import Course

log = logging.getLogger(__name__)


class NativeProbes(Protocol):
    """proa_native.Probes."""

    def watch(
        self,
        pid: int,
        addresses: Sequence[str],
        request: bytes,
        *,
        interval_ns: int,
        start_interval_ns: int,
        start_ends_ns: int,
        timeout_ns: int,
        starting: bool,
        late: str,
    ) -> int: ...
    def unwatch(self, number: int) -> None: ...
    def take(self, number: int) -> list[tuple[int, int, int, str]]: ...
    def news(self) -> list[int]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Probes:
    """The containers that are asked natively, by number; the native side begins with the first."""

    def __init__(self, make: Callable[[], NativeProbes]) -> None:
        self._make = make
        self._native: NativeProbes | None = None
        self._monitors: dict[int, ProbeMonitor] = {}

    def watch(self, monitor: "ProbeMonitor") -> int:
        """Ask from now on. Raises OSError."""
        if self._native is None:
            self._native = self._make()
            asyncio.get_running_loop().add_reader(self._native.fileno(), self._on_news)
        course, target = monitor.course, monitor.target
        times = course.times
        number = self._native.watch(
            course.container.state.pid,
            target.addresses,
            target.request,
            interval_ns=times.interval,
            start_interval_ns=times.start_interval,
            start_ends_ns=times.start_ends,
            timeout_ns=times.timeout,
            starting=course.starting,
            late=times.late,
        )
        self._monitors[number] = monitor
        return number

    def unwatch(self, number: int) -> None:
        """Ask no more."""
        del self._monitors[number]
        assert self._native is not None
        self._native.unwatch(number)

    def take(self, number: int) -> list[tuple[int, int, int, str]]:
        """(start, end, exit code, output) since the last call."""
        assert self._native is not None
        return self._native.take(number)

    def close(self) -> None:
        """End the native side."""
        if self._native is not None:
            asyncio.get_running_loop().remove_reader(self._native.fileno())
            self._native.close()
            self._native = None

    def _on_news(self) -> None:
        assert self._native is not None
        for number in self._native.news():
            monitor = self._monitors.get(number)
            if monitor is not None:
                monitor.catch_up()


class ProbeMonitor:
    """One container that is asked natively."""

    def __init__(self, course: "Course", target: Target, probes: Probes) -> None:
        self.course = course
        self.target = target
        self._probes = probes
        self._number = 0

    def resume(self) -> None:
        """The first probe comes an interval from now."""
        try:
            self._number = self._probes.watch(self)
        except (OSError, ValueError) as exc:
            log.error("the health of %s is not probed: %s", self.course.container.id[:12], exc)

    def stop(self) -> None:
        """No further probe; of one under way nothing is told."""
        if self._number:
            self.catch_up()
            self._probes.unwatch(self._number)
            self._number = 0
            self.course.end()

    def catch_up(self) -> None:
        """Count what was found since the last time."""
        if self._number:
            for start_ns, end_ns, code, output in self._probes.take(self._number):
                self.course.add(start_ns, end_ns, code, output)

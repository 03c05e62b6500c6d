"""A container in memory: its immutable record and state, who waits for it, and its one lock.

Reads take `record` and `state` as they are and never wait. A verb of several steps holds `exclusive()`;
a change of state is one assignment through the Registry, without the lock, since the loop is the only
thread. The lock is held nowhere but here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from proa.engine.record import Record
from proa.engine.state import State
from proa.engine.wait import Waiters
from proa.errors import NotFound
from proa.schema.container_state import Health


class Monitor(Protocol):
    """What runs beside a container while its process lives."""

    def resume(self) -> None:
        """Begin, or begin again."""
        ...

    def stop(self) -> None:
        """Until it is resumed."""
        ...

    def catch_up(self) -> None:
        """Count what was found and not told."""
        ...


class Container:
    """One container; owned by the Registry."""

    __slots__ = (
        "_lock",
        "aftermath",
        "awaited",
        "exec_ids",
        "gone",
        "health",
        "hold",
        "monitor",
        "record",
        "restart_delay",
        "restart_timer",
        "state",
        "waiters",
    )

    def __init__(self, record: Record, state: State) -> None:
        self.record = record
        self.state = state
        self.waiters = Waiters()
        self.gone = False
        """Removed: whoever waited for the lock finds nothing."""
        self.hold = False
        """A restart or removal by hand is under way: neither the policy nor --rm acts on the end between."""
        self.aftermath: asyncio.Task[None] | None = None
        """Gives back what the last run had; `settled` waits for it."""
        self.awaited = False
        """Clients wait in the keeper for its next start."""
        self.exec_ids: set[str] = set()
        self.health: Health | None = None
        """What its healthcheck found, as far as that is known here (`current_health`); None without one."""
        self.monitor: Monitor | None = None
        self.restart_delay = 0.0
        """Seconds the policy waited before the last restart; 0 before the first."""
        self.restart_timer: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def auto_remove(self) -> bool:
        return self.record.resolved.host_config.auto_remove

    @property
    def busy(self) -> bool:
        """A verb of several steps is under way."""
        return self._lock.locked()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """No other verb acts on it meanwhile. Raises NotFound where it was removed while we waited."""
        async with self._lock:
            if self.gone:
                raise NotFound(f"No such container: {self.id}")
            yield

    async def settled(self) -> None:
        """Wait until what the last run had is given back."""
        if self.aftermath is not None:
            await asyncio.wait([self.aftermath])

    def cancel_restart(self) -> None:
        """A restart that waits for its time will not come."""
        if self.restart_timer is not None:
            self.restart_timer.cancel()
            self.restart_timer = None

    def current_health(self) -> Health | None:
        """With the last results that changed nothing; its status is that of `health` in any case."""
        if self.monitor is not None:
            self.monitor.catch_up()
        return self.health

    def stop_monitor(self) -> None:
        """End the healthcheck, if there is one."""
        if self.monitor is not None:
            self.monitor.stop()
            self.monitor = None

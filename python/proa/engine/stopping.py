"""Stop, kill, restart, pause: signals to a container's init, and the wait for its end.

Source: moby daemon/stop.go, kill.go, pause.go for order, events and texts.
"""

import asyncio
from signal import SIGKILL, SIGTERM

from proa.engine import state as states
from proa.engine.cgroups import Cgroups
from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.ports import KeeperClient
from proa.engine.registry import Registry
from proa.engine.resolve import signal_number
from proa.engine.signals import is_noticed
from proa.engine.state import Status
from proa.engine.wait import Waiter
from proa.errors import Conflict, NotFound, NotModified, System
from proa.schema.plan import NewNamespace

DEFAULT_GRACE = 10
"""Seconds between the stop signal and SIGKILL."""
KILL_TIMEOUT = 30.0
"""Seconds after SIGKILL until a process that does not end is reported."""


class Stopping:
    """Ends and freezes containers."""

    def __init__(
        self, *, registry: Registry, keeper: KeeperClient, cgroups: Cgroups, notices: Notices
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._cgroups = cgroups
        self._notices = notices

    async def stop(self, container: Container, signal: int | None, grace: int | None) -> None:
        """Stop it, gently first; the caller holds its lock. Raises NotModified where it does not run.

        `grace` in seconds, -1 for ever; None takes the container's own.
        """
        if not container.state.running:
            raise NotModified("Container already stopped")
        self._registry.set_state(container, states.stopped_by_hand(container.state))
        container.cancel_restart()
        if container.state.status is Status.RESTARTING:
            self._registry.set_state(container, states.given_up(container.state))
            container.waiters.exited(container.state)
        else:
            await self._end(container, signal, grace)
        self._notices.tell(container, "stop")

    async def kill(self, container: Container, signal: int) -> None:
        """Send a signal; with SIGKILL wait for the end. Needs no lock: a stop may be under way.

        Raises Conflict where it does not run.
        """
        state = container.state
        if not state.running:
            raise Conflict(f"container {container.id} is not running")
        if signal == SIGKILL or _is_stop_signal(container, signal):
            self._registry.set_state(container, states.stopped_by_hand(state))
            container.cancel_restart()
            if state.status is Status.RESTARTING:
                self._registry.set_state(container, states.given_up(container.state))
                container.waiters.exited(container.state)
                return
        ended = container.waiters.register("next-exit", container.state)
        if await self._signal(container, signal) and signal != SIGKILL:
            ended.cancel()
            return
        await self._wait_killed(container, ended)

    async def pause(self, container: Container) -> None:
        """Freeze it; the caller holds its lock."""
        states.paused(container.id, container.state)
        await self._cgroups.freeze(container.record.resolved.plan.cgroup.path, True)
        if not container.state.alive:
            raise Conflict(f"container {container.id} is not running")
        self._registry.set_state(container, states.paused(container.id, container.state))
        if container.monitor is not None:
            container.monitor.stop()
        self._notices.tell(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Thaw it; the caller holds its lock."""
        states.unpaused(container.id, container.state)
        await self._thaw(container)
        self._notices.tell(container, "unpause")

    async def _end(self, container: Container, signal: int | None, grace: int | None) -> None:
        config = container.record.resolved.config
        number = signal or (signal_number(config.stop_signal) if config.stop_signal else int(SIGTERM))
        if grace is None:
            grace = DEFAULT_GRACE if config.stop_timeout is None else config.stop_timeout
        noticed = self._is_noticed(container, number)
        ended = container.waiters.register("next-exit", container.state)
        if await self._signal(container, number) and noticed:
            await asyncio.wait([ended], timeout=None if grace < 0 else grace)
        if not ended.done() and container.state.alive:
            await self._signal(container, SIGKILL)
        await self._wait_killed(container, ended)

    def _is_noticed(self, container: Container, number: int) -> bool:
        """Only the init of a pid namespace is deaf to signals that it does not handle."""
        own_pids = isinstance(container.record.resolved.plan.namespaces.pid, NewNamespace)
        return not own_pids or is_noticed(container.state.pid, number)

    async def _signal(self, container: Container, number: int) -> bool:
        """Signal the init, thawing it so that it takes the signal; False where it was gone already.

        Told before it is done: the answer and the end that follows may come in one turn of the loop.
        """
        self._notices.tell(container, "kill", signal=str(int(number)))
        try:
            await self._keeper.signal(container.id, int(number))
        except NotFound:
            return False
        if container.state.status is Status.PAUSED and _ends(container, number):
            await self._thaw(container)
        return True

    async def _thaw(self, container: Container) -> None:
        await self._cgroups.freeze(container.record.resolved.plan.cgroup.path, False)
        if container.state.status is Status.PAUSED:
            self._registry.set_state(container, states.unpaused(container.id, container.state))
            if container.monitor is not None:
                container.monitor.resume()

    async def _wait_killed(self, container: Container, ended: Waiter) -> None:
        done, _ = await asyncio.wait([ended], timeout=KILL_TIMEOUT)
        if not done:
            ended.cancel()
            raise System(
                f"cannot kill container: {container.id}: tried to kill container, "
                "but did not receive an exit event"
            )


def _is_stop_signal(container: Container, number: int) -> bool:
    """Docker counts a signal as the end by hand unless a stop signal is configured and it is another."""
    configured = container.record.resolved.config.stop_signal
    return not configured or signal_number(configured) == number


def _ends(container: Container, number: int) -> bool:
    return number == SIGKILL or _is_stop_signal(container, number)

"""What follows from a container's end: the exit stored, told and acknowledged, then restart or removal.

Called in the order of the keeper's packets and synchronous up to the waits being settled, so that no
verb sees a container that is half ended.
"""

import asyncio
from collections.abc import Awaitable, Callable

from proa.engine import restart_policy
from proa.engine import state as states
from proa.engine.background import Background
from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.ports import ContainerNetworks, ContainerVolumes, KeeperClient
from proa.engine.registry import Registry
from proa.engine.state import State, Status
from proa.errors import NotFound, ProaError
from proa.network import Sandbox
from proa.schema.keeper import Exit, Exited

Verb = Callable[[Container], Awaitable[None]]


class Exits:
    """Handles the ends of containers."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        volumes: ContainerVolumes,
        notices: Notices,
        background: Background,
        start: Verb,
        remove: Verb,
        ended: Callable[[Container], None],
    ) -> None:
        """`start` and `remove` are called with the container's lock held, `ended` right after the exit."""
        self._registry = registry
        self._keeper = keeper
        self._networks = networks
        self._volumes = volumes
        self._notices = notices
        self._background = background
        self._start = start
        self._remove = remove
        self._ended = ended

    def exited(self, exited: Exited | Exit) -> None:
        """The container's process has ended and its output is in the log. Told twice, done once."""
        container = self._registry.get(exited.id)
        if container is None or not container.state.alive:
            self._keeper.acknowledge(exited.id)
            return
        before = container.state
        policy = container.record.resolved.host_config.restart_policy
        restart = not container.hold and restart_policy.wanted(policy, before, exited.code)
        after = states.exited(
            before,
            code=exited.code,
            reason=exited.reason,
            oom=exited.oom,
            at_ns=exited.finished_at_ns,
            restart=restart,
        )
        self._registry.set_state(container, after)
        self._keeper.acknowledge(exited.id)
        container.stop_monitor()
        self._ended(container)
        self._tell(container, before, after)
        container.waiters.exited(after)
        container.aftermath = self._background.spawn(
            self._aftermath(container, before.sandbox), f"end of {container.id[:12]}"
        )
        if restart:
            self._schedule(container, after.finished_ns - after.started_ns)

    def oom(self, container_id: str) -> None:
        """The kernel killed one of its processes for want of memory."""
        container = self._registry.get(container_id)
        if container is not None and container.state.alive:
            self._registry.set_state(container, states.oom_killed(container.state))
            self._notices.tell(container, "oom")

    def _tell(self, container: Container, before: State, after: State) -> None:
        if after.oom_killed and not before.oom_killed:
            self._notices.tell(container, "oom")
        seconds = max(0, after.finished_ns - after.started_ns) // 1_000_000_000
        attributes = {"execDuration": str(seconds), "exitCode": str(after.exit_code)}
        if after.reason not in (None, "exit", "signal"):
            attributes["reason"] = str(after.reason)
        self._notices.tell(container, "die", **attributes)

    async def _aftermath(self, container: Container, sandbox: Sandbox | None) -> None:
        """Off the wire: give back network and volumes. The next start and the removal wait for this."""
        try:
            await self._networks.disconnect(container.id)
            if container.record.resolved.volumes:
                await self._volumes.unmount(container.id)
        finally:
            container.aftermath = None
        if sandbox is not None:
            self._notices.disconnected(container, sandbox)
        self._notices.mounted(container, "unmount")
        if container.auto_remove and container.state.status is Status.EXITED and not container.hold:
            self._background.spawn(self.auto_remove(container), f"removal of {container.id[:12]}")

    async def auto_remove(self, container: Container) -> None:
        """Remove a container that asked for it at create, unless somebody was faster."""
        try:
            async with container.exclusive():
                if not container.state.running and not container.hold:
                    await self._remove(container)
        except NotFound:
            return

    def _schedule(self, container: Container, ran_ns: int) -> None:
        delay = container.restart_delay = restart_policy.next_delay(container.restart_delay, ran_ns)
        container.restart_timer = asyncio.get_running_loop().call_later(delay, self._restart_due, container)

    def restart_now(self, container: Container) -> None:
        """Start one whose state is restarting, without a delay: the daemon boots."""
        self._restart_due(container)

    def _restart_due(self, container: Container) -> None:
        container.restart_timer = None
        self._background.spawn(self._restart(container), f"restart of {container.id[:12]}")

    async def _restart(self, container: Container) -> None:
        try:
            async with container.exclusive():
                if container.state.status is Status.RESTARTING:
                    await self._start_again(container)
        except NotFound:
            return
        if container.auto_remove and container.state.status is Status.EXITED:
            await self.auto_remove(container)

    async def _start_again(self, container: Container) -> None:
        try:
            await self._start(container)
        except ProaError:
            # The state holds the error; as in Docker a restart that cannot be started is not repeated.
            if container.state.status is Status.RESTARTING:
                self._registry.set_state(container, states.given_up(container.state))

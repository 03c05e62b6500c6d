"""After every welcome of a keeper: what the database believes is made true again.

A container that runs is adopted, one that ended meanwhile is told so from the ledger, one that nobody
knows of any more has ended with its keeper (137, engine_error). Then what nothing owns is swept away:
processes, control groups, directories, half-made and half-removed containers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from proa.engine import restart_policy
from proa.engine import state as states
from proa.engine.background import Background
from proa.engine.cgroups import Cgroups
from proa.engine.container import Container, Monitor
from proa.engine.execs import Execs
from proa.engine.exits import Exits
from proa.engine.notices import Notices
from proa.engine.ports import ContainerNetworks, KeeperClient, Snapshots
from proa.engine.registry import Registry
from proa.engine.removal import Removal
from proa.engine.state import Status
from proa.errors import NotFound, ProaError
from proa.schema.keeper import Exit, ProcessState, Welcome

log = logging.getLogger(__name__)

KILLED = 128 + SIGKILL


class Reconcile:
    """Puts the engine's belief and the host in accord."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        snapshots: Snapshots,
        cgroups: Cgroups,
        exits: Exits,
        execs: Execs,
        removal: Removal,
        notices: Notices,
        background: Background,
        monitor: Callable[[Container], Monitor | None],
        directory: Path,
        cgroup_root: str,
        remove_tree: Callable[[str], None],
        executor: Executor | None = None,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._networks = networks
        self._snapshots = snapshots
        self._cgroups = cgroups
        self._exits = exits
        self._execs = execs
        self._removal = removal
        self._notices = notices
        self._background = background
        self._monitor = monitor
        self._directory = directory
        self._cgroup_root = cgroup_root
        self._remove_tree = remove_tree
        self._executor = executor

    async def welcomed(self, welcome: Welcome, *, boot: bool) -> None:
        """Adopt, end and restart containers; the sweep goes on in the background.

        `boot`: the daemon has just started, so restart policies look at all that does not run.
        """
        inits = {process.id: process for process in welcome.processes if process.exec_id is None}
        for container in self._registry:
            self._settle(container, inits.get(container.id))
        for process in welcome.processes:
            self._settle_other(process)
        self._execs.settle(frozenset(process.exec_id for process in welcome.processes if process.exec_id))
        await self._networks.keeper_changed(welcome.prepared)
        if boot:
            self._boot()
        running = {process.id for process in inits.values() if process.exit is None}
        groups = await self._cgroups.names(self._cgroup_root)
        self._background.spawn(self._sweep_groups([n for n in groups if n not in running]), "sweep of groups")

    def sweep_at_boot(self) -> None:
        """Directories that no row knows are garbage; call before the first create."""
        known = {container.id for container in self._registry}
        garbage = [str(path) for path in _entries(self._directory) if path.name not in known]
        loop = asyncio.get_running_loop()
        for path in garbage:
            loop.run_in_executor(self._executor, self._remove_tree, path)
        self._background.spawn(self._snapshots.sweep(tuple(known)), "sweep of snapshots")

    def _settle(self, container: Container, process: ProcessState | None) -> None:
        state = container.state
        if process is None:
            if state.alive:
                self._lost(container)
            elif state.sandbox is not None:
                self._registry.set_state(container, states.not_started(state))
            return
        started_unseen = process.started_at_ns > state.started_ns and not state.alive
        if started_unseen and state.status not in (Status.REMOVING, Status.DEAD):
            self._registry.set_state(
                container, states.started(state, pid=process.pid, at_ns=process.started_at_ns)
            )
            self._notices.tell(container, "start")
        if container.state.alive and container.state.sandbox is not None:
            self._networks.adopt(container.id, container.state.sandbox)
        if process.exit is not None:
            self._exits.exited(process.exit)
        elif container.state.alive and container.monitor is None:
            container.monitor = self._monitor(container)

    def _lost(self, container: Container) -> None:
        """Its keeper died and left no word: the kernel has killed its init with it."""
        if container.state.sandbox is not None:
            self._networks.adopt(container.id, container.state.sandbox)
        exit_ = Exit(
            id=container.id,
            code=KILLED,
            reason="engine_error",
            oom=container.state.oom_killed,
            finished_at_ns=time.time_ns(),
        )
        path = container.record.resolved.plan.cgroup.path
        self._background.spawn(self._end_group(path), f"end of the processes of {container.id[:12]}")
        self._exits.exited(exit_)

    def _settle_other(self, process: ProcessState) -> None:
        if process.exec_id is not None:
            self._execs.adopt(process)
            if process.exit is not None:
                self._execs.exited(process.exit)
            return
        container = self._registry.get(process.id)
        if container is not None and (container.state.alive or process.exit is not None):
            return
        if process.exit is not None:
            self._keeper.acknowledge(process.id)
        else:
            self._background.spawn(self._end_orphan(process.id), f"end of the orphan {process.id[:12]}")

    def _boot(self) -> None:
        """What the policies and --rm want of containers that do not run."""
        for container in self._registry:
            state = container.state
            policy = container.record.resolved.host_config.restart_policy
            if state.status in (Status.REMOVING, Status.DEAD):
                self._background.spawn(self._remove(container), f"removal of {container.id[:12]}")
            elif state.status is Status.RESTARTING and container.restart_timer is None:
                self._exits.restart_now(container)
            elif state.status is Status.EXITED and container.auto_remove:
                self._background.spawn(self._exits.auto_remove(container), f"removal of {container.id[:12]}")
            elif state.status is Status.EXITED and restart_policy.wanted_at_boot(policy, state):
                self._registry.set_state(container, states.to_restart(state))
                self._exits.restart_now(container)

    async def _remove(self, container: Container) -> None:
        with suppress(NotFound):
            async with container.exclusive():
                await self._removal.resume(container)

    async def _end_orphan(self, id_: str) -> None:
        with suppress(NotFound):
            await self._keeper.signal(id_, SIGKILL)

    async def _end_group(self, path: str) -> None:
        await self._cgroups.kill(path)
        await self._cgroups.remove(path)

    async def _sweep_groups(self, names: Sequence[str]) -> None:
        """Take away control groups that no container has, or one that does not run."""
        for name in names:
            container = self._registry.get(name)
            if container is not None and (container.state.alive or container.busy):
                continue
            try:
                await self._end_group(f"{self._cgroup_root}/{name}")
            except ProaError as exc:
                log.warning("sweep: %s", exc)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []

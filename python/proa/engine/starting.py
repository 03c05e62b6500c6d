"""Start: the last touches to the plan, one message to the keeper, and what follows from its answer.

The hot path: a few direct system calls, one row written before and one after, no thread, no timer.
Whoever calls holds the container's lock.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, closing
from pathlib import Path

from msgspec.structs import replace

from proa.engine import log_connection
from proa.engine import state as states
from proa.engine.container import Container, Monitor
from proa.engine.links import NOTHING, linked
from proa.engine.notices import Notices
from proa.engine.ports import ContainerNetworks, ContainerVolumes, KeeperClient, Snapshots
from proa.engine.registry import Registry
from proa.engine.resolve import Storage, check_sources, located, ready
from proa.engine.state import Status
from proa.errors import Conflict, InvalidParameter, ProaError, StartFailed
from proa.network import Sandbox
from proa.schema.keeper import Started
from proa.schema.plan import ContainerNamespace, Plan

StartMonitor = Callable[[Container], Monitor | None]
"""Starts the container's healthcheck, if it has one."""
NOT_STARTED = 128


class Starting:
    """Starts containers."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        snapshots: Snapshots,
        volumes: ContainerVolumes,
        notices: Notices,
        directory: Path,
        monitor: StartMonitor,
    ) -> None:
        """`directory` holds every container's own directory, by id."""
        self._registry = registry
        self._keeper = keeper
        self._networks = networks
        self._snapshots = snapshots
        self._volumes = volumes
        self._notices = notices
        self._directory = str(directory)
        self._monitor = monitor

    async def start(self, container: Container) -> None:
        """Start it. Raises what the keeper tells; then it is as it was, with the error in its state."""
        states.check_can_start(container.state)
        try:
            await self._start(container)
        except ProaError as exc:
            code = exc.code if isinstance(exc, StartFailed) else NOT_STARTED
            if container.awaited:
                container.awaited = False
                self._keeper.forget(container.id)
            if not container.state.alive:
                failed = states.start_failed(container.state, code=code, error=str(exc))
                self._registry.set_state(container, failed)
            raise

    async def _start(self, container: Container) -> None:
        await container.settled()
        shipped = log_connection.is_shipped(container.record)
        log = await log_connection.connect(container.record) if shipped else log_connection.FILE
        with closing(log):
            await self._start_with(container, log)

    async def _start_with(self, container: Container, log: log_connection.LogConnection) -> None:
        resolved = container.record.resolved
        async with AsyncExitStack() as undo:
            self._make_bind_directories(resolved.bind_directories)
            check_sources(resolved.plan.mounts)
            self._check_peers(container)
            links = linked(container, self._registry)
            places: Mapping[str, str] = {}
            if resolved.volumes:
                undo.push_async_callback(self._volumes.unmount, container.id)
                places = await self._volumes.mount(container.id, resolved.volumes)
            sandbox = await self._connect(container)
            undo.push_async_callback(self._networks.disconnect, container.id)
            self._registry.set_state(container, states.starting(container.state, sandbox))
            wish = resolved.network
            if links is not NOTHING:
                wish = replace(wish, extra_hosts=(*wish.extra_hosts, *links.hosts))
            self._networks.write_files(f"{self._directory}/{container.id}", wish, sandbox)
            plan = located(self._plan(container, sandbox), resolved.volumes, places)
            if links.env:
                env = (*links.env, *plan.process.env)
                plan = replace(plan, process=replace(plan.process, env=env))
            await self._keeper.start(
                plan, lambda started: self._started(container, started), log.shipping, log.fds
            )
            undo.pop_all()

    async def _connect(self, container: Container) -> Sandbox:
        record = container.record
        try:
            return await self._networks.connect(container.id, record.resolved.network, record.name)
        except ProaError as exc:
            raise type(exc)(f"failed to set up container networking: {exc}") from exc

    def _plan(self, container: Container, sandbox: Sandbox) -> Plan:
        record = container.record
        storage = record.resolved.storage or Storage()
        rootfs = self._snapshots.prepare(
            record.id,
            record.image_layers,
            volatile=container.auto_remove,
            size=storage.size,
            tmpfs=storage.tmpfs,
        )
        plan = record.resolved.plan
        return ready(plan, rootfs=rootfs, net=sandbox.plan_network)

    def _started(self, container: Container, started: Started) -> None:
        """Called in the order of the keeper's packets: before the exit that may be the next one."""
        now = states.started(container.state, pid=started.pid, at_ns=started.started_at_ns)
        self._registry.set_state(container, now)
        if now.sandbox is not None:
            self._notices.connected(container, now.sandbox)
        self._notices.mounted(container, "mount")
        self._notices.tell(container, "start")
        container.awaited = False
        container.stop_monitor()
        container.monitor = self._monitor(container)

    def _check_peers(self, container: Container) -> None:
        host_config = container.record.resolved.host_config
        for peer_id in container.record.resolved.peers:
            peer = self._registry.get(peer_id)
            if peer is not None and peer.state.status is Status.RESTARTING:
                raise Conflict(f"Container {peer_id} is restarting, wait until the container is running")
            if peer is None or not peer.state.alive:
                what = _shared_namespace(container, peer_id)
                raise Conflict(f"cannot join {what} of a non running container: {peer_id}")
        if host_config.network_mode.startswith("container:") and not container.record.resolved.peers:
            raise Conflict(f"No such container: {host_config.network_mode.removeprefix('container:')}")

    def _make_bind_directories(self, directories: tuple[str, ...]) -> None:
        for directory in directories:
            try:
                os.makedirs(directory, 0o755, exist_ok=True)
            except FileExistsError:
                continue  # a file is there: it is bound as one
            except OSError as exc:
                text = f"error while creating mount source path '{directory}': mkdir {exc.filename}: "
                raise InvalidParameter(text + (exc.strerror or "").lower()) from exc


def _shared_namespace(container: Container, peer_id: str) -> str:
    spaces = container.record.resolved.plan.namespaces
    for name, space in (("network namespace", spaces.net), ("IPC", spaces.ipc), ("PID", spaces.pid)):
        if isinstance(space, ContainerNamespace) and space.id == peer_id:
            return name
    return "namespace"

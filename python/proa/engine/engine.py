"""The engine, put together: its parts, who knows whom, and the keeper's events on their way to them.

Implements proa.api.ports.Engine and the keeper's Listener.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from proa.buildkit.door import Door
from proa.engine import ports
from proa.engine.background import Background
from proa.engine.builds.room import BuildRoom
from proa.engine.cgroups import Cgroups
from proa.engine.commits import Commits
from proa.engine.container import Container
from proa.engine.containers import Containers
from proa.engine.creation import Creation
from proa.engine.deletions import Deletions
from proa.engine.events import Events
from proa.engine.execs import Execs
from proa.engine.exits import Exits
from proa.engine.files import Files, NativeFiles
from proa.engine.health import Healthchecks
from proa.engine.notices import Notices
from proa.engine.reconcile import Reconcile
from proa.engine.registries import Registries
from proa.engine.registry import Registry
from proa.engine.removal import Removal
from proa.engine.resolve import Host
from proa.engine.starting import Starting
from proa.engine.stats import Stats
from proa.engine.stopping import Stopping
from proa.engine.system import System
from proa.engine.transfer import Transfers
from proa.engine.usage import DiskUsage
from proa.errors import NotFound, ProaError
from proa.schema.config import DaemonConfig
from proa.schema.keeper import Exited, Welcome

if TYPE_CHECKING:
    from proa.buildkit.arrivals import Arrivals
    from proa.buildkit.control import Control
    from proa.buildkit.sessions import Session
    from proa.engine.builds.verbs import Builds

log = logging.getLogger(__name__)

RECONNECT_PAUSES = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Seconds before each attempt to get a keeper again; the last one repeats."""


class KeeperListener(Protocol):
    """Who the keeper's client tells of events."""

    def exited(self, exited: Exited) -> None: ...
    def oom(self, container_id: str) -> None: ...
    def lost(self) -> None: ...


class Keeper(ports.KeeperClient, Protocol):
    """The keeper's client, with its connection."""

    @property
    def connected(self) -> bool: ...
    @property
    def outdated(self) -> bool: ...
    async def connect(self, listener: KeeperListener) -> Welcome: ...
    async def hand_over(self, listener: KeeperListener) -> Welcome: ...
    def close(self) -> None: ...


class Native(ports.NativeCgroups, NativeFiles, Protocol):
    """What the engine calls of proa_native."""

    @property
    def LogReader(self) -> Any: ...
    @property
    def Probes(self) -> Any: ...
    def read_in_layers(self, layers: Sequence[str], paths: Sequence[str]) -> list[bytes | None]: ...
    def read_in_process_root(self, pid: int, paths: Sequence[str]) -> list[bytes | None]: ...
    def remove_tree(self, directory: str) -> None: ...
    def disk_usage(self, directory: str) -> tuple[int, int]: ...


ImagesT = TypeVar("ImagesT")
NetworksT = TypeVar("NetworksT")
VolumesT = TypeVar("VolumesT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms(Generic[ImagesT, NetworksT, VolumesT]):
    """What the engine is built over: the rooms below it, and this host."""

    config: DaemonConfig
    host: Host
    version: str
    native: Native
    keeper: Keeper
    database: ports.Database
    registry: Registry
    events: Events
    networking: ports.ContainerNetworks
    snapshots: ports.Snapshots
    image_source: ports.ImageSource
    container_volumes: ports.ContainerVolumes
    count_images: Callable[[], int]
    images: ImagesT
    networks: NetworksT
    volumes: VolumesT
    registries: Registries
    seccomp: Callable[[bytes | None, int], bytes]
    executor: Executor | None = None

    @property
    def directory(self) -> Path:
        """Where each container has a directory of its own."""
        return Path(self.config.data_root) / "containers"


class Engine(Generic[ImagesT, NetworksT, VolumesT]):
    """Docker's verbs over the rooms below."""

    def __init__(self, rooms: Rooms[ImagesT, NetworksT, VolumesT]) -> None:
        self.images, self.networks, self.volumes = rooms.images, rooms.networks, rooms.volumes
        self.registries = rooms.registries
        self._registry = rooms.registry
        self._events = rooms.events
        self._keeper = rooms.keeper
        self._container_volumes = rooms.container_volumes
        self._recovery: asyncio.Task[None] | None = None
        self._background = Background()
        self._notices = Notices(rooms.events)
        self._cgroups = Cgroups(rooms.native, rooms.executor)
        self._stats = Stats(rooms.native, rooms.executor)
        self.execs = self._build_execs(rooms)
        self._health = self._build_health(rooms)
        self._starting = self._build_starting(rooms)
        self._stopping = Stopping(
            registry=rooms.registry, keeper=rooms.keeper, cgroups=self._cgroups, notices=self._notices
        )
        self._deletions = self._build_deletions(rooms)
        self._removal = self._build_removal(rooms)
        self._exits = self._build_exits(rooms)
        self._creation = self._build_creation(rooms)
        self.containers = self._build_containers(rooms)
        self._transfers = Transfers()
        self.files = self._build_files(rooms)
        self.commits = self._build_commits(rooms)
        self.system = self._build_system(rooms)
        self._reconcile = self._build_reconcile(rooms)
        self._build_room = self._build_builds(rooms)
        self.buildkit = self._build_buildkit(rooms)

    # ---- each part, from the rooms and the parts before it ------------------------------------------

    def _build_execs(self, rooms: Rooms[Any, Any, Any]) -> Execs:
        return Execs(
            registry=rooms.registry,
            keeper=rooms.keeper,
            notices=self._notices,
            host=rooms.host,
            read_in_root=rooms.native.read_in_process_root,
        )

    def _build_health(self, rooms: Rooms[Any, Any, Any]) -> Healthchecks:
        return Healthchecks(self.execs, lambda: rooms.native.Probes(), self._notices, self._background)

    def _build_starting(self, rooms: Rooms[Any, Any, Any]) -> Starting:
        return Starting(
            registry=rooms.registry,
            keeper=rooms.keeper,
            networks=rooms.networking,
            snapshots=rooms.snapshots,
            volumes=rooms.container_volumes,
            notices=self._notices,
            directory=rooms.directory,
            monitor=self._health.monitor,
        )

    def _build_deletions(self, rooms: Rooms[Any, Any, Any]) -> Deletions:
        def delete(container_id: str) -> None:
            rooms.snapshots.remove_now(container_id)
            rooms.native.remove_tree(f"{rooms.directory}/{container_id}")

        return Deletions(delete, rooms.executor)

    def _build_removal(self, rooms: Rooms[Any, Any, Any]) -> Removal:
        return Removal(
            database=rooms.database,
            registry=rooms.registry,
            images=rooms.image_source,
            keeper=rooms.keeper,
            networks=rooms.networking,
            volumes=rooms.container_volumes,
            stopping=self._stopping,
            notices=self._notices,
            deletions=self._deletions,
        )

    def _build_exits(self, rooms: Rooms[Any, Any, Any]) -> Exits:
        return Exits(
            registry=rooms.registry,
            keeper=rooms.keeper,
            networks=rooms.networking,
            volumes=rooms.container_volumes,
            notices=self._notices,
            background=self._background,
            start=self._starting.start,
            remove=self._removal.remove_with_volumes,
            ended=self._ended,
        )

    def _build_creation(self, rooms: Rooms[Any, Any, Any]) -> Creation:
        return Creation(
            config=rooms.config,
            host=rooms.host,
            database=rooms.database,
            registry=rooms.registry,
            images=rooms.image_source,
            snapshots=rooms.snapshots,
            networks=rooms.networking,
            volumes=rooms.container_volumes,
            notices=self._notices,
            directory=rooms.directory,
            read_in_layers=rooms.native.read_in_layers,
            seccomp=rooms.seccomp,
        )

    def _build_containers(self, rooms: Rooms[Any, Any, Any]) -> Containers:
        return Containers(
            registry=rooms.registry,
            keeper=rooms.keeper,
            images=rooms.image_source,
            snapshots=rooms.snapshots,
            networks=rooms.networking,
            cgroups=self._cgroups,
            creation=self._creation,
            starting=self._starting,
            stopping=self._stopping,
            removal=self._removal,
            stats=self._stats,
            notices=self._notices,
            host=rooms.host,
            directory=rooms.directory,
            open_log=rooms.native.LogReader,
            executor=rooms.executor,
        )

    def _build_files(self, rooms: Rooms[Any, Any, Any]) -> Files:
        return Files(
            registry=rooms.registry,
            keeper=rooms.keeper,
            snapshots=rooms.snapshots,
            volumes=rooms.container_volumes,
            notices=self._notices,
            native=rooms.native,
            transfers=self._transfers,
            executor=rooms.executor,
        )

    def _build_commits(self, rooms: Rooms[Any, Any, Any]) -> Commits:
        return Commits(
            registry=rooms.registry,
            snapshots=rooms.snapshots,
            stopping=self._stopping,
            notices=self._notices,
            packing=rooms.images.packing,
            version=rooms.version,
        )

    def _build_usage(self, rooms: Rooms[Any, Any, Any]) -> DiskUsage:
        return DiskUsage(
            images=rooms.images,
            containers=self.containers,
            volumes=rooms.volumes,
            build_cache=lambda: self.builds.usage(),
            directory=rooms.directory,
            disk_usage=rooms.native.disk_usage,
            executor=rooms.executor,
        )

    def _build_system(self, rooms: Rooms[Any, Any, Any]) -> System:
        return System(
            config=rooms.config,
            host=rooms.host,
            registry=rooms.registry,
            count_images=rooms.count_images,
            events=rooms.events,
            version=rooms.version,
            usage=self._build_usage(rooms),
        )

    def _build_reconcile(self, rooms: Rooms[Any, Any, Any]) -> Reconcile:
        return Reconcile(
            registry=rooms.registry,
            keeper=rooms.keeper,
            networks=rooms.networking,
            snapshots=rooms.snapshots,
            cgroups=self._cgroups,
            exits=self._exits,
            execs=self.execs,
            removal=self._removal,
            notices=self._notices,
            background=self._background,
            monitor=self._health.monitor,
            directory=rooms.directory,
            cgroup_root=rooms.config.cgroup_root,
            remove_tree=rooms.native.remove_tree,
            executor=rooms.executor,
        )

    def _build_builds(self, rooms: Rooms[Any, Any, Any]) -> BuildRoom:
        return BuildRoom(
            config=rooms.config,
            host=rooms.host,
            images=rooms.images,
            keeper=rooms.keeper,
            networks=rooms.networking,
            events=rooms.events,
            background=self._background,
            native=rooms.native,
            seccomp=rooms.seccomp,
            executor=rooms.executor,
        )

    def _build_buildkit(self, rooms: Rooms[Any, Any, Any]) -> Door:
        async def gateway() -> str:
            try:
                network = await rooms.networks.inspect("bridge")
            except NotFound:
                return ""
            found: str = next((each.gateway for each in network.ipam.config or () if each.gateway), "")
            return found

        def control(sessions: "Arrivals[Session]") -> "Control":
            from proa.buildkit.control import Control
            from proa.buildkit.jobs import Builder
            from proa.buildkit.layouts import Layouts
            from proa.buildkit.outputs import Outputs

            builder = Builder(
                builds=self.builds,
                outputs=Outputs(rooms.images, self.containers, self.files, rooms.executor),
                sessions=sessions,
                places=self._build_room.kept,
                layouts=Layouts(rooms.images),
                scratch=self._build_room.contexts,
                executor=rooms.executor,
            )
            return Control(builder, self.builds, rooms.version, gateway)

        return Door(control)

    @property
    def builds(self) -> "Builds":
        """The verbs of builds, put together on first use."""
        return self._build_room.verbs

    # ---- its life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the keeper and make the database's belief true; then requests may come.

        Raises Unavailable without a keeper.
        """
        self._reconcile.sweep_at_boot()
        self._build_room.sweep()
        welcome = await self._keeper.connect(self)
        if self._keeper.outdated:
            welcome = await self._renew_keeper(welcome)
        await self._reconcile.welcomed(welcome, boot=True)
        self._background.spawn(self._container_volumes.settle(self._alive), "unmounting of volumes")

    def _alive(self, container_id: str) -> bool:
        container = self._registry.get(container_id)
        return container is not None and container.state.alive

    def reload(self, config: DaemonConfig) -> None:
        """Take over a configuration that was read again: for containers created from now on.

        Raises InvalidParameter.
        """
        self.registries.reload(config)
        self._creation.config = config
        self.system.config = config
        self._events.emit("daemon", "reload", "", {"name": config.exec_root})

    async def close(self) -> None:
        """End background work and leave the keeper; containers run on."""
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery
        for container in self._registry:
            container.cancel_restart()
            container.stop_monitor()
        self._health.close()
        await self.buildkit.close()
        await self._background.close()
        await self._deletions.settle()
        self._transfers.close()
        self._keeper.close()
        self._events.close()

    # ---- the keeper's events ---------------------------------------------------------------------

    def exited(self, exited: Exited) -> None:
        """A process has ended."""
        if exited.exec_id is not None:
            self.execs.exited(exited)
        elif not self._build_room.exited(exited):
            self._exits.exited(exited)

    def oom(self, container_id: str) -> None:
        """The kernel killed one of its processes for want of memory."""
        self._exits.oom(container_id)

    def lost(self) -> None:
        """The keeper is gone: get one again, and learn what is left."""
        log.warning("the keeper is gone; its containers have ended")
        self._build_room.lost()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _renew_keeper(self, welcome: Welcome) -> Welcome:
        """proa was upgraded: the keeper executes the new build in its place, containers do not notice."""
        try:
            welcome = await self._keeper.hand_over(self)
            log.info("the keeper is of this proa's build now")
        except ProaError as exc:
            log.warning("the keeper stays of an older build: %s", exc)
            if not self._keeper.connected:
                welcome = await self._keeper.connect(self)
        return welcome

    async def _recover(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(RECONNECT_PAUSES[min(attempt, len(RECONNECT_PAUSES) - 1)])
            attempt += 1
            try:
                welcome = await self._keeper.connect(self)
                await self._reconcile.welcomed(welcome, boot=False)
            except ProaError as exc:
                log.error("no keeper yet: %s", exc)
            else:
                # It may have gone again while its containers were looked at.
                if self._keeper.connected:
                    return

    def _ended(self, container: Container) -> None:
        self.execs.container_ended(container)
        self._stats.forget(container.id)

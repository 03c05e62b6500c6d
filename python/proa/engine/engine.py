"""The engine, put together: its parts, who knows whom, and the keeper's events on their way to them.

Implements proa.api.ports.Engine and the keeper's Listener.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from proa.engine import ports
from proa.engine.background import Background
from proa.engine.cgroups import Cgroups
from proa.engine.container import Container
from proa.engine.containers import Containers
from proa.engine.creation import Creation
from proa.engine.deletions import Deletions
from proa.engine.events import Events
from proa.engine.execs import Execs
from proa.engine.exits import Exits
from proa.engine.health import Healthchecks
from proa.engine.notices import Notices
from proa.engine.reconcile import Reconcile
from proa.engine.registry import Registry
from proa.engine.removal import Removal
from proa.engine.resolve import Host
from proa.engine.starting import Starting
from proa.engine.stats import Stats
from proa.engine.stopping import Stopping
from proa.engine.system import System
from proa.errors import ProaError
from proa.schema.config import DaemonConfig
from proa.schema.keeper import Exited, Welcome

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


class Native(ports.NativeCgroups, Protocol):
    """What the engine calls of proa_native."""

    @property
    def LogReader(self) -> Any: ...
    def read_in_layers(self, layers: Sequence[str], paths: Sequence[str]) -> list[bytes | None]: ...
    def read_in_process_root(self, pid: int, paths: Sequence[str]) -> list[bytes | None]: ...
    def remove_tree(self, directory: str) -> None: ...


ImagesT = TypeVar("ImagesT")
NetworksT = TypeVar("NetworksT")
VolumesT = TypeVar("VolumesT")


class Engine(Generic[ImagesT, NetworksT, VolumesT]):
    """Docker's verbs over the rooms below."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        host: Host,
        version: str,
        native: Native,
        keeper: Keeper,
        database: ports.Database,
        registry: Registry,
        events: Events,
        networking: ports.ContainerNetworks,
        snapshots: ports.Snapshots,
        image_source: ports.ImageSource,
        container_volumes: ports.ContainerVolumes,
        count_images: Callable[[], int],
        images: ImagesT,
        networks: NetworksT,
        volumes: VolumesT,
        seccomp: Callable[[bytes | None, int], bytes],
        executor: Executor | None = None,
    ) -> None:
        self.images, self.networks, self.volumes = images, networks, volumes
        self._registry = registry
        self._events = events
        self._keeper = keeper
        self._recovery: asyncio.Task[None] | None = None
        self._background = background = Background()
        directory = Path(config.data_root) / "containers"
        notices = Notices(events)
        cgroups = Cgroups(native, executor)
        self._stats = Stats(native, executor)
        self.execs = Execs(
            registry=registry,
            keeper=self._keeper,
            notices=notices,
            host=host,
            read_in_root=native.read_in_process_root,
        )
        health = Healthchecks(self.execs, notices, background)
        starting = Starting(
            registry=registry,
            keeper=self._keeper,
            networks=networking,
            snapshots=snapshots,
            notices=notices,
            directory=directory,
            monitor=health.monitor,
        )
        stopping = Stopping(registry=registry, keeper=self._keeper, cgroups=cgroups, notices=notices)

        def delete(container_id: str) -> None:
            snapshots.remove_now(container_id)
            native.remove_tree(f"{directory}/{container_id}")

        self._deletions = Deletions(delete, executor)
        removal = Removal(
            database=database,
            registry=registry,
            images=image_source,
            keeper=self._keeper,
            networks=networking,
            volumes=container_volumes,
            stopping=stopping,
            notices=notices,
            deletions=self._deletions,
        )
        self._exits = Exits(
            registry=registry,
            keeper=self._keeper,
            networks=networking,
            notices=notices,
            background=background,
            start=starting.start,
            remove=removal.remove_with_volumes,
            ended=self._ended,
        )
        self._creation = Creation(
            config=config,
            host=host,
            database=database,
            registry=registry,
            images=image_source,
            snapshots=snapshots,
            volumes=container_volumes,
            notices=notices,
            directory=directory,
            read_in_layers=native.read_in_layers,
            seccomp=seccomp,
        )
        self.containers = Containers(
            registry=registry,
            keeper=self._keeper,
            images=image_source,
            snapshots=snapshots,
            networks=networking,
            cgroups=cgroups,
            creation=self._creation,
            starting=starting,
            stopping=stopping,
            removal=removal,
            stats=self._stats,
            notices=notices,
            host=host,
            directory=directory,
            open_log=native.LogReader,
            executor=executor,
        )
        self.system = System(
            config=config,
            host=host,
            registry=registry,
            count_images=count_images,
            events=events,
            version=version,
        )
        self._reconcile = Reconcile(
            registry=registry,
            keeper=self._keeper,
            networks=networking,
            snapshots=snapshots,
            cgroups=cgroups,
            exits=self._exits,
            execs=self.execs,
            removal=removal,
            notices=notices,
            background=background,
            monitor=health.monitor,
            directory=directory,
            cgroup_root=config.cgroup_root,
            remove_tree=native.remove_tree,
            executor=executor,
        )

    async def start(self) -> None:
        """Connect to the keeper and make the database's belief true; then requests may come.

        Raises Unavailable without a keeper.
        """
        self._reconcile.sweep_at_boot()
        welcome = await self._keeper.connect(self)
        if self._keeper.outdated:
            welcome = await self._renew_keeper(welcome)
        await self._reconcile.welcomed(welcome, boot=True)

    def reload(self, config: DaemonConfig) -> None:
        """Take over a configuration that was read again: for containers created from now on."""
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
        await self._background.close()
        await self._deletions.settle()
        self._keeper.close()
        self._events.close()

    # ---- the keeper's events ---------------------------------------------------------------------

    def exited(self, exited: Exited) -> None:
        """A process has ended."""
        if exited.exec_id is not None:
            self.execs.exited(exited)
        else:
            self._exits.exited(exited)

    def oom(self, container_id: str) -> None:
        """The kernel killed one of its processes for want of memory."""
        self._exits.oom(container_id)

    def lost(self) -> None:
        """The keeper is gone: get one again, and learn what is left."""
        log.warning("the keeper is gone; its containers have ended")
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
                return

    def _ended(self, container: Container) -> None:
        self.execs.container_ended(container)
        self._stats.forget(container.id)

"""Removal: everything a container has on disk and in the database, in an order that a crash can interrupt.

The row goes first: once it is gone, the directories are garbage, deleted in batches or, after a crash,
when the daemon boots. Only where volumes go with it is the state `removing` stored before, so that a
removal that was interrupted is finished at boot.
"""

from signal import SIGKILL

from proa.engine import state as states
from proa.engine.container import Container
from proa.engine.deletions import Deletions
from proa.engine.notices import Notices
from proa.engine.ports import (
    ContainerNetworks,
    ContainerVolumes,
    Database,
    ImageSource,
    KeeperClient,
)
from proa.engine.registry import Registry
from proa.engine.state import Status
from proa.engine.stopping import Stopping
from proa.errors import Conflict, ProaError


class Removal:
    """Removes containers."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        images: ImageSource,
        keeper: KeeperClient,
        networks: ContainerNetworks,
        volumes: ContainerVolumes,
        stopping: Stopping,
        notices: Notices,
        deletions: Deletions,
    ) -> None:
        self._database = database
        self._registry = registry
        self._images = images
        self._keeper = keeper
        self._networks = networks
        self._volumes = volumes
        self._stopping = stopping
        self._notices = notices
        self._deletions = deletions

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Remove it; with `force` also one that runs. `volumes`: its anonymous volumes, too.

        Raises Conflict where it runs, or is being removed already.
        """
        if container.state.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        if not force:
            check_removable(container)
        container.hold = True
        try:
            if force:
                await self._kill(container)
            async with container.exclusive():
                check_removable(container)
                await self.remove_stopped(container, volumes=volumes)
        finally:
            container.hold = False

    async def _kill(self, container: Container) -> None:
        """End it, also where somebody starts it again meanwhile."""
        while container.state.running:
            try:
                await self._stopping.kill(container, SIGKILL)
            except Conflict:
                return  # it has ended by itself

    async def remove_stopped(self, container: Container, *, volumes: bool) -> None:
        """Remove one that does not run; the caller holds its lock."""
        removing = states.removing(container.id, container.state)
        if volumes and any(wish.anonymous for wish in container.record.resolved.volumes):
            self._registry.set_state(container, removing)
        else:
            container.state = removing
        await self._finish(container, volumes=volumes)

    async def remove_with_volumes(self, container: Container) -> None:
        """As --rm wants it; the caller holds its lock."""
        exit_ = container.state
        await self.remove_stopped(container, volumes=True)
        self._registry.departed.add(container.id, container.record.name, exit_)

    async def resume(self, container: Container) -> None:
        """Go on with a removal that a crash or a failure interrupted; the caller holds its lock."""
        await self._finish(container, volumes=container.auto_remove)

    async def _finish(self, container: Container, *, volumes: bool) -> None:
        try:
            await self._take_apart(container, volumes=volumes)
        except ProaError as exc:
            self._registry.set_state(container, states.dead(container.state, str(exc)))
            container.waiters.not_removed(container.state, str(exc))
            raise
        self._notices.tell(container, "destroy")
        container.waiters.removed(container.state)
        self._deletions.add(container.id)
        await self._deletions.room()

    async def _take_apart(self, container: Container, *, volumes: bool) -> None:
        container.cancel_restart()
        container.stop_monitor()
        await container.settled()
        if container.awaited:
            self._keeper.forget(container.id)
        await self._networks.disconnect(container.id)
        self._volumes.release(container.id)
        if volumes:
            await self._remove_anonymous(container)
        with self._database.transaction():
            self._images.release(container.id)
            self._registry.remove(container)

    async def _remove_anonymous(self, container: Container) -> None:
        for wish in container.record.resolved.volumes:
            if wish.anonymous:
                await self._volumes.remove_anonymous(wish.name, container.id)


def check_removable(container: Container) -> None:
    """Raises Conflict in Docker's words where it runs."""
    if not container.state.running:
        return
    advice = "Stop the container before attempting removal or force remove"
    if container.state.status is Status.PAUSED:
        advice = "Unpause and then stop the container before attempting removal or force remove"
    raise Conflict(f"You cannot remove a {container.state.status} container {container.id}. {advice}")

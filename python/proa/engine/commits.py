"""docker commit, the container's half: what its image is to be, and a still container while it is packed.

Implements proa.api.ports.Commits. Source: moby daemon/commit.go, builder/dockerfile/dispatchers.go (changes).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from proa.build.changes import apply_changes
from proa.engine.container import Container
from proa.engine.images.committing import Committed, Packing
from proa.engine.images.importing import target_name
from proa.engine.notices import Notices
from proa.engine.ports import Snapshots
from proa.engine.registry import Registry
from proa.engine.state import Status
from proa.engine.stopping import Stopping
from proa.errors import Conflict
from proa.schema.container import ContainerConfig
from proa.schema.image import ImageConfig
from proa.schema.system import IDResponse


class Commits:
    """Makes images of containers."""

    def __init__(
        self,
        *,
        registry: Registry,
        snapshots: Snapshots,
        stopping: Stopping,
        notices: Notices,
        packing: Packing,
        version: str,
    ) -> None:
        self._registry = registry
        self._snapshots = snapshots
        self._stopping = stopping
        self._notices = notices
        self._packing = packing
        self._version = version

    async def commit(
        self,
        ref: str,
        asked: ContainerConfig | None,
        *,
        repo: str,
        tag: str,
        author: str,
        comment: str,
        changes: Sequence[str],
        pause: bool,
    ) -> IDResponse:
        """A new image of the container's files and of `asked`, or its own configuration, with `changes`.

        Raises NotFound, InvalidParameter, Conflict where it is being removed.
        """
        container = self._registry.lookup(ref)
        if container.state.status in (Status.DEAD, Status.REMOVING):
            what = "Dead" if container.state.status is Status.DEAD else "being removed"
            raise Conflict(f"You cannot commit container {container.id} which is {what}")
        record, own = container.record, container.record.resolved.config
        name = target_name(repo, tag)
        wish = Committed(
            container_id=record.id,
            parent=record.image_id,
            upper=self._snapshots.prepare(record.id, record.image_layers).upper,
            config=merged(apply_changes(image_config(asked or own), changes), image_config(own)),
            command=own.cmd or (),
            author=author,
            comment=comment,
            version=self._version,
        )
        self._packing.check_parent(record.image_id)
        async with self._packing.intake() as intake:
            async with self._still(container, pause=pause):
                packed = await self._packing.pack(intake, wish.upper)
            image_id = await self._packing.image(intake, packed, wish, name)
        told = {"comment": comment, "imageID": image_id, "imageRef": name.canonical if name else ""}
        self._notices.tell(container, "commit", **told)
        return IDResponse(id=image_id)

    @asynccontextmanager
    async def _still(self, container: Container, *, pause: bool) -> AsyncIterator[None]:
        """Nobody starts or stops it, and with `pause` its processes do not go on."""
        async with container.exclusive():
            freeze = pause and container.state.status is Status.RUNNING
            if freeze:
                await self._stopping.pause(container)
            try:
                yield
            finally:
                if freeze and container.state.status is Status.PAUSED:
                    await self._stopping.unpause(container)


def image_config(config: ContainerConfig) -> ImageConfig:
    """What of a container's configuration is an image's, too."""
    return ImageConfig(
        user=config.user,
        exposed_ports=_set(config.exposed_ports),
        env=config.env,
        cmd=config.cmd,
        healthcheck=config.healthcheck,
        args_escaped=config.args_escaped,
        volumes=_set(config.volumes),
        working_dir=config.working_dir,
        entrypoint=config.entrypoint,
        on_build=config.on_build,
        labels=config.labels,
        stop_signal=config.stop_signal,
        shell=config.shell,
    )


def merged(wanted: ImageConfig, own: ImageConfig) -> ImageConfig:
    """What `wanted` leaves open is the container's own, as a container takes it from its image."""
    names = {entry.partition("=")[0] for entry in wanted.env or ()}
    inherited = [entry for entry in own.env or () if entry.partition("=")[0] not in names]
    cmd, entrypoint = wanted.cmd, wanted.entrypoint
    if not entrypoint:
        cmd = cmd or own.cmd
        entrypoint = own.entrypoint if entrypoint is None else entrypoint
    return replace(
        wanted,
        user=wanted.user or own.user,
        exposed_ports={**(own.exposed_ports or {}), **(wanted.exposed_ports or {})} or None,
        env=[*(wanted.env or ()), *inherited] or None,
        cmd=cmd,
        entrypoint=entrypoint,
        healthcheck=wanted.healthcheck or own.healthcheck,
        volumes={**(own.volumes or {}), **(wanted.volumes or {})} or None,
        working_dir=wanted.working_dir or own.working_dir,
        labels={**(own.labels or {}), **(wanted.labels or {})} or None,
        stop_signal=wanted.stop_signal or own.stop_signal,
        shell=wanted.shell or own.shell,
    )


def _set(members: dict[str, dict[str, object] | None] | None) -> dict[str, dict[str, object]] | None:
    return {key: value or {} for key, value in members.items()} if members else None

"""Create: a request becomes a record, its directories and its row, or nothing at all.

The row comes last: directories without one are garbage that the next boot sweeps.
"""

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.platforms import check_platform
from proa.engine.ports import ContainerVolumes, Database, ImageSource, Snapshots
from proa.engine.record import Record
from proa.engine.registry import Registry, checked_name
from proa.engine.resolve import Context, Host, Peer, Resolved, resolve
from proa.engine.state import State
from proa.errors import InvalidParameter, System
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerCreateRequest
from proa.schema.image import ImageConfig

FILES_KEPT = 64
"""Files of images (passwd, group) that are kept: layers never change, so what was read once holds."""

ReadInLayers = Callable[[Sequence[str], Sequence[str]], Sequence[bytes | None]]
"""proa_native.read_in_layers."""
Seccomp = Callable[[bytes | None, int], bytes]


class Creation:
    """Creates containers."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        host: Host,
        database: Database,
        registry: Registry,
        images: ImageSource,
        snapshots: Snapshots,
        volumes: ContainerVolumes,
        notices: Notices,
        directory: Path,
        read_in_layers: ReadInLayers,
        seccomp: Seccomp,
    ) -> None:
        """`directory` holds every container's own directory, by id."""
        self.config = config
        self._host = host
        self._database = database
        self._registry = registry
        self._images = images
        self._snapshots = snapshots
        self._volumes = volumes
        self._notices = notices
        self._directory = str(directory)
        self._read_directory = read_in_layers
        self._read_image = lru_cache(FILES_KEPT)(read_in_layers)
        self._seccomp = seccomp

    async def create(
        self, name: str | None, request: ContainerCreateRequest, platform: str | None
    ) -> Container:
        """A new container.

        Raises InvalidParameter, NotFound (image, peer), Conflict (name); then there is none.
        """
        if name:
            checked_name(name)
        image_id, image_config, layers, image_platform, warnings = self._source(request, platform)
        id_ = secrets.token_hex(32)
        async with AsyncExitStack() as undo:
            taken = self._registry.reserve_name(name, id_)
            undo.callback(self._registry.release_name, taken)
            resolved = resolve(request, self._context(id_, image_config, layers))
            if warnings:
                resolved = replace(resolved, warnings=(*resolved.warnings, *warnings))
            record = Record(
                id=id_,
                name=taken,
                created_ns=time.time_ns(),
                image_id=image_id,
                image_layers=layers,
                platform=image_platform,
                resolved=resolved,
            )
            await self._make(record, undo)
            container = Container(record, State())
            with self._database.transaction():
                if image_id:
                    self._images.hold(image_id, id_)
                self._registry.add(container)
            undo.pop_all()
        self._notices.tell(container, "create")
        return container

    def _source(
        self, request: ContainerCreateRequest, platform: str | None
    ) -> tuple[str, ImageConfig | None, tuple[str, ...], str, tuple[str, ...]]:
        """(image id, its configuration, its layers, platform, warnings) of an image or a plain directory."""
        rootfs = request.host_config.proa_rootfs if request.host_config else ""
        if rootfs:
            if not os.path.isdir(rootfs):
                raise InvalidParameter(f"rootfs {rootfs}: no such directory")
            return "", None, (os.path.realpath(rootfs),), "linux", ()
        image = self._images.resolve(request.image)
        foreign = check_platform(image, request.image, platform)
        return image.id, image.config, image.layers, image.os, (foreign,) if foreign else ()

    async def _make(self, record: Record, undo: AsyncExitStack) -> None:
        own = f"{self._directory}/{record.id}"
        try:
            os.mkdir(own, 0o700)
            undo.callback(os.rmdir, own)
            undo.push_async_callback(self._snapshots.remove, record.id)
            self._snapshots.prepare(
                record.id, record.image_layers, volatile=record.resolved.host_config.auto_remove
            )
        except OSError as exc:
            raise System(f"mkdir {exc.filename}: {(exc.strerror or '').lower()}") from exc
        if record.resolved.volumes:
            undo.callback(self._volumes.release, record.id)
            await self._volumes.provide(record.id, record.resolved.volumes, record.image_layers)

    def _context(self, id_: str, image: ImageConfig | None, layers: tuple[str, ...]) -> Context:
        # A directory of the host (ProaRootfs) may change; layers do not.
        read = self._read_directory if image is None else self._read_image
        return Context(
            id=id_,
            directory=f"{self._directory}/{id_}",
            config=self.config,
            host=self._host,
            image=image,
            read=lambda paths: read(layers, tuple(paths)),
            peer=self._peer,
            volume_path=self._volumes.path,
            seccomp=self._seccomp,
        )

    def _peer(self, ref: str) -> Peer:
        container = self._registry.lookup(ref)
        resolved: Resolved = container.record.resolved
        return Peer(
            id=container.id,
            name=container.record.name,
            running=container.state.running,
            host_config=resolved.host_config,
            plan=resolved.plan,
            mount_points=resolved.mount_points,
        )

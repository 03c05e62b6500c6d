"""Create: a request becomes a record, its directories and its row, or nothing at all.

The row comes last: directories without one are garbage that the next boot sweeps.
"""

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.platforms import check_platform
from proa.engine.ports import ContainerNetworks, ContainerVolumes, Database, ImageSource, Snapshots
from proa.engine.record import Record
from proa.engine.registry import Registry, checked_name
from proa.engine.resolve import Context, Host, Peer, Resolved, Storage, resolve
from proa.engine.state import State
from proa.errors import InvalidParameter, NotFound, System
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerCreateRequest
from proa.schema.image import ImageConfig
from proa.schema.plan import Layers

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
        networks: ContainerNetworks,
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
        self._networks = networks
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
            with self._images.lent({image_id, *(mount.id for mount in resolved.images)}):
                await self._make(record, undo)
            container = Container(record, State())
            with self._database.transaction():
                if image_id:
                    self._images.hold(image_id, id_)
                for mounted in {mount.id for mount in resolved.images}:
                    self._images.hold(mounted, f"{id_}/{mounted}")
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
            real, own = os.path.realpath(rootfs), os.path.realpath(self.config.data_root)
            if os.path.commonpath((real, own)) == real:
                # The kernel's own word for it is ELOOP.
                raise InvalidParameter(
                    f"rootfs {rootfs}: it holds the daemon's data root {own}, where its overlay would lie"
                )
            return "", None, (real,), "linux", ()
        image = self._images.resolve(request.image)
        foreign = check_platform(image, request.image, platform)
        return image.id, image.config, image.layers, image.os, (foreign,) if foreign else ()

    async def _make(self, record: Record, undo: AsyncExitStack) -> None:
        own = f"{self._directory}/{record.id}"
        storage = record.resolved.storage or Storage()
        try:
            os.mkdir(own, 0o700)
            undo.callback(shutil.rmtree, own, ignore_errors=True)
            self._networks.make_files(own, record.resolved.network)
            _make_image_directories(record.resolved)
            undo.push_async_callback(self._snapshots.remove, record.id)
            self._snapshots.prepare(
                record.id,
                record.image_layers,
                volatile=record.resolved.host_config.auto_remove,
                size=storage.size,
                tmpfs=storage.tmpfs,
            )
        except OSError as exc:
            raise System(f"mkdir {exc.filename}: {(exc.strerror or '').lower()}") from exc
        if record.resolved.volumes:
            undo.callback(self._volumes.release, record.id)
            try:
                await self._volumes.provide(record.id, record.resolved.volumes, record.image_layers)
            except NotFound as exc:  # of a create that means the image, and clients pull it then
                raise InvalidParameter(str(exc)) from exc

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
            endpoint_faults=self._networks.faults,
            find_image=self._images.resolve,
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


def _make_image_directories(resolved: Resolved) -> None:
    """Where writes to mounted images go; the root of what is seen has the upper one's mode."""
    layers = {mount.upper: mount.lower[0] for mount in resolved.plan.mounts if isinstance(mount, Layers)}
    for image in resolved.images:
        if not image.directory:
            continue
        upper = f"{image.directory}/fs"
        os.makedirs(f"{image.directory}/work", 0o700)
        os.mkdir(upper)
        below = os.stat(layers[upper])
        os.chown(upper, below.st_uid, below.st_gid)
        os.chmod(upper, stat.S_IMODE(below.st_mode))

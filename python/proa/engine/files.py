"""The verbs on a container's files: diff, export, and both ways of cp. Implements proa.api.ports.Files.

Owns who may touch which files when: a running container is seen through its mount namespace, one that does
not run is put together from its layers, and then nobody may start it before that is done, nor while it is
written.

Source: moby daemon/archive_unix.go, changes.go, export.go for order, events and texts.
"""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.durations import rfc3339
from proa.engine.notices import Notices
from proa.engine.ports import ContainerVolumes, KeeperClient, Snapshots
from proa.engine.registry import Registry
from proa.engine.resolve import located
from proa.engine.state import Status
from proa.engine.transfer import Outgoing, Transfers
from proa.errors import Conflict, Forbidden, InvalidParameter, NotFound, System
from proa.schema.archive import PathStat
from proa.schema.container_state import FilesystemChange

_GO_MODES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class View(Protocol):
    """proa_native.ContainerFiles; its calls block."""

    def stat(self, path: str) -> tuple[int, int, int, str]: ...
    def place(self, path: str) -> tuple[bool, bool]: ...
    def send(self, path: str, target_fd: int) -> None: ...
    def export(self, target_fd: int) -> None: ...
    def receive(
        self, path: str, source_fd: int, *, keep_kinds: bool = False, owner: tuple[int, int] | None = None
    ) -> None: ...


class NativeFiles(Protocol):
    """What this room calls of proa_native."""

    @property
    def ContainerFiles(self) -> Any: ...
    @property
    def changes(self) -> Callable[[str, tuple[str, ...]], list[tuple[int, bytes]]]: ...


class Files:
    """A container's files, to look at and to copy."""

    def __init__(
        self,
        *,
        registry: Registry,
        keeper: KeeperClient,
        snapshots: Snapshots,
        volumes: ContainerVolumes,
        notices: Notices,
        native: NativeFiles,
        transfers: Transfers,
        executor: Executor | None = None,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._snapshots = snapshots
        self._volumes = volumes
        self._notices = notices
        self._native = native
        self._transfers = transfers
        self._executor = executor

    async def changes(self, ref: str) -> list[FilesystemChange]:
        """What it has changed of its image, sorted by path."""
        container = self._registry.lookup(ref)
        rootfs = self._snapshots.prepare(container.id, container.record.image_layers)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._executor, self._native.changes, rootfs.upper, rootfs.lower
            )
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc
        return [FilesystemChange(path=path.decode(errors="replace"), kind=kind) for kind, path in found]

    async def export(self, ref: str, *, image: bool = False) -> AsyncIterator[bytes]:
        """A tar of its root file system, without what is mounted there; with `image`, of its image's files.

        Raises NotFound, Conflict, System.
        """
        container = self._registry.lookup(ref)
        if container.state.status in (Status.DEAD, Status.REMOVING):
            what = "Dead" if container.state.status is Status.DEAD else "being removed"
            raise Conflict(f"You cannot export container {container.id} which is {what}")
        holder = [await (self._of_image(container) if image else self._open(container))]
        self._notices.tell(container, "export")
        return self._sending(holder, lambda view, fd: view.export(fd))

    async def stat(self, ref: str, path: str) -> PathStat:
        """What is at a path; a symbolic link at its end is not followed. Raises NotFound."""
        container = self._registry.lookup(ref)
        view = await self._open(container)
        return await self._stat(view, ref, absolute(path))

    async def archive(self, ref: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """A tar of what is at a path, under its last name. Raises NotFound before the first byte."""
        container = self._registry.lookup(ref)
        whole = absolute(path)
        holder = [await self._open(container)]
        found = await self._stat(holder[0], ref, whole)
        self._notices.tell(container, "archive-path")
        return found, self._sending(holder, lambda view, fd: view.send(whole, fd))

    async def extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keep_kinds: bool, copy_owner: bool
    ) -> None:
        """Unpack an archive into the directory at a path.

        `keep_kinds`: no directory gives way to something else, nor the reverse. `copy_owner`: what comes
        belongs to the container's user. Raises NotFound, InvalidParameter, Forbidden where the place takes no
        writes.
        """
        container = self._registry.lookup(ref)
        whole = absolute(path)
        process = container.record.resolved.plan.process
        user = container.record.resolved.config.user
        owner = (process.uid, process.gid) if copy_owner and user else None

        async def receive(view: View) -> None:
            await self._check_place(view, ref, whole)

            def read(fd: int) -> None:
                view.receive(whole, fd, keep_kinds=keep_kinds, owner=owner)

            try:
                await self._transfers.receive(body, read)
            except ValueError as exc:
                raise InvalidParameter(str(exc)) from exc
            except OSError as exc:
                raise System(exc.strerror or str(exc)) from exc

        if container.state.alive:
            await receive(await self._open(container))
        else:
            async with container.exclusive():
                await receive(await self._view(container))
        self._notices.tell(container, "extract-to-dir")

    # ---- inside ----------------------------------------------------------------------------------

    async def _open(self, container: Container) -> View:
        """A view of it; one that does not run is not started meanwhile."""
        if container.state.alive:
            view = await self._running(container)
            if view is not None:
                return view
        async with container.exclusive():
            return await self._view(container)

    async def _of_image(self, container: Container) -> View:
        """Its image's files, without what an engine puts into containers."""
        layers = container.record.image_layers
        rootfs = self._snapshots.prepare(container.id, layers, volatile=container.auto_remove)
        plan = replace(
            container.record.resolved.plan, rootfs=replace(rootfs, lower=layers or rootfs.lower), mounts=()
        )
        packed = msgspec.msgpack.encode(plan)
        try:
            view: View = await self._transfers.run(lambda: self._native.ContainerFiles.stopped(packed))
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc
        return view

    async def _view(self, container: Container) -> View:
        """The same for who holds its lock."""
        view = await self._running(container) if container.state.alive else None
        if view is not None:
            return view
        await container.settled()
        resolved = container.record.resolved
        rootfs = self._snapshots.prepare(
            container.id, container.record.image_layers, volatile=container.auto_remove
        )
        try:
            places = await self._volumes.mount(container.id, resolved.volumes)
            plan = located(replace(resolved.plan, rootfs=rootfs), resolved.volumes, places)
            packed = msgspec.msgpack.encode(plan)
            found: View = await self._transfers.run(lambda: self._native.ContainerFiles.stopped(packed))
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc
        finally:
            await self._volumes.unmount(container.id)  # the view has copies
        return found

    async def _running(self, container: Container) -> View | None:
        """None where its process has ended: the number may have been another's by then."""
        pid = container.state.pid
        packed = msgspec.msgpack.encode(container.record.resolved.plan)
        try:
            view: View = await self._transfers.run(lambda: self._native.ContainerFiles.running(pid, packed))
        except ProcessLookupError:
            return None
        except OSError as exc:
            raise System(exc.strerror or str(exc)) from exc
        await self._keeper.catch_up()
        return view if container.state.alive and container.state.pid == pid else None

    async def _stat(self, view: View, ref: str, path: str) -> PathStat:
        try:
            size, mode, mtime, target = await self._transfers.run(lambda: view.stat(path))
        except FileNotFoundError:
            raise _not_found(ref, path) from None
        except OSError as exc:
            raise System(_told("lstat", path, exc)) from exc
        return PathStat(
            name=path.rstrip("/").rpartition("/")[2] or "/",
            size=size,
            mode=go_mode(mode),
            mtime=rfc3339(mtime),
            link_target=target,
        )

    async def _check_place(self, view: View, ref: str, path: str) -> None:
        try:
            read_only, in_rootfs = await self._transfers.run(lambda: view.place(path))
        except FileNotFoundError:
            raise _not_found(ref, path) from None
        except NotADirectoryError:
            raise InvalidParameter("extraction point is not a directory") from None
        except PermissionError:
            raise Forbidden(f"{path} is one of the kernel's file systems: nothing is copied there") from None
        except OSError as exc:
            raise System(_told("open", path, exc)) from exc
        if read_only:
            raise Forbidden(
                "container rootfs is marked read-only" if in_rootfs else "mounted volume is marked read-only"
            )

    def _sending(self, holder: list[View], write: Callable[[View, int], None]) -> Outgoing:
        """The view goes to the thread that writes, which lets go of it: that may unmount it."""

        def run(fd: int) -> None:
            try:
                write(holder.pop(), fd)
            except BrokenPipeError:
                return  # nobody reads any more
            except OSError as exc:
                if exc.errno != errno.EPIPE:
                    raise System(exc.strerror or str(exc)) from exc

        return self._transfers.send(run)


def absolute(path: str) -> str:
    """A path from the container's root, cleaned by its text; a `/` or `/.` at its end means something."""
    clean = os.path.normpath(f"/{path}").replace("//", "/")
    last = path.rpartition("/")[2]
    if last == ".":
        return f"{clean.rstrip('/')}/."
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def go_mode(mode: int) -> int:
    """An st_mode as Go numbers it (io/fs.FileMode)."""
    found = stat.S_IMODE(mode) & 0o777 | _GO_MODES.get(stat.S_IFMT(mode), 0)
    for bit, number in _GO_BITS.items():
        if mode & bit:
            found |= number
    return found


def _not_found(ref: str, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {ref}")


def _told(operation: str, path: str, exc: OSError) -> str:
    return f"{operation} {path}: {os.strerror(exc.errno or 0).lower()}"

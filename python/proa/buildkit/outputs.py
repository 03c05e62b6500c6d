"""What becomes of a built image: pushes, and what the client takes as an archive or as files.

    image, moby     in the store, and pushed where asked for
    docker, oci     an archive, in pieces                     FileSend.DiffCopy, a stream of bytes
    tar             its files                                 the same
    local           those files one by one                    FileSend.DiffCopy, as fsutil's sender

Source: moby/buildkit exporter/*, session/filesync; tonistiigi/fsutil send.go.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import proa_native

from proa.buildkit import messages
from proa.buildkit.filesync import DATA, FIN, REQ, STAT, go_mode
from proa.buildkit.grpc import UNKNOWN, CallFailed, Calling
from proa.buildkit.sessions import Session
from proa.buildkit.wishes import Export
from proa.errors import NotImplemented_, ProaError, System
from proa.feeding import feed
from proa.schema.container import ContainerCreateRequest
from proa.schema.container_state import ContainerCreateResponse
from proa.schema.registry import Credentials

_FILE_SEND: Final = "/moby.filesync.v1.FileSend/DiffCopy"
_EXPORTER: Final = "buildkit-attachable-exporter-id"
_PIECE: Final = 1 << 20
_FILE_PIECE: Final = 32 << 10


class Images(Protocol):
    """The images' verbs that outputs need."""

    async def push(
        self, name: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]: ...

    async def save(self, refs: list[str]) -> AsyncIterator[bytes]: ...


class Containers(Protocol):
    """A container of the image, for its files."""

    async def create(
        self, name: str | None, body: ContainerCreateRequest, platform: str | None
    ) -> ContainerCreateResponse: ...

    async def remove(self, ref: str, *, volumes: bool, force: bool, link: bool) -> None: ...


class Files(Protocol):
    """The files of a container, or of its image."""

    async def export(self, ref: str, *, image: bool = False) -> AsyncIterator[bytes]: ...


class Outputs:
    """The exporters."""

    def __init__(
        self, images: Images, containers: Containers, files: Files, executor: Executor | None
    ) -> None:
        self._images = images
        self._containers = containers
        self._files = files
        self._executor = executor

    async def deliver(
        self,
        exports: Sequence[Export],
        images: Mapping[str, str],
        session: Session,
        logins: Mapping[str, Credentials],
        scratch: Path,
    ) -> None:
        """Everything that was asked for, one after the other. Raises classes of proa.errors.

        `images` are the platforms' by their names, the main one first.
        """
        image = next(iter(images.values()))
        for number, export in enumerate(exports):
            if export.push:
                for name in export.names:
                    await self._push(name, logins)
            sending = Calling(session.connection, _FILE_SEND, [(_EXPORTER, str(number))])
            if export.kind in ("docker", "oci"):
                await _send(sending, await self._images.save(list(export.names) or [image]))
            elif export.kind == "tar":
                if len(images) > 1:
                    raise NotImplemented_("a tar of the files of several platforms is not supported")
                async with self._root(image) as files:
                    await _send(sending, files)
            elif export.kind == "local":
                target = scratch / f"files-{number}"
                for platform, each in images.items():
                    place = target / platform.replace("/", "_") if len(images) > 1 else target
                    os.makedirs(place, 0o755)
                    async with self._root(each) as files:
                        await feed(files, self._executor, partial(_unpack, target=str(place)))
                await _send_directory(sending, str(target), self._executor)

    async def _push(self, name: str, logins: Mapping[str, Credentials]) -> None:
        host = next((host for host in logins if name.startswith(f"{host}/")), "docker.io")
        try:
            async for line in await self._images.push(name, "", "", logins.get(host)):
                for event in line.splitlines():
                    if event and (error := msgspec.json.decode(event).get("error")):
                        raise System(error)
        except ProaError as exc:
            raise CallFailed(UNKNOWN, f"failed to push {name}: {exc}") from exc

    @asynccontextmanager
    async def _root(self, image: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """A tar of the image's files; the container that has them never runs."""
        made = await self._containers.create(None, ContainerCreateRequest(image=image, cmd=["/"]), None)
        try:
            async with aclosing(await self._files.export(made.id, image=True)) as files:  # type: ignore[type-var]
                yield files
        finally:
            removal = self._containers.remove(made.id, volumes=True, force=True, link=False)
            await asyncio.shield(asyncio.ensure_future(removal))


def _unpack(fd: int, target: str) -> None:
    try:
        proa_native.unpack_layer(fd, target, overlay=False)
    except (OSError, ValueError) as exc:
        raise System(f"failed to export files: {exc}") from exc


async def _send(sending: Calling, archive: AsyncIterator[bytes]) -> None:
    """A stream of bytes, to where the client wants it."""
    async with sending as calling:
        async for chunk in archive:
            for start in range(0, len(chunk), _PIECE):
                part = messages.BytesMessage(data=chunk[start : start + _PIECE])
                await calling.send(part.SerializeToString())
        calling.end()
        async for _ in calling.messages():
            pass


async def _send_directory(sending: Calling, root: str, executor: Executor | None) -> None:
    """A tree: what there is, then what the client asks for of it."""
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(executor, walk, root)
    async with sending as calling:
        for _, told in found:
            await calling.send(messages.Packet(type=STAT, stat=told).SerializeToString())
        await calling.send(messages.Packet(type=STAT).SerializeToString())
        async for message in calling.messages():
            packet = messages.parsed(messages.Packet, message)
            if packet.type == REQ and len(found) > packet.ID:
                await _send_file(calling, packet.ID, found[packet.ID][0], loop, executor)
            elif packet.type == FIN:
                await calling.send(messages.Packet(type=FIN).SerializeToString())
                calling.end()


async def _send_file(
    calling: Calling, number: int, path: str, loop: asyncio.AbstractEventLoop, executor: Executor | None
) -> None:
    file = await loop.run_in_executor(executor, _open_regular, path)
    try:
        while data := await loop.run_in_executor(executor, file.read, _FILE_PIECE):
            await calling.send(messages.Packet(type=DATA, ID=number, data=data).SerializeToString())
    finally:
        file.close()
    await calling.send(messages.Packet(type=DATA, ID=number).SerializeToString())


def _open_regular(path: str) -> FileIO:
    """A regular file, and nothing else that an image may have there. Raises CallFailed.

    A link leads anywhere on this host, a fifo waits, and a device is the host's.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = FileIO(path, opener=lambda name, mode: os.open(name, mode | flags))
    except OSError as exc:
        raise CallFailed(UNKNOWN, f"not a regular file: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CallFailed(UNKNOWN, "not a regular file")
    return file


def walk(root: str) -> list[tuple[str, Any]]:
    """(path on this host, Stat) of everything, as fsutil wants it: a directory, then what is in it."""
    found: list[tuple[str, Any]] = []
    links: dict[tuple[int, int], str] = {}

    def look(directory: str, prefix: str) -> None:
        for entry in sorted(os.scandir(directory), key=lambda entry: os.fsencode(entry.name)):
            path = prefix + entry.name
            stated = entry.stat(follow_symlinks=False)
            told = messages.Stat(
                path=path,
                mode=go_mode(stated.st_mode),
                uid=stated.st_uid,
                gid=stated.st_gid,
                size=stated.st_size if stat.S_ISREG(stated.st_mode) else 0,
                modTime=stated.st_mtime_ns,
            )
            if stat.S_ISLNK(stated.st_mode):
                told.linkname = os.readlink(entry.path)
            elif stat.S_ISREG(stated.st_mode) and stated.st_nlink > 1:
                first = links.setdefault((stated.st_dev, stated.st_ino), path)
                told.linkname = first if first != path else ""
            elif stat.S_ISCHR(stated.st_mode) or stat.S_ISBLK(stated.st_mode):
                told.devmajor, told.devminor = os.major(stated.st_rdev), os.minor(stated.st_rdev)
            found.append((entry.path, told))
            if entry.is_dir(follow_symlinks=False):
                look(entry.path, f"{path}/")

    look(root, "")
    return found

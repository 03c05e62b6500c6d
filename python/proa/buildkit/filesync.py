"""A directory of the client's, received: what it has and what is wanted of it, and files as they come.

    client  STAT  STAT  STAT ...  STAT (empty: that was all)      in the order of a walk, numbered from 0
    here           REQ 1    REQ 2 ...                             of regular files that are to be sent
    client               DATA 1  DATA 1 (empty: its end)  DATA 2 ...
    here    FIN     client  FIN

A name is only ever made in a directory that was made here before, and nothing is followed: a client that
sends a symlink and then something below it is refused.

Source: tonistiigi/fsutil send.go, receive.go, types/wire.proto; moby/buildkit session/filesync.
"""

import asyncio
import os
import stat
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from proa.buildkit import messages
from proa.buildkit.grpc import CallFailed, Calling
from proa.buildkit.sessions import Session
from proa.buildkit.stream import Headers
from proa.errors import InvalidParameter, System

STAT, REQ, DATA, FIN, ERR = range(5)
_DIFF_COPY: Final = "/moby.filesync.v1.FileSync/DiffCopy"
_KINDS: Final = {
    1 << 31: stat.S_IFDIR,
    1 << 27: stat.S_IFLNK,
    1 << 25: stat.S_IFIFO,
    1 << 24: stat.S_IFSOCK,
}
"""Go's bits of a file's mode."""
_DEVICE, _CHARACTER = 1 << 26, 1 << 21
_BITS: Final = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


async def receive(
    session: Session,
    name: str,
    target: str,
    executor: Executor | None,
    *,
    exclude: Sequence[str] = (),
    follow: Sequence[str] = (),
) -> int:
    """Copy the client's directory `name` into the empty directory `target`: the bytes of its files.

    `exclude` are lines of an ignore file; with `follow` only these paths come, and what they lead to. Raises
    InvalidParameter, System, CallFailed, StreamReset.
    """
    loop = asyncio.get_running_loop()
    tree = Tree(target)
    metadata = [("dir-name", name), *_listed("exclude-patterns", exclude), *_listed("followpaths", follow)]
    try:
        async with Calling(session.connection, _DIFF_COPY, metadata) as calling:
            finished = False
            async for batch in calling.call.batches():
                for wanted in await loop.run_in_executor(executor, tree.take, batch):
                    await calling.send(messages.Packet(type=REQ, ID=wanted).SerializeToString())
                if tree.whole and not finished:
                    finished = True
                    await calling.send(messages.Packet(type=FIN).SerializeToString())
                    calling.end()
            if not finished:
                calling.check()
                raise InvalidParameter(f"the client has not sent all of {name}")
            await loop.run_in_executor(executor, tree.finish)
    finally:
        tree.close()
    return tree.bytes


def _listed(name: str, values: Sequence[str]) -> Headers:
    """A list of texts as metadata has it: escaped, all of them, where one is not plain."""
    if not values:
        return []
    if any("%" in value or not value.isascii() for value in values):
        return [*((name, quote(value, safe="/*!")) for value in values), (f"{name}-encoded", "1")]
    return [(name, value) for value in values]


class Tree:
    """What has come, on disk. Its calls block."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._directories: dict[str, Any] = {"": None}
        self._links: list[tuple[str, str]] = []
        """(path, of what) of hardlinks: what they are of may not have come yet."""
        self._files: dict[int, Any] = {}
        self._open: dict[int, int] = {}
        self._count = 0
        self._walked = False
        self.bytes = 0

    @property
    def whole(self) -> bool:
        """Everything has been told, and every file that was asked for has come."""
        return self._walked and not self._files

    def take(self, batch: Sequence[bytes]) -> list[int]:
        """Some packets: the numbers of files to ask for. Raises InvalidParameter, System."""
        wanted = []
        for data in batch:
            packet = messages.parsed(messages.Packet, data)
            if packet.type == DATA:
                self._data(packet.ID, packet.data)
            elif packet.type == STAT:
                if not packet.HasField("stat"):
                    self._walked = True
                elif self._entry(packet.stat):
                    wanted.append(self._count)
                    self._files[self._count] = packet.stat
                self._count += packet.HasField("stat")
            elif packet.type == ERR:
                raise CallFailed(2, packet.data.decode(errors="replace"))
        return wanted

    def _entry(self, found: Any) -> bool:
        """Make what is not a file's content; whether that is wanted."""
        path = found.path
        parent, _, name = path.rpartition("/")
        known = parent in self._directories and not path.startswith("/")
        if not known or name in ("", ".", "..") or "\0" in path:
            raise InvalidParameter(f"invalid path {path!r} in the build context")
        kind = _kind(found.mode)
        place = f"{self._target}/{path}"
        try:
            if kind == stat.S_IFDIR:
                os.mkdir(place, 0o700)
                self._directories[path] = found
                return False
            if found.linkname and kind == stat.S_IFREG:
                if found.linkname.rpartition("/")[0] not in self._directories or found.linkname[0] == "/":
                    raise InvalidParameter(f"invalid link {found.linkname!r} in the build context")
                self._links.append((path, found.linkname))
                return False
            if kind == stat.S_IFREG:
                if found.size:
                    return True
                self._finish_file(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), found)
            elif kind == stat.S_IFLNK:
                os.symlink(found.linkname, place)
                self._own(place, found)
            elif kind != stat.S_IFSOCK:
                os.mknod(place, kind | 0o600, os.makedev(found.devmajor, found.devminor))
                self._own(place, found)
                os.chmod(place, _permissions(found.mode))
        except (OSError, ValueError, OverflowError) as exc:
            raise _failed(path, exc) from exc
        return False

    def _data(self, number: int, data: bytes) -> None:
        found = self._files.get(number)
        if found is None:
            raise InvalidParameter("the client has sent a file that was not asked for")
        try:
            fd = self._open.get(number)
            if fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = self._open[number] = os.open(f"{self._target}/{found.path}", flags, 0o600)
            if data:
                self.bytes += len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                return
            del self._open[number], self._files[number]
            self._finish_file(fd, found)
        except (OSError, ValueError, OverflowError) as exc:
            raise _failed(found.path, exc) from exc

    def _finish_file(self, fd: int, found: Any) -> None:
        try:
            if found.uid or found.gid:
                os.fchown(fd, found.uid, found.gid)
            os.fchmod(fd, _permissions(found.mode))
            for name, value in found.xattrs.items():
                with suppress(OSError):
                    os.setxattr(fd, name, value)
            os.utime(fd, ns=(found.modTime, found.modTime))
        finally:
            os.close(fd)

    def _own(self, place: str, found: Any) -> None:
        os.chown(place, found.uid, found.gid, follow_symlinks=False)
        os.utime(place, ns=(found.modTime, found.modTime), follow_symlinks=False)

    def finish(self) -> None:
        """Make hardlinks; directories get their modes and times, the deepest first. Raises System."""
        try:
            for path, source in self._links:
                os.link(f"{self._target}/{source}", f"{self._target}/{path}", follow_symlinks=False)
            for path, found in reversed(self._directories.items()):
                if found is not None:
                    self._own(f"{self._target}/{path}", found)
                    os.chmod(f"{self._target}/{path}", _permissions(found.mode))
        except (OSError, ValueError, OverflowError) as exc:
            raise _failed("the build context", exc) from exc

    def close(self) -> None:
        """Let go of files that are not whole."""
        while self._open:
            os.close(self._open.popitem()[1])


def _failed(path: str, cause: Exception) -> System | InvalidParameter:
    """A disk's failure, or something that no file can have."""
    if isinstance(cause, OSError):
        return System(f"failed to receive {path}: {(cause.strerror or '').lower()}")
    return InvalidParameter(f"failed to receive {path}: {cause}")


def _kind(mode: int) -> int:
    """The S_IF of Go's mode."""
    if mode & _DEVICE:
        return stat.S_IFCHR if mode & _CHARACTER else stat.S_IFBLK
    return next((kind for bit, kind in _KINDS.items() if mode & bit), stat.S_IFREG)


def go_mode(mode: int) -> int:
    """A st_mode in Go's bits."""
    bits = mode & 0o777
    bits |= next((go for go, kind in _KINDS.items() if stat.S_IFMT(mode) == kind), 0)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        bits |= _DEVICE | (_CHARACTER if stat.S_ISCHR(mode) else 0)
    return bits | sum(go for go, bit in _BITS.items() if mode & bit)


def _permissions(mode: int) -> int:
    return (mode & 0o777) | sum(bit for go, bit in _BITS.items() if mode & go)

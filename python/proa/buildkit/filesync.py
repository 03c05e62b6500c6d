"""A directory of the client's, received: the call; the tree itself is the native core's.

Source: tonistiigi/fsutil send.go, receive.go, types/wire.proto; moby/buildkit session/filesync.
"""

import asyncio
import stat
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct
from proa_native import ReceivedTree

from proa.build.calls import to_its_end
from proa.buildkit.grpc import UNKNOWN, CallFailed, Calling
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


class Received(Struct, frozen=True):
    """A directory that is here."""

    path: Path
    size: int
    """Of its files, in bytes."""


async def receive(
    session: Session,
    name: str,
    place: Path,
    executor: Executor | None,
    *,
    exclude: Sequence[str] = (),
    follow: Sequence[str] = (),
) -> Received:
    """The client's directory `name`, in the directory `place`: only what differs from what is there comes.

    `exclude` are lines of an ignore file; with `follow` only these paths come, and what they lead to. Raises
    InvalidParameter, System, CallFailed, StreamReset; then what is there is not asked for the next time.
    Cancelled, it ends when no thread writes to `place` any more.
    """
    loop = asyncio.get_running_loop()
    target = place / "tree"
    metadata = [("dir-name", name), *_listed("exclude-patterns", exclude), *_listed("followpaths", follow)]
    try:
        opening = loop.run_in_executor(executor, ReceivedTree, str(target), str(place / "records"))
        tree = await to_its_end(opening)
        async with Calling(session.connection, _DIFF_COPY, metadata) as calling:
            stream = calling.call.stream
            while data := await stream.read():
                answer = await to_its_end(loop.run_in_executor(executor, tree.take, data))
                if tree.failure is not None:
                    raise CallFailed(UNKNOWN, tree.failure)
                if answer:
                    await stream.write(answer)
                if tree.whole and not stream.closed_by_us:
                    calling.end()
            if not tree.whole:
                calling.check()
                raise InvalidParameter(f"the client has not sent all of {name}")
        await to_its_end(loop.run_in_executor(executor, tree.finish))
    except OSError as exc:
        if isinstance(exc, ConnectionError):
            raise
        raise System(f"failed to receive {name}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise InvalidParameter(f"failed to receive {name}: {exc}") from exc
    return Received(target, tree.size)


def _listed(name: str, values: Sequence[str]) -> Headers:
    """A list of texts as metadata has it: escaped, all of them, where one is not plain."""
    if not values:
        return []
    if any("%" in value or not value.isascii() for value in values):
        return [*((name, quote(value, safe="/*!")) for value in values), (f"{name}-encoded", "1")]
    return [(name, value) for value in values]


def go_mode(mode: int) -> int:
    """A st_mode in Go's bits."""
    bits = mode & 0o777
    bits |= next((go for go, kind in _KINDS.items() if stat.S_IFMT(mode) == kind), 0)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        bits |= _DEVICE | (_CHARACTER if stat.S_ISCHR(mode) else 0)
    return bits | sum(go for go, bit in _BITS.items() if mode & bit)

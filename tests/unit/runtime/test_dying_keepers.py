"""How a keeper is found, with one that goes away: the real client, a keeper played by the test."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from proa.errors import Unavailable
from proa.runtime import Keeper
from proa.schema.keeper import VERSION, Exited, Hello, Request, Welcome

_decoder = msgspec.msgpack.Decoder(Request)


class Ear:
    """A listener that counts its losses."""

    losses = 0

    def exited(self, exited: Exited) -> None:
        raise AssertionError("nothing runs")

    def oom(self, container_id: str) -> None:
        raise AssertionError("nothing runs")

    def lost(self) -> None:
        self.losses += 1


class Played(Keeper):
    """A client whose keepers are the test's: each listens at once, and says that it does."""

    def __init__(self, root: Path, *, dying: int = 0) -> None:
        """The first `dying` connections are closed in place of a welcome."""
        super().__init__(root)
        self.started = 0
        self._path = root / "keeper.sock"
        self._dying = dying
        self._serving: asyncio.Task[None] | None = None

    def _start_process(self) -> None:
        self.started += 1
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(str(self._path))
        listener.listen()
        self._serving = asyncio.ensure_future(self._serve(listener))
        self._ready_fd, told = os.pipe()
        os.write(told, b"1")
        os.close(told)

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connections = []
        try:
            while True:
                connection, _ = await loop.sock_accept(listener)
                connections.append(connection)
                hello = _decoder.decode(await loop.sock_recv(connection, 1 << 16) or b"\xc0")
                assert isinstance(hello, Hello)
                if self._dying:
                    self._dying -= 1
                    connection.close()
                    continue
                welcome = Welcome(seq=hello.seq, version=VERSION, pid=7, processes=(), prepared=())
                connection.send(msgspec.msgpack.encode(welcome))
        finally:
            for end in (listener, *connections):
                end.close()
            self._path.unlink()

    async def die(self) -> None:
        """The keeper's end."""
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
            self._serving = None


@contextlib.asynccontextmanager
async def played(root: Path, *, dying: int = 0) -> AsyncIterator[Played]:
    keeper = Played(root, dying=dying)
    try:
        yield keeper
    finally:
        keeper.close()
        await keeper.die()


async def test_a_keeper_that_goes_before_its_welcome_is_no_loss(tmp_path: Path) -> None:
    ear = Ear()
    async with played(tmp_path, dying=1) as keeper:
        assert (await keeper.connect(ear)).pid == 7
        assert ear.losses == 0


async def test_keepers_that_never_welcome_are_given_up(tmp_path: Path) -> None:
    ear = Ear()
    async with played(tmp_path, dying=100) as keeper:
        with pytest.raises(Unavailable, match="goes away as soon as it is there"):
            await keeper.connect(ear)
        assert ear.losses == 0


async def test_a_keeper_started_early_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    ear = Ear()
    async with played(tmp_path) as keeper:
        keeper.start_early()
        await keeper.connect(ear)
        await keeper.die()
        assert (await keeper.connect(ear)).pid == 7
        assert keeper.started == 2

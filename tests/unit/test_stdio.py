"""Logs as streams, and connections on their way to the keeper."""

import asyncio
import os
import socket

import pytest

from proa import stdio
from proa.errors import Conflict, System
from proa.schema.keeper import Attach


class Log:
    """A log that grows when the test says so; the pipe stands for inotify."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.closed = False
        self._read_end, self._write_end = os.pipe()

    def read(self, limit: int = 0) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""

    def grow(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        os.write(self._write_end, b"x")

    def fileno(self) -> int:
        return self._read_end

    def close(self) -> None:
        self.closed = True
        os.close(self._read_end)
        os.close(self._write_end)


async def test_what_is_there_and_no_more() -> None:
    log = Log(b"a", b"b")
    assert [chunk async for chunk in stdio.read_log(lambda: log, None)] == [b"a", b"b"]
    assert log.closed


async def test_following_ends_after_the_last_byte_once_the_container_has_ended() -> None:
    log, ended = Log(b"a"), asyncio.get_running_loop().create_future()
    stream = stdio.read_log(lambda: log, ended)
    assert await anext(stream) == b"a"
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    log.grow(b"b")
    assert await waiting == b"b"
    log.chunks += [b"c", b"d"]
    ended.set_result(None)
    assert [chunk async for chunk in stream] == [b"c", b"d"]
    assert log.closed


async def test_a_follower_that_goes_closes_the_log() -> None:
    log, ended = Log(b"a"), asyncio.get_running_loop().create_future()
    stream = stdio.read_log(lambda: log, ended)
    await anext(stream)
    await stream.aclose()
    assert log.closed


async def test_a_log_that_is_not_there_is_empty_and_one_that_cannot_be_read_is_told() -> None:
    def missing() -> Log:
        raise FileNotFoundError(2, "No such file or directory")

    def broken() -> Log:
        raise OSError(5, "Input/output error")

    assert [chunk async for chunk in stdio.read_log(missing, None)] == []
    with pytest.raises(System, match="reading the log"):
        await anext(stdio.read_log(broken, None))


class Connection:
    """A connection that gives one end of a socket pair."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()

    def raw_stream_head(self, *, multiplexed: bool) -> bytes:
        return b"HEAD"

    def detach(self) -> tuple[int, bytes]:
        return self._theirs.detach(), b"early"


async def test_a_connection_is_handed_over_with_head_and_early_input() -> None:
    connection, taken = Connection(), []

    async def attach(fd: int, wish: Attach) -> None:
        taken.append(wish)
        os.write(fd, wish.preface)

    await stdio.hand_over(connection, attach, Attach(seq=0, id="a", stdin=True))
    assert (taken[0].preface, taken[0].initial_input, taken[0].stdin) == (b"HEAD", b"early", True)
    assert connection.ours.recv(10) == b"HEAD"
    assert connection.ours.recv(10) == b""
    connection.ours.close()


async def test_a_client_that_is_gone() -> None:
    class Gone(Connection):
        def detach(self) -> tuple[int, bytes]:
            raise ConnectionResetError

    connection = Gone()
    with pytest.raises(Conflict, match="the client is gone"):
        await stdio.hand_over(connection, None, Attach(seq=0, id="a"))
    connection.ours.close()
    connection._theirs.close()


async def test_a_replay_is_served_from_here() -> None:
    connection = Connection()
    log = Log(b"a", b"b")
    await stdio.serve(connection, stdio.read_log(lambda: log, None), multiplexed=True)
    assert connection.ours.recv(10) == b"HEADab"
    assert connection.ours.recv(10) == b""
    connection.ours.close()


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-a", b"\x01"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a,ctrl-[", b"a\x1b"),
        ("ctrl-@", b"\0"),
    ],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert stdio.detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-nosuch", "ab", "ctrl-", "a,,b"])
def test_wrong_detach_keys(text: str) -> None:
    with pytest.raises(ValueError, match="Unknown character"):
        stdio.detach_keys(text)


def test_a_frame() -> None:
    assert stdio.frame(2, b"abc") == b"\x02\0\0\0\0\0\0\x03abc"

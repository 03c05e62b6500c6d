"""Standard streams of containers as clients get them: the log as a stream of chunks, and the attach hand-off.

Owns readers and the fds that are handed over; must not know containers' states: that a container has
ended is a future. No byte of a live stream passes through here, the keeper serves it.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Protocol

import msgspec

from proa.errors import Conflict, System
from proa.schema.keeper import Attach


class Reader(Protocol):
    """A log being read (proa_native.LogReader)."""

    def read(self, limit: int = ...) -> bytes: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """A client's connection on its way out of HTTP (proa.api.ports.HijackedConnection)."""

    def raw_stream_head(self, *, multiplexed: bool) -> bytes: ...
    def detach(self) -> tuple[int, bytes]: ...


async def read_log(
    open_reader: Callable[[], Reader],
    ended: "asyncio.Future[Any] | None",
    until_ns: int = 0,
    executor: Executor | None = None,
) -> AsyncIterator[bytes]:
    """Chunks of a log. With `ended`, follow it until that future is done and the last byte is read.

    A log that does not exist has nothing in it.
    """
    loop = asyncio.get_running_loop()
    try:
        reader = await loop.run_in_executor(executor, open_reader)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise System(f"reading the log: {exc}") from exc
    try:
        while True:
            # An exit is told after the last byte is in the log: asked before the read, "ended" is final.
            final = ended is None or ended.done() or _is_past(until_ns)
            chunk = await loop.run_in_executor(executor, reader.read)
            if chunk:
                yield chunk
            elif final or ended is None:
                return
            else:
                await _readable(reader.fileno(), ended, until_ns)
    finally:
        reader.close()


async def hand_over(
    connection: Connection,
    attach: Callable[[int, Attach], Awaitable[None]],
    wish: Attach,
) -> None:
    """Give the client's connection to the keeper, which writes the response head first."""
    head = connection.raw_stream_head(multiplexed=wish.multiplexed)
    fd, read_already = detach(connection)
    try:
        await attach(fd, _with_head(wish, head, read_already))
    finally:
        os.close(fd)


async def serve(connection: Connection, chunks: AsyncIterator[bytes], *, multiplexed: bool) -> None:
    """Write the head and what `chunks` gives to the client, then close: an attach that only replays."""
    head = connection.raw_stream_head(multiplexed=multiplexed)
    fd, _ = detach(connection)
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=fd) as client:
        client.setblocking(False)
        try:
            await loop.sock_sendall(client, head)
            async for chunk in chunks:
                await loop.sock_sendall(client, chunk)
        except ConnectionError:
            return


async def last_words(fd: int, text: bytes, *, multiplexed: bool) -> None:
    """Write a message to a client whose stream will bring nothing else. The fd stays the caller's."""
    with socket.socket(fileno=os.dup(fd)) as client:
        client.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_sendall(client, frame(1, text) if multiplexed else text)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the client is gone


def frame(stream: int, payload: bytes) -> bytes:
    """Docker's multiplexed frame; 1 is stdout, 2 is stderr."""
    return bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


_CTRL = {f"ctrl-{letter}": bytes((code,)) for code, letter in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}
DEFAULT_DETACH_KEYS = b"\x10\x11"
"""ctrl-p, ctrl-q."""


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes; empty is the default. Raises ValueError naming the key."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = b""
    for name in text.split(","):
        if name in _CTRL:
            keys += _CTRL[name]
        elif len(name) == 1 and name.isascii():
            keys += name.encode()
        else:
            raise ValueError(f"Unknown character: '{name}'")
    return keys


def detach(connection: Connection) -> tuple[int, bytes]:
    """(fd, input read already); the fd is the caller's. Raises Conflict where the client is gone."""
    try:
        return connection.detach()
    except ConnectionError as exc:
        raise Conflict("the client is gone") from exc


def _with_head(wish: Attach, head: bytes, read_already: bytes) -> Attach:
    return msgspec.structs.replace(wish, preface=head, initial_input=read_already)


def _is_past(until_ns: int) -> bool:
    return bool(until_ns) and time.time_ns() >= until_ns


async def _readable(fd: int, ended: "asyncio.Future[Any]", until_ns: int) -> None:
    """Wait until the fd is readable, the container has ended, or `until_ns`."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _settle, readable)
    timeout = max(0.0, (until_ns - time.time_ns()) / 1e9) if until_ns else None
    try:
        await asyncio.wait([readable, ended], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(fd)
        readable.cancel()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

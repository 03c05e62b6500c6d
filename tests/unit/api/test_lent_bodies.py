"""Large bodies whose socket is lent to the native core: the same bytes, answers and endings."""

import asyncio
import contextlib
import io
import os
import random
import re
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import proa_native
import pytest
from fake_engine import FakeEngine, FakeImages
from raw_client import RawClient

from proa.api.server import Server
from proa.errors import InvalidParameter
from proa.feeding import Lender, supply

Connect = Callable[[], RawClient]
FIXED, CHUNKED = "Content-Length: %d", "Transfer-Encoding: chunked"


class Unpacking(FakeImages):
    """Loads as the engine does: the body is a layer, which the core unpacks and copies."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.lends = True
        self.lent = 0
        self.ended = threading.Event()

    async def load(self, body: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncIterator[bytes]:
        assert isinstance(body, Lender)
        loop = asyncio.get_running_loop()
        target = self._directory / os.urandom(4).hex()
        target.mkdir()

        def unpack(feed: proa_native.ByteFeed) -> None:
            with (self._directory / "copy").open("wb", buffering=0) as copy:
                try:
                    proa_native.unpack_layer(feed, str(target), copy_fd=copy.fileno())
                except ValueError as exc:
                    raise InvalidParameter(str(exc)) from exc
                finally:
                    self.ended.set()

        def start(call: Callable[..., None], feed: proa_native.ByteFeed) -> "asyncio.Future[None]":
            return loop.run_in_executor(None, call, feed)

        async def run(call: Callable[..., Any], *arguments: Any) -> Any:
            return call(*arguments)

        await supply(Counting(body, self) if self.lends else unlent(body), unpack, start, run)
        yield b'{"stream":"Loaded"}\r\n'

    @property
    def copy(self) -> bytes:
        return (self._directory / "copy").read_bytes()


async def unlent(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body that has nothing to lend."""
    async for chunk in body:
        yield chunk


class Counting(AsyncIterator[bytes]):
    """A body that knows how often its socket was lent."""

    def __init__(self, body: Any, told: Unpacking) -> None:
        self._body = body
        self._told = told

    def __anext__(self) -> Awaitable[bytes]:
        return self._body.__anext__()  # type: ignore[no-any-return]

    def lend(self) -> tuple[int, str, int, bytes] | None:
        lent: tuple[int, str, int, bytes] | None = self._body.lend()
        self._told.lent += lent is not None
        return lent

    def take_back(self, state: tuple[str, int, bytes] | None) -> None:
        self._body.take_back(state)


@pytest.fixture
def images(engine: FakeEngine, tmp_path: Path) -> Unpacking:
    engine.images = Unpacking(tmp_path)
    return engine.images


def archive(size: int) -> bytes:
    """A tar whose content does not repeat."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("data")
        member.size = size
        tar.addfile(member, io.BytesIO(random.Random(size).randbytes(size)))
    return buffer.getvalue()


def chunked(data: bytes, chance: random.Random) -> bytes:
    """The body in chunks of any size, now and then with what few clients send."""
    body = b""
    while data:
        size = chance.choice([1, 10, 4096, 32768, 70_000])
        chunk, data = data[:size], data[size:]
        extension = chance.choice([b""] * 20 + [b";name=value", b" "])
        body += b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk)
    return body + b"0\r\nX-Trailer: 1\r\n\r\n"


async def send_in_pieces(client: RawClient, data: bytes, chance: random.Random) -> None:
    while data:
        size = chance.choice([1, 3, 1000, 40_000, 300_000])
        await client.send(data[:size])
        data = data[size:]
        if chance.random() < 0.1:
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(12))
async def test_every_byte_arrives_and_the_next_request_is_answered(
    connect: Connect, images: Unpacking, seed: int
) -> None:
    chance = random.Random(seed)
    data = archive(chance.randrange(3_000_000))
    client = connect()
    for framing in (FIXED, CHUNKED):
        head = f"POST /images/load HTTP/1.1\r\nHost: p\r\n{framing}\r\n\r\n".replace("%d", str(len(data)))
        body = data if framing == FIXED else chunked(data, chance)
        await send_in_pieces(client, head.encode() + body + b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n", chance)
        assert (await client.answer()).status == 200
        assert (await client.answer()).body == b"OK"
        assert images.copy == data
    assert images.lent or len(data) < 1_000_000


def spoilt(wire: bytes, chance: random.Random) -> bytes:
    """The same with one byte of its framing, or any byte, changed, gone or doubled."""
    places = [at for at, byte in enumerate(wire) if byte in b"\r\n"] or [0]
    at = chance.choice([*places, chance.randrange(len(wire))])
    at = min(max(0, at + chance.randrange(-2, 3)), len(wire) - 1)
    instead = chance.choice([b"", wire[at : at + 1] * 2, b"\n", b"\r", b"0", b";", b"\xff"])
    return wire[:at] + instead + wire[at + 1 :]


async def conversation(client: RawClient, head: bytes, wire: bytes, chance: random.Random) -> list[bytes]:
    """The statuses that a client is answered with that sends so; a `wire` cut short ends by half a close."""

    async def send(rest: bytes) -> None:
        await client.send(head)
        if b"Expect" in head:
            await client.read_until(b"Continue\r\n\r\n")
        while rest:
            size = chance.choice([1, 2, 5, 100, 3000, 20_000]) if len(rest) < 100_000 else 100_000
            await client.send(rest[:size])
            rest = rest[size:]
            await asyncio.sleep(0)
        if not wire.endswith(b"\r\n\r\n"):
            client.half_close()

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await send(wire)
    return re.findall(rb"^HTTP/1.1 (\d+)", await client.read_all(), re.MULTILINE)


@pytest.mark.parametrize("seed", range(30))
async def test_a_body_that_is_lent_is_judged_as_one_that_is_not(
    connect: Connect, images: Unpacking, seed: int
) -> None:
    chance = random.Random(seed)
    data = archive(chance.randrange(40_000))
    heads = {
        "fixed": f"HTTP/1.1\r\nHost: p\r\nContent-Length: {len(data)}",
        "old": f"HTTP/1.0\r\nContent-Length: {len(data)}",
        "chunked": f"HTTP/1.1\r\nHost: p\r\n{CHUNKED}",
        "asked": f"HTTP/1.1\r\nHost: p\r\n{CHUNKED}\r\nExpect: 100-continue",
    }
    kind = chance.choice([*heads, "chunked", "chunked"])
    head = f"POST /images/load {heads[kind]}\r\n\r\n".encode()
    wire = data if kind in ("fixed", "old") else chunked(data, chance)
    match chance.choice(["whole", "spoilt", "spoilt", "cut"]):
        case "whole":
            wire += b"GET /_ping HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n"
        case "spoilt":  # what follows ends any chunk, and is no request
            wire = spoilt(wire, chance) + b"\r\n0\r\n\r\n" * 200_000
        case "cut":
            wire = wire[: chance.randrange(len(wire))].rstrip(b"\r\n")
    found = []
    for images.lends in (True, False):
        statuses = await conversation(connect(), head, wire, random.Random(seed))
        # Of two faults, one in the archive and one in the framing, either may be met first.
        found.append((statuses, images.copy) if statuses[:1] == [b"200"] else statuses[:1])
    assert found[0] == found[1]


async def test_a_client_that_leaves_ends_the_reader(connect: Connect, images: Unpacking) -> None:
    data = archive(2_000_000)
    client = connect()
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(data))
    await client.send(data[:1_500_000])
    client.close()
    await asyncio.to_thread(images.ended.wait)
    assert images.lent
    assert len(images.copy) < len(data)


async def test_a_half_closed_body_is_no_archives_end(connect: Connect, images: Unpacking) -> None:
    data = archive(2_000_000)
    client = connect()
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b"%x\r\n%b\r\n" % (len(data), data))
    client.half_close()
    assert (await client.answer()).status == 400


async def test_a_fault_in_the_framing_is_refused(connect: Connect, images: Unpacking) -> None:
    data = archive(2_000_000)
    client = connect()
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(
        b"%x\r\n%b\r\n" % (len(data), data) + b"nothex\r\nGET /_ping HTTP/1.1\r\nHost: p\r\n\r\n"
    )
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert await client.read_all() == b""


async def test_the_rest_of_a_bad_archive_is_read_and_the_connection_lives(
    connect: Connect, images: Unpacking
) -> None:
    data = archive(1_000_000)
    data = data[: 1_000_000 // 512 * 512 + 1024] + b"x" * 1_000_000
    client = connect()
    head = b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(data)
    sending = asyncio.create_task(client.send(head + data + b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n"))
    assert (await client.answer()).status == 400
    assert (await client.answer()).body == b"OK"
    await sending


async def test_a_server_that_closes_ends_the_reader(
    connect: Connect, images: Unpacking, server: Server
) -> None:
    data = archive(2_000_000)
    client = connect()
    await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(data))
    await client.send(data[:1_500_000])
    await server.close()
    await asyncio.to_thread(images.ended.wait)

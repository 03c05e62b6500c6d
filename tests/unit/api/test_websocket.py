"""Attach over a WebSocket, with aiohttp's client."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fake_containers import frame
from fake_engine import FakeEngine

from proa.api.server import Server
from proa.api.websocket import Unframer

ATTACH = "http://proa/containers/{}/attach/ws?stream=1&stdin=1&stdout=1"


@pytest.fixture
async def http(server: Server, address: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(address))) as session:
        for name, tty in (("one", False), ("tty", True)):
            url = f"http://proa/containers/create?name={name}"
            async with session.post(url, json={"Image": "b", "Tty": tty}) as answer:
                assert answer.status == 201
        yield session


@pytest.mark.parametrize("name", ["one", "tty"])
async def test_messages_are_the_bare_stream(http: aiohttp.ClientSession, name: str) -> None:
    async with http.ws_connect(ATTACH.format(name)) as stream:
        await stream.send_bytes(b"hello")
        assert await stream.receive_bytes() == b"hello"
        await stream.ping(b"x")
        big = bytes(range(256)) * 1000
        await stream.send_bytes(big)
        received = b""
        while len(received) < len(big):
            received += await stream.receive_bytes()
        assert received == big


async def test_a_client_that_breaks_the_protocol_is_cut(http: aiohttp.ClientSession) -> None:
    async with http.ws_connect(ATTACH.format("one")) as stream:
        with contextlib.suppress(ConnectionError):
            await stream.send_bytes(b"x" * (2 << 20))
        assert (await stream.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)


async def test_refusals_are_plain_http(http: aiohttp.ClientSession, engine: FakeEngine) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await http.ws_connect(ATTACH.format("nosuch"))
    assert caught.value.status == 404
    async with http.get(ATTACH.format("one")) as answer:
        assert await answer.json() == {"message": "not a websocket handshake"}


def test_frames_may_be_cut_anywhere() -> None:
    data = frame(1, b"one") + frame(2, b"") + frame(2, b"three" * 9)
    for step in range(1, len(data)):
        unframer = Unframer()
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        assert b"".join(out for piece in pieces for out in unframer.feed(piece)) == b"one" + b"three" * 9

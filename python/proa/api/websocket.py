"""Attach over a WebSocket: the connection's new owner sees the raw stream, the client sees binary messages.

The owner gets one end of a socketpair; a task of this server translates at the other. What the owner frames
for stdout and stderr is unframed again: over a WebSocket Docker sends the bare output.
Source: RFC 6455; moby daemon/server/router/container (wsContainersAttach).
"""

import asyncio
import socket
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1

from proa.api.hijack import Hijack
from proa.errors import InvalidParameter
from proa.http._request import Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
MESSAGE_BYTES = 1024 * 1024
"""The longest frame taken of a client."""

_pumps: set[asyncio.Task[None]] = set()


class WebSocketHijack(Hijack):
    """HijackedConnection of a client that asked for a WebSocket; raises InvalidParameter where it did not."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        headers = request.headers
        self._key = headers.get("sec-websocket-key", "")
        if headers.get("upgrade", "").lower() != "websocket" or not self._key:
            raise InvalidParameter("not a websocket handshake")
        if headers.get("sec-websocket-version") != "13":
            raise InvalidParameter("unsupported websocket version: use 13")
        self._multiplexed = False

    def raw_stream_head(self, *, multiplexed: bool) -> bytes:
        """Nothing: the head is the WebSocket's and the pump sends it."""
        self._multiplexed = multiplexed
        return b""

    def detach(self) -> tuple[int, bytes]:
        """(one end of a socketpair, nothing): the pump feeds what was read already."""
        fd, rest = super().detach()
        client = socket.socket(fileno=fd)
        ours, theirs = socket.socketpair()
        for end in (client, ours, theirs):
            end.setblocking(False)
        pump = asyncio.get_running_loop().create_task(
            _pump(client, ours, handshake(self._key), rest, self._multiplexed)
        )
        _pumps.add(pump)
        pump.add_done_callback(_pumps.discard)
        return theirs.detach(), b""


def handshake(key: str) -> bytes:
    """The response head that accepts a WebSocket."""
    accept = b64encode(sha1(key.encode() + _GUID).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


async def _pump(client: socket.socket, owner: socket.socket, head: bytes, rest: bytes, framed: bool) -> None:
    """Carry both directions until one ends; closes both sockets."""
    with client, owner:
        client_reader, client_writer = await _streams(client)
        owner_reader, owner_writer = await _streams(owner)
        try:
            client_writer.write(head)
            client_reader.feed_data(rest)
            directions = {
                asyncio.create_task(_input(client_reader, client_writer, owner_writer)),
                asyncio.create_task(_output(owner_reader, client_writer, framed)),
            }
            _, left = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
        finally:
            owner_writer.close()
            client_writer.close()


async def _streams(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if end.family == socket.AF_UNIX:
        return await asyncio.open_unix_connection(sock=end.dup())
    return await asyncio.open_connection(sock=end.dup())


async def _input(
    reader: asyncio.StreamReader, client: asyncio.StreamWriter, owner: asyncio.StreamWriter
) -> None:
    """Messages to bytes, until the client says close."""
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == _CLOSE:
            client.write(frame(_CLOSE, payload[:2]))
            await client.drain()
            return
        if opcode == _PING:
            client.write(frame(_PONG, payload))
        elif opcode != _PONG:
            owner.write(payload)
            await owner.drain()


async def _output(reader: asyncio.StreamReader, client: asyncio.StreamWriter, framed: bool) -> None:
    """Bytes to messages, until the owner ends its output."""
    unframe = Unframer()
    while data := await reader.read(65536):
        for piece in unframe.feed(data) if framed else (data,):
            client.write(frame(_BINARY, piece))
        await client.drain()
    client.write(frame(_CLOSE, (1000).to_bytes(2, "big")))
    await client.drain()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(opcode, payload) of a client's frame; raises ValueError for what breaks the protocol."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    if first & 0x70 or not second & 0x80 or size > MESSAGE_BYTES:
        raise ValueError("websocket frame with reserved bits, without a mask, or too long")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return first & 0x0F, (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def frame(opcode: int, payload: bytes) -> bytes:
    """A server's frame: whole message, no mask."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


class Unframer:
    """Takes Docker's stdout/stderr frames apart, however they are cut."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads in `data`."""
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield piece
                continue
            need = 8 - len(self._header)
            self._header, data = self._header + data[:need], data[need:]
            if len(self._header) == 8:
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""

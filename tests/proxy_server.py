"""A proxy for tests, on the test's own loop: CONNECT over plain HTTP or TLS, or SOCKS5.

Whatever it is asked for, it leads to one port of 127.0.0.1.
"""

import asyncio
import ssl
import struct
from contextlib import suppress


class ProxyServer:
    """`async with ProxyServer(port, "socks5") as proxy:`; `asked` has a line for each tunnel."""

    def __init__(self, target: int, kind: str, tls: ssl.SSLContext | None = None, login: str = "") -> None:
        self.target = target
        self.asked: list[str] = []
        self.answer: bytes = b""
        """Goes out instead of a tunnel."""
        self._kind = kind
        self._tls = tls
        self._login = login
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> "ProxyServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        host_port = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        login = f"{self._login}@" if self._login else ""
        self.url = f"{self._kind}://{login}{host_port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await asyncio.gather(*(task for task in self._tasks if task is not None), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            lead = self._socks if self._kind.startswith("socks") else self._connect
            if not await lead(reader, writer):
                writer.close()
                return
            there = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer), return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().strip())
        writer.write(self.answer or b"HTTP/1.1 200 Connection established\r\n\r\n")
        return not self.answer

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self._login else 0
        if method not in methods:
            writer.write(b"\x05\xff")
            return False
        writer.write(bytes((5, method)))
        if method == 2 and not await self._logged_in(reader, writer):
            return False
        _, _, _, kind = await reader.readexactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        name = await reader.readexactly(length)
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        self.asked.append(f"{name.decode() if kind == 3 else '.'.join(map(str, name))}:{port}")
        writer.write(self.answer or b"\x05\x00\x00\x03\x04here\x00\x00")
        return not self.answer

    async def _logged_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readexactly(1)
        name, password = [await reader.readexactly((await reader.readexactly(1))[0]) for _ in range(2)]
        right = f"{name.decode()}:{password.decode()}" == self._login
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        return right


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort()

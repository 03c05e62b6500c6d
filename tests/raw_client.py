"""A client that sends bytes and reads answers as they are, for tests of the wire."""

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Answer:
    """One response; `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection to a unix socket."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(address))
        self._socket.setblocking(False)
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def request(self, method: str, target: str, body: bytes | None = None, *headers: str) -> Answer:
        """Send a request with a JSON body and read its answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: proa", *headers]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        return await self.answer(headless=method == "HEAD")

    async def read_until(self, mark: bytes) -> bytes:
        """Up to and with `mark`; raises EOFError."""
        while mark not in self._unread:
            await self._more()
        end = self._unread.index(mark) + len(mark)
        data, self._unread = self._unread[:end], self._unread[end:]
        return data

    async def read_exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            await self._more()
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def read_all(self) -> bytes:
        """Everything until the server closes."""
        try:
            while True:
                await self._more()
        except (EOFError, ConnectionResetError):
            data, self._unread = self._unread, b""
            return data

    async def _more(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        if not data:
            raise EOFError(self._unread)
        self._unread += data

    async def head(self) -> Answer:
        """Status line and headers."""
        lines = (await self.read_until(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), {key.lower(): value for key, value in headers.items()}, b"")

    async def answer(self, *, headless: bool = False) -> Answer:
        """One whole response."""
        answer = await self.head()
        if headless or answer.status in (204, 304):
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                answer.body += chunk
        else:
            answer.body = await self.read_exactly(int(answer.headers["content-length"]))
        return answer

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        size = int(await self.read_until(b"\r\n"), 16)
        data = await self.read_exactly(size)
        assert await self.read_exactly(2) == b"\r\n"
        return data

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

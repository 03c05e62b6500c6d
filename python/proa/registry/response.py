"""A registry's answer: its head, checked, and its body on demand.

The body is framed by Content-Length, by chunks or by the connection's end. A response must be read to its end
or closed; then its connection goes back to where it is kept, or is closed.

Source: RFC 9112, sections 6 and 7.
"""

from collections.abc import Callable, Iterable
from typing import Final

from proa.registry.connection import Broken, Connection

Headers = dict[str, str]
"""Names in lower case; repeated ones joined by a comma."""

DISCARD_MAX: Final = 64 * 1024
"""Bytes worth reading to keep a connection."""


_HEX: Final = b"0123456789abcdefABCDEF"


class TooLarge(Exception):
    """A body is larger than the caller takes."""


async def receive(connection: Connection, *, bodiless: bool = False) -> "Response":
    """Read the head of the next answer that is final (not 1xx). Raises Broken."""
    while True:
        head = await connection.until(b"\r\n\r\n")
        response = Response(connection, head, bodiless=bodiless)
        if not 100 <= response.status < 200:
            return response


class Response:
    """One answer."""

    def __init__(self, connection: Connection, head: bytes, *, bodiless: bool) -> None:
        """Raises Broken for what is no HTTP response."""
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = status_line.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or len(code) != 3 or not (code.isascii() and code.isdecimal()):
            raise Broken(f"malformed HTTP response {status_line[:64]!r}")
        self.status = int(code)
        self.reason = reason
        self.headers = _headers(lines)
        self._connection = connection
        self._chunked = False
        self._left: int | None = None
        """Bytes left of the body or of the chunk at hand; None for all until the connection's end."""
        self._frame(bodiless or self.status in (204, 304))
        self.length = None if self._chunked else self._left
        """Bytes of the whole body, None where the head does not tell."""
        self._done = self.length == 0
        self._let_go = False
        self.reusable = version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        self.keep: Callable[[Connection], None] | None = None
        """Takes the connection back once the body is read, if it can be used again."""

    @property
    def line(self) -> str:
        """`404 Not Found`, as Go prints a status."""
        return f"{self.status} {self.reason}".strip()

    async def some(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises Broken when it is cut short."""
        if self._done:
            self._finish()
            return b""
        if self._chunked and not self._left and not await self._next_chunk():
            self._finish()
            return b""
        if self._left is None:
            return await self._rest()
        data = await self._connection.some()
        if len(data) > self._left:
            self._connection.unread(data[self._left :])
            data = data[: self._left]
        self._left -= len(data)
        if not self._left:
            if self._chunked:
                await self._connection.until(b"\r\n")
            else:
                self._finish()
        return data

    async def read(self, limit: int) -> bytes:
        """The whole body of at most `limit` bytes. Raises TooLarge, Broken; the response is closed then."""
        parts: list[bytes] = []
        size = self.length or 0
        try:
            if size > limit:
                raise TooLarge
            size = 0
            while data := await self.some():
                size += len(data)
                if size > limit:
                    raise TooLarge
                parts.append(data)
        finally:
            self.close()
        return b"".join(parts)

    async def discard(self) -> None:
        """Read what is left where that is little, so that the connection can be used again."""
        try:
            await self.read(DISCARD_MAX)
        except (TooLarge, Broken):
            return

    def close(self) -> None:
        """Give up what is left: an unread body costs the connection. Idempotent."""
        if not self._done:
            self.reusable = False
        self._finish()

    def _frame(self, bodiless: bool) -> None:
        coding = self.headers.get("transfer-encoding", "").lower()
        text = self.headers.get("content-length")
        if bodiless:
            self._left = 0
        elif coding:
            if coding != "chunked":
                raise Broken(f"unsupported transfer encoding {coding[:64]!r}")
            self._chunked, self._left = True, 0
        elif text is not None:
            if not (text.isascii() and text.isdecimal()):
                raise Broken(f"malformed Content-Length {text[:64]!r}")
            self._left = int(text)

    async def _next_chunk(self) -> bool:
        line = (await self._connection.until(b"\r\n")).partition(b";")[0].strip()
        if not line or line.strip(_HEX):
            raise Broken(f"malformed chunk size {line[:16]!r}")
        self._left = int(line, 16)
        if not self._left:
            while await self._connection.until(b"\r\n"):
                pass
        return bool(self._left)

    async def _rest(self) -> bytes:
        self.reusable = False
        try:
            return await self._connection.some()
        except Broken as exc:
            if not exc.orderly:
                raise
            self._finish()
            return b""

    def _finish(self) -> None:
        self._done = True
        if self._let_go:
            return
        self._let_go = True
        if self.keep is not None and self.reusable and self._connection.usable:
            self.keep(self._connection)
        else:
            self._connection.close()


def _headers(lines: Iterable[str]) -> Headers:
    found: Headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Broken(f"malformed HTTP header {line[:64]!r}")
        key, value = name.lower(), value.strip()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found

"""Answers of the registry, as the connection writes them."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from proa import __version__
from proa.distribution.failures import Refusal

JSON = "application/json"
OCTETS = "application/octet-stream"

COMMON = f"Docker-Distribution-Api-Version: registry/2.0\r\nServer: proa/{__version__}\r\n"

encode = msgspec.json.Encoder().encode


class Reply:
    """An answer in one piece."""

    __slots__ = ("body", "bodyless", "head")
    chunks = None
    length = -1

    def __init__(self, head: bytes, body: bytes = b"", bodyless: bool = False) -> None:
        self.head = head
        self.body = body
        self.bodyless = bodyless


class Stream:
    """An answer of known length, sent as it comes."""

    __slots__ = ("chunks", "head", "length")
    body = b""
    bodyless = False

    def __init__(self, head: bytes, chunks: Any, length: int) -> None:
        """`chunks`: an asynchronous iterator with `aclose`, a FileBody or a download."""
        self.head = head
        self.chunks = chunks
        self.length = length


Response = Reply | Stream


def head(status: int, headers: Mapping[str, object]) -> bytes:
    """Status line and headers; names and values are ours or were checked."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{COMMON}{lines}".encode("latin-1")


def empty(status: int, headers: Mapping[str, object]) -> Reply:
    """No body; 204 and 304 say so by their number, and `Content-Length` in `headers` speaks of a HEAD."""
    bodyless = status in (204, 304) or "Content-Length" in headers
    return Reply(head(status, headers), bodyless=bodyless)


def document(body: Any, headers: Mapping[str, object] | None = None, content_type: str = JSON) -> Reply:
    """200 with JSON."""
    return Reply(head(200, {"Content-Type": content_type, **(headers or {})}), encode(body))


def failure(refusal: Refusal) -> Reply:
    """The specification's error body."""
    return failures(refusal.status, refusal.code, str(refusal), refusal.headers)


def failures(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """One error."""
    body = {"errors": [{"code": code, "message": message, "detail": None}]}
    return Reply(head(status, {"Content-Type": JSON, **(headers or {})}), encode(body))


def page(path: str, shown: Sequence[str], count: int, more: bool) -> dict[str, str]:
    """The Link header to the next page, where there is one."""
    if not more or not shown:
        return {}
    return {"Link": f'<{path}?n={count}&last={shown[-1]}>; rel="next"'}

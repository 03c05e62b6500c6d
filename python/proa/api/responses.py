"""Answers as the connection writes them, and the one table from errors to status numbers.

Hides what an HTTP head looks like: heads are made once per status and content type. The connection adds
Date, Connection and the framing headers.
"""

from collections.abc import AsyncIterator
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec

from proa import __version__, errors
from proa.schema.system import ErrorResponse

LATEST_MINOR = 51
OLDEST_MINOR = 24

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
TAR = "application/x-tar"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

COMMON_HEADERS = (
    f"Api-Version: 1.{LATEST_MINOR}\r\n"
    "Docker-Experimental: false\r\n"
    "Ostype: linux\r\n"
    f"Server: proa/{__version__} (linux)\r\n"
)

STATUS: tuple[tuple[type[errors.ProaError], int], ...] = (
    (errors.InvalidParameter, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.NotModified, 304),
    (errors.NotImplemented_, 501),
    (errors.Unavailable, 503),
    (errors.System, 500),
)
"""Every error class of proa.errors but StartFailed, whose exit code decides."""

_encode = msgspec.json.Encoder().encode


class Reply:
    """An answer in one piece."""

    __slots__ = ("body", "bodyless", "head")
    chunks: AsyncIterator[bytes] | None = None
    length = -1

    def __init__(self, head: bytes, body: bytes, bodyless: bool = False) -> None:
        self.head = head
        self.body = body
        self.bodyless = bodyless


class Stream:
    """An answer sent as it comes; the connection closes `chunks` when it ends or the client goes."""

    __slots__ = ("chunks", "head")
    body = b""
    bodyless = False
    length = -1

    def __init__(self, chunks: AsyncIterator[bytes], content_type: str = JSON, status: int = 200) -> None:
        self.head = response_head(status, content_type)
        self.chunks = chunks


Response = Reply | Stream


@cache
def response_head(status: int, content_type: str = "", extra: str = "") -> bytes:
    """Status line and headers, without the framing headers and the end."""
    typed = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{COMMON_HEADERS}{typed}{extra}".encode()


NO_CONTENT = Reply(response_head(204), b"", bodyless=True)
NOT_MODIFIED = Reply(response_head(304), b"", bodyless=True)
EMPTY = Reply(response_head(200), b"")
CREATED = Reply(response_head(201), b"")

_JSON_OK = response_head(200, JSON)
_JSON_CREATED = response_head(201, JSON)


def json_reply(body: Any) -> Reply:
    """200 with `body` as JSON."""
    return Reply(_JSON_OK, _encode(body) + b"\n")


def created_reply(body: Any) -> Reply:
    """201 with `body` as JSON."""
    return Reply(_JSON_CREATED, _encode(body) + b"\n")


def error_reply(status: int, message: str) -> Reply:
    """Docker's error shape."""
    return Reply(response_head(status, JSON), _encode(ErrorResponse(message=message)) + b"\n")


def status_of(error: errors.ProaError) -> int:
    """The status number of an error class."""
    if isinstance(error, errors.StartFailed):
        return 400 if error.code in (126, 127) else 500
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status
    return 500


def failure_reply(error: errors.ProaError) -> Reply:
    """The answer that tells a client of `error`."""
    status = status_of(error)
    return NOT_MODIFIED if status == 304 else error_reply(status, str(error))

"""What a client asks of a container's streams, decoded, and log bytes on their way to it.

Source: the Docker Engine API, v1.51 (queries of GET /containers/{id}/logs and POST .../attach).
"""

from collections.abc import AsyncIterator

from msgspec import Struct


class LogsOptions(Struct, frozen=True, kw_only=True):
    """Query of GET /containers/{id}/logs; times in nanoseconds, 0 for unset; tail -1 for all."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    details: bool = False
    tail: int = -1


class AttachOptions(Struct, frozen=True, kw_only=True):
    """Query of POST /containers/{id}/attach."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    logs: bool = False
    stream: bool = False
    detach_keys: str = ""


class LogStream(Struct, frozen=True, kw_only=True):
    """Log bytes ready for the wire; `tty` tells raw from multiplexed."""

    tty: bool
    chunks: AsyncIterator[bytes]

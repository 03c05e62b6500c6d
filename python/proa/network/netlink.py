"""Netlink, the few messages that proa needs: framing, attributes, acknowledgements. Blocking.

Our own rather than pyroute2's: importing that costs this daemon 90 ms at start and 13 MB for good, of a
budget of 400 and 70, for a dozen kinds of message.

Source: netlink(7), rtnetlink(7); linux/netlink.h.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

from msgspec import Struct

ROUTE = 0
NETFILTER = 12

REQUEST = 0x1
ACK = 0x4
EXCL = 0x200
CREATE = 0x400
APPEND = 0x800
DUMP = 0x300
_NESTED = 0x8000

_ERROR = 2
_DONE = 3
_DUMP_INTERRUPTED = 0x10
_EXT_ACK = 11
_CAP_ACK = 10
_SOL_NETLINK = 270
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_S = 10.0
_DUMPS = 20
_SO_SNDBUFFORCE = 32  # socket(7); the socket module does not name it
_BUFFER = 100 << 10
"""Bytes that fit a socket's buffer as it is."""


class Message(Struct, frozen=True):
    """One request; `what` names it in an error."""

    type: int
    flags: int
    payload: bytes
    what: str = ""


class Answer(Struct, frozen=True):
    """One message of a dump: its type, and the payload after the header."""

    type: int
    payload: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def string(kind: int, text: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A number in the host's order (rtnetlink)."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network order (nfnetlink); negative ones as two's complement."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, nesting flag taken off."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            return
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)


class Netlink:
    """One socket of one netlink family; every call waits for the kernel's answer. A context."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_S)
            for option in (_EXT_ACK, _CAP_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def number(self) -> int:
        """The socket's own; the kernel names it in what it tells of changes."""
        number: int = self._socket.getsockname()[0]
        return number

    def request(self, message: Message) -> None:
        """Send one message and wait until the kernel has done it. Raises OSError."""
        self._send([message])
        self._wait({self._sequence: message.what})

    def batch(self, messages: Sequence[Message]) -> None:
        """Send messages as one datagram (an nfnetlink transaction) and wait for every acknowledgement.

        The kernel answers those with the ACK flag; raises OSError for the first that failed.
        """
        first = self._sequence + 1
        self._send(messages)
        waiting = {first + n: m.what for n, m in enumerate(messages) if m.flags & ACK}
        self._wait(waiting)

    def dump(self, message: Message) -> list[Answer]:
        """Every object of a kind; a dump that changed under way is read once more.

        Where it changes all the time the last one has to do: from kernel 6.10 on it lacks nothing that was
        there all along.
        """
        for _ in range(_DUMPS):
            self._send([message])
            answers, interrupted = self._collect(message.what)
            if not interrupted:
                break
        return answers

    def _send(self, messages: Sequence[Message]) -> None:
        frames = []
        for message in messages:
            self._sequence += 1
            length = _HEADER.size + len(message.payload)
            frames.append(
                _HEADER.pack(length, message.type, message.flags | REQUEST, self._sequence, 0)
                + message.payload
                + bytes(-length % 4)
            )
        data = b"".join(frames)
        if len(data) > _BUFFER:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
        self._socket.send(data)

    def _wait(self, waiting: dict[int, str]) -> None:
        failure: OSError | None = None
        while waiting:
            for kind, _, sequence, payload in _frames(self._receive()):
                if kind != _ERROR or sequence not in waiting:
                    continue
                what = waiting.pop(sequence)
                failure = failure or _failure(payload, what)
                if failure is not None and len(waiting) == 0:
                    break
            if failure is not None:
                raise failure
        if failure is not None:
            raise failure

    def _collect(self, what: str) -> tuple[list[Answer], bool]:
        answers: list[Answer] = []
        interrupted = False
        while True:
            for kind, flags, sequence, payload in _frames(self._receive()):
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if kind == _DONE:
                    return answers, interrupted
                if kind == _ERROR:
                    raise _failure(payload, what) or OSError(0, what)
                answers.append(Answer(kind, payload))

    def _receive(self) -> bytes:
        return self._socket.recv(1 << 17)


def _frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + (-length % 4)


def _failure(payload: bytes, what: str) -> OSError | None:
    """The error that an acknowledgement carries, None for success."""
    (code,) = struct.unpack_from("=i", payload)
    return OSError(-code, f"{what}: {os.strerror(-code)}") if code else None

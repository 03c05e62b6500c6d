"""gRPC: messages in both directions of an HTTP/2 stream, and how a call ended.

Source: grpc/doc/PROTOCOL-HTTP2.md.
"""

import base64
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, unquote

from proa.buildkit.http2 import Connection
from proa.buildkit.stream import Headers, Stream
from proa.errors import InvalidParameter, NotFound, ProaError

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND = 0, 1, 2, 3, 5
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14

MESSAGE_BYTES: Final = 16 << 20
"""As BuildKit has it."""
_STATUS: Final = re.compile("[0-9]{1,9}")
_CONTENT_TYPE: Final = ("content-type", "application/grpc")

log = logging.getLogger(__name__)


class CallFailed(ProaError):
    """A call ended with a status that is not OK."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        """`details` is a google.rpc.Status, as bytes."""
        super().__init__(message)
        self.code = code
        self.details = details


class Call:
    """One call, seen from either side."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def metadata(self, name: str) -> list[str]:
        """What the other side said at the beginning under this name."""
        return [value for key, value in self.stream.headers if key == name]

    async def send(self, message: bytes) -> None:
        """One message. Raises StreamReset."""
        await self.stream.write(b"\0" + len(message).to_bytes(4, "big") + message)

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Every message to the end, as many at a time as there are.

        Raises CallFailed for one too large, StreamReset.
        """
        buffer = bytearray()
        while data := await self.stream.read():
            buffer += data
            messages = _split(buffer)
            if messages:
                yield messages

    async def messages(self) -> AsyncIterator[bytes]:
        """Every message to the end. Raises as `batches`."""
        async for messages in self.batches():
            for message in messages:
                yield message

    async def message(self) -> bytes:
        """The only message. Raises CallFailed where there is none."""
        async for message in self.messages():
            return message
        raise CallFailed(INTERNAL, "the message is missing")


def _split(buffer: bytearray) -> list[bytes]:
    """Take the whole messages off the buffer."""
    messages = []
    position = 0
    while len(buffer) - position >= 5:
        size = int.from_bytes(buffer[position + 1 : position + 5], "big")
        if size > MESSAGE_BYTES or buffer[position]:
            raise CallFailed(RESOURCE_EXHAUSTED, "a message is too large, or compressed")
        if len(buffer) - position - 5 < size:
            break
        messages.append(bytes(buffer[position + 5 : position + 5 + size]))
        position += 5 + size
    del buffer[:position]
    return messages


# ---- a server's side ------------------------------------------------------------------------------------

Method = Callable[[Call], Awaitable[None]]


async def serve(methods: Mapping[str, Method], stream: Stream) -> None:
    """Answer one stream: its method reads and sends messages, or raises."""
    headers = dict(stream.headers)
    method = methods.get(headers.get(":path", ""))
    stream.send_headers([(":status", "200"), _CONTENT_TYPE])
    if method is None:
        _end(stream, UNIMPLEMENTED, f"unknown method {headers.get(':path', '')}")
        return
    try:
        await method(Call(stream))
    except ConnectionResetError as error:  # of this stream, or of another that it stood on
        _end(stream, UNAVAILABLE, str(error))
    except ProaError as error:
        _end(stream, _code_of(error), str(error), getattr(error, "details", b""))
    except Exception:
        log.exception("%s failed", headers.get(":path"))
        _end(stream, INTERNAL, "internal error")
    else:
        _end(stream, OK, "")


def _code_of(error: ProaError) -> int:
    if isinstance(error, CallFailed):
        return error.code
    return {InvalidParameter: INVALID_ARGUMENT, NotFound: NOT_FOUND}.get(type(error), UNKNOWN)


def _end(stream: Stream, code: int, message: str, details: bytes = b"") -> None:
    if stream.failure is not None:
        return
    trailers = [("grpc-status", str(code))]
    if message:
        trailers.append(("grpc-message", quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")))
    if details:
        trailers.append(("grpc-status-details-bin", base64.b64encode(details).decode().rstrip("=")))
    stream.send_headers(trailers, end=True)


# ---- a client's side ------------------------------------------------------------------------------------


class Calling:
    """A call of ours; leaving the block gives up what has not ended."""

    def __init__(self, connection: Connection, path: str, metadata: Headers = ()) -> None:
        self._connection = connection
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            _CONTENT_TYPE,
            *metadata,
        ]
        self._call: Call | None = None

    async def __aenter__(self) -> Self:
        self._call = Call(self._connection.open(self._headers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream = self.call.stream
        if not (stream.ended and stream.closed_by_us):
            stream.reset()

    @property
    def call(self) -> Call:
        """The call, within the block."""
        assert self._call is not None
        return self._call

    async def send(self, message: bytes) -> None:
        """One message. Raises StreamReset."""
        await self.call.send(message)

    def end(self) -> None:
        """Nothing more is sent."""
        self.call.stream.end()

    async def messages(self) -> AsyncIterator[bytes]:
        """Every message of the answer. Raises CallFailed where the call did."""
        async for message in self.call.messages():
            yield message
        self.check()

    def check(self) -> None:
        """The answer is over: raises CallFailed where the call has failed."""
        stream = self.call.stream
        said = dict(stream.trailers or stream.headers)
        code = said.get("grpc-status", str(UNKNOWN))
        if code != str(OK):
            number = int(code) if _STATUS.fullmatch(code) else UNKNOWN
            message = unquote(said.get("grpc-message", "")) or f"the call failed: {code}"
            raise CallFailed(number, message, _binary(said.get("grpc-status-details-bin", "")))


async def ask(connection: Connection, path: str, message: bytes, metadata: Headers = ()) -> bytes:
    """One message for one. Raises CallFailed, StreamReset."""
    async with Calling(connection, path, metadata) as calling:
        await calling.send(message)
        calling.end()
        answers = [answer async for answer in calling.messages()]
    if not answers:
        raise CallFailed(INTERNAL, "the answer is missing")
    return answers[0]


def _binary(value: str) -> bytes:
    """What metadata has as base64; empty where it is none."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except ValueError:  # of base64 itself, or for letters that are not ASCII
        return b""

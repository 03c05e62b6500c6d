"""HTTP/2 on one connection, on either side, as far as gRPC needs it: streams of bytes, with flow control.

Ours and not a library's because of what a build context is: some frames for each of its files, tens of
thousands, which the native core takes apart many at a time. Header compression, which is the intricate part,
is hpack's.

Everything happens on the loop.

Source: RFC 9113.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import hpack
from proa_native import split_frames

from proa.buildkit.stream import WINDOW, Headers, Stream, StreamReset

logging.getLogger("hpack").setLevel(logging.INFO)  # it tells of every header

DATA, HEADERS, _, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT, INITIAL_WINDOW, _, MAX_HEADER_LIST = range(1, 7)
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR = 1, 3, 6, 7, 9
ENHANCE_YOUR_CALM: Final = 11

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW: Final = 65535
LARGEST_WINDOW: Final = 2**31 - 1
FRAME: Final = 16384
"""What we take, and send at most."""
CONNECTION_WINDOW: Final = 8 << 20
STREAMS_AT_ONCE: Final = 128
HEADER_BYTES: Final = 64 << 10
FRAGMENTS: Final = 64
"""Frames that one header block may come in."""
UNREAD_ANSWERS: Final = 1024
"""Frames that the other side may have us answer without reading the answers."""


class ProtocolError(Exception):
    """The other side broke the protocol: the connection ends with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection(asyncio.Protocol):
    """One side of a connection. `serve` is run for each stream of the other side; a client has none."""

    def __init__(self, serve: "Callable[[Stream], Awaitable[None]] | None" = None) -> None:
        self._serve = serve
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._preface = serve is not None
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES)
        self._block: tuple[int, int, list[bytes]] | None = None
        self._unread = 0
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._their_window = DEFAULT_WINDOW
        self._credit = 0
        self._going = False
        self._room = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone and all that served it has ended."""

    # ---- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        if self._serve is None:
            self._write(PREFACE)
        settings = {INITIAL_WINDOW: WINDOW, MAX_HEADER_LIST: HEADER_BYTES}
        settings |= {MAX_CONCURRENT: STREAMS_AT_ONCE} if self._serve else {ENABLE_PUSH: 0}
        self.send_frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings.items()))
        more = CONNECTION_WINDOW - DEFAULT_WINDOW
        self.send_frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big"))

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._buffer + data if self._buffer else data)
        except ProtocolError as error:
            self._abandon(error)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._unread = 0
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._going = True
        self._writable.set()
        self._room.set()
        for stream in list(self._streams.values()):
            stream.fail(StreamReset("the connection is gone"))
        self._streams.clear()
        for task in self._tasks.values():
            task.cancel()
        self._end_if_over()

    def close(self) -> None:
        """End the connection, and what serves it. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # ---- streams -------------------------------------------------------------------------------------

    def open(self, headers: Headers) -> Stream:
        """A client's new stream. Raises StreamReset."""
        if self._going or self._transport is None:
            raise StreamReset("the connection is gone")
        number, self._next = self._next, self._next + 2
        stream = self._streams[number] = Stream(self, number, self._their_window)
        self.send_headers(number, headers, end=False)
        return stream

    async def _run(self, stream: Stream) -> None:
        assert self._serve is not None
        try:
            await self._serve(stream)
        finally:
            if not stream.closed_by_us:
                stream.reset()

    def _start(self, stream: Stream) -> None:
        task = self._tasks[stream] = asyncio.get_running_loop().create_task(self._run(stream))
        task.add_done_callback(partial(self._served, stream))

    def _served(self, stream: Stream, task: "asyncio.Task[None]") -> None:
        del self._tasks[stream]
        if not task.cancelled() and (failure := task.exception()) is not None:
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "an HTTP/2 stream failed", "exception": failure})
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._transport is None and not self._tasks and not self.closed.done():
            self.closed.set_result(None)

    def forget_ended(self, stream: Stream) -> None:
        """Both halves may be closed now."""
        if stream.closed_by_us and stream.ended:
            self._streams.pop(stream.number, None)

    # ---- frames out ----------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def send_frame(self, kind: int, flags: int, number: int, payload: bytes = b"") -> None:
        """One frame."""
        self._write(
            struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, number) + payload
        )

    def _answer(self, kind: int, flags: int, number: int, payload: bytes = b"") -> None:
        """A frame for a frame: whoever asks without end and reads nothing is not kept."""
        if not self._writable.is_set():
            self._unread += 1
            if self._unread > UNREAD_ANSWERS:
                raise ProtocolError(ENHANCE_YOUR_CALM, "too many answers are not read")
        self.send_frame(kind, flags, number, payload)

    def send_headers(self, number: int, headers: Headers, *, end: bool) -> None:
        """A header block, in as many frames as it needs."""
        block = self._encoder.encode(list(headers))
        parts = [block[start : start + FRAME] for start in range(0, len(block), FRAME)] or [b""]
        for place, part in enumerate(parts):
            flags = END_HEADERS if place == len(parts) - 1 else 0
            if place == 0 and end:
                flags |= END_STREAM
            self.send_frame(CONTINUATION if place else HEADERS, flags, number, part)

    async def send_data(self, stream: Stream, data: bytes) -> None:
        """Bytes of a stream, within both windows."""
        start = 0
        while start < len(data):
            if stream.failure is not None or self._transport is None:
                raise stream.failure or StreamReset("the connection is gone")
            count = min(len(data) - start, FRAME, stream.window, self._window)
            if count <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self.send_frame(DATA, 0, stream.number, data[start : start + count])
            stream.window -= count
            self._window -= count
            start += count
            if not self._writable.is_set():
                await self._writable.wait()

    def _abandon(self, error: ProtocolError) -> None:
        self.send_frame(GOAWAY, 0, 0, struct.pack(">II", self._last, error.code) + str(error).encode())
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # whoever reads nothing would keep it open
            else:
                self._transport.close()
        self._going = True

    # ---- frames in -----------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        if self._preface:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise ProtocolError(PROTOCOL_ERROR, "not HTTP/2")
            if len(data) < len(PREFACE):
                self._buffer = data
                return
            self._preface, data = False, data[len(PREFACE) :]
        try:
            frames, taken = split_frames(data, FRAME)
        except ValueError as exc:
            raise ProtocolError(FRAME_SIZE_ERROR, str(exc)) from exc
        self._buffer = data[taken:]
        for kind, flags, number, payload in frames:
            if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
                raise ProtocolError(PROTOCOL_ERROR, "a header block was interrupted")
            take = self._TAKERS.get(kind)
            if take is not None:
                take(self, flags, number, payload)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._credit += len(payload)
        if self._credit >= CONNECTION_WINDOW // 4:
            self.send_frame(WINDOW_UPDATE, 0, 0, self._credit.to_bytes(4, "big"))
            self._credit = 0
        stream = self._streams.get(number)
        if stream is None:
            if number == 0 or (self._serve is not None and number > self._last):
                raise ProtocolError(PROTOCOL_ERROR, "data of a stream that there is not")
            return  # one that was reset a moment ago
        data = _without_padding(flags, payload)
        if data and not stream.received(data):
            raise ProtocolError(FLOW_CONTROL_ERROR, "more data than there is room for")
        if flags & END_STREAM:
            stream.received_end()
            self.forget_ended(stream)

    def _take_headers(self, flags: int, number: int, payload: bytes) -> None:
        fragment = _without_padding(flags, payload)
        if flags & PRIORITIZED:
            fragment = fragment[5:]
        if number == 0:
            raise ProtocolError(PROTOCOL_ERROR, "headers of no stream")
        if flags & END_HEADERS:
            self._take_block(number, flags, fragment)
        else:
            self._block = number, flags, [fragment]

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(PROTOCOL_ERROR, "a continuation of nothing")
        _, first, block = self._block
        block.append(payload)
        if len(block) > FRAGMENTS or sum(map(len, block)) > HEADER_BYTES:
            raise ProtocolError(ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & END_HEADERS:
            self._block = None
            self._take_block(number, first, b"".join(block))

    def _take_block(self, number: int, flags: int, block: bytes) -> None:
        try:
            headers: list[Any] = [
                (_text(name), _text(value)) for name, value in self._decoder.decode(block, raw=True)
            ]
        except hpack.HPACKError as exc:
            raise ProtocolError(COMPRESSION_ERROR, "a header block cannot be read") from exc
        stream = self._streams.get(number)
        if stream is None:
            stream = self._accept(number)
            if stream is None:
                return
            stream.received_headers(headers)
            self._start(stream)
        else:
            stream.received_headers(headers)
        if flags & END_STREAM:
            stream.received_end()
            self.forget_ended(stream)

    def _accept(self, number: int) -> Stream | None:
        """A new stream of the other side's; None where it is one of ours that has ended, or one too many."""
        if self._serve is None:
            return None
        if number % 2 == 0 or number <= self._last:
            raise ProtocolError(PROTOCOL_ERROR, "a stream's number is wrong")
        self._last = number
        # One that was reset counts until its work has ended, too.
        if max(len(self._streams), len(self._tasks)) >= STREAMS_AT_ONCE or self._going:
            self._answer(RST_STREAM, 0, number, REFUSED_STREAM.to_bytes(4, "big"))
            return None
        stream = self._streams[number] = Stream(self, number, self._their_window)
        return stream

    def _take_reset(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.fail(StreamReset("the other side has given up"))
            stream.closed_by_us = True
            self._room.set()
            # Whoever works for it is not needed any more.
            if (task := self._tasks.get(stream)) is not None:
                task.cancel()

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ProtocolError(FRAME_SIZE_ERROR, "settings of an odd size")
        window = self._their_window
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW:
                if value > LARGEST_WINDOW:
                    raise ProtocolError(FLOW_CONTROL_ERROR, "a window is too large")
                window = value
            elif name == HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
        self._set_window(window)
        self._answer(SETTINGS, ACK, 0)

    def _set_window(self, window: int) -> None:
        """What a stream of ours may send at first; once for a frame, which may name it thousands of times."""
        more = window - self._their_window
        if not more:
            return
        for stream in self._streams.values():
            stream.window += more
        self._their_window = window
        self._room.set()

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & ACK:
            self._answer(PING, ACK, 0, payload)

    def _take_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self._going = True

    def _take_window(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "a window's update of an odd size")
        more = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if number == 0:
            self._window += more
            if self._window > LARGEST_WINDOW:
                raise ProtocolError(FLOW_CONTROL_ERROR, "a window is too large")
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
        self._room.set()

    _TAKERS: Final = {
        DATA: _take_data,
        HEADERS: _take_headers,
        CONTINUATION: _take_continuation,
        RST_STREAM: _take_reset,
        SETTINGS: _take_settings,
        PING: _take_ping,
        GOAWAY: _take_goaway,
        WINDOW_UPDATE: _take_window,
    }


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")

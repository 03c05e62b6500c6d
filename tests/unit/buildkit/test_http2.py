"""Our HTTP/2 and gRPC against the h2 library, on either side of a socket pair."""

import asyncio
import base64
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hpack
import pytest

from proa.buildkit import grpc, http2
from proa.buildkit.grpc import Call, CallFailed, Calling
from proa.buildkit.stream import StreamReset
from proa.errors import InvalidParameter

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


class Other:
    """The other side: h2, and what it has seen."""

    def __init__(self, ours: http2.Connection, theirs: socket.socket, *, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.state = h2.connection.H2Connection(config)
        self.ours = ours
        self.socket = theirs
        self.data: dict[int, bytes] = {}
        self.events: list[Any] = []

    async def flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, self.state.data_to_send())

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first event of this kind; data is acknowledged as it comes."""
        while True:
            for event in self.events:
                if wanted(event):
                    self.events.remove(event)
                    return event
            received = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            if not received:
                raise EOFError
            for event in self.state.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                    self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.events.append(event)
            await self.flush()

    async def of(self, kind: type, stream: int | None = None) -> Any:
        return await self.until(
            lambda event: (
                isinstance(event, kind) and (stream is None or getattr(event, "stream_id", stream) == stream)
            )
        )

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Data, as the windows let it."""
        while data:
            room = min(self.state.local_flow_control_window(stream), self.state.max_outbound_frame_size)
            if room:
                self.state.send_data(stream, data[:room])
                data = data[room:]
                await self.flush()
            else:
                await self.of(h2.events.WindowUpdated)
        if end:
            self.state.end_stream(stream)
            await self.flush()


Pair = Callable[..., Any]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Makes a connection of ours with h2 at its other end."""
    connections = []
    with contextlib.ExitStack() as stack:

        async def make(methods: "dict[str, grpc.Method] | None" = None) -> Other:
            here, there = socket.socketpair()
            stack.enter_context(there)
            there.setblocking(False)
            here.setblocking(False)
            if methods is None:
                ours = http2.Connection()
            else:
                known = methods
                ours = http2.Connection(lambda stream: grpc.serve(known, stream))
            connections.append(ours)
            await asyncio.get_running_loop().create_unix_connection(lambda: ours, sock=here)
            other = Other(ours, there, client=methods is not None)
            other.state.initiate_connection()
            await other.flush()
            return other

        yield make
        for connection in connections:
            connection.close()
            await connection.closed


async def echo(call: Call) -> None:
    async for message in call.messages():
        await call.send(message)


async def ended(other: Other, stream: int) -> dict[str, str]:
    """The trailers of an answer."""
    event = await other.of(h2.events.TrailersReceived, stream)
    return dict(event.headers)


class TestServer:
    """We serve."""

    @pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
    async def test_messages_of_any_size_go_both_ways(self, pair: Pair, size: int) -> None:
        other = await pair({"/echo": echo})
        message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        other.state.send_headers(1, REQUEST)
        await other.send(1, framed(message) + framed(b"last"), end=True)
        assert await ended(other, 1) == {"grpc-status": "0"}
        assert other.data[1] == framed(message) + framed(b"last")

    async def test_streams_run_side_by_side(self, pair: Pair) -> None:
        gate = asyncio.Event()

        async def wait(call: Call) -> None:
            await gate.wait()

        async def open_gate(call: Call) -> None:
            gate.set()

        other = await pair({"/echo": wait, "/open": open_gate})
        other.state.send_headers(1, REQUEST, end_stream=True)
        opening = [(name, "/open" if name == ":path" else value) for name, value in REQUEST]
        other.state.send_headers(3, opening, end_stream=True)
        await other.flush()
        assert (await ended(other, 1))["grpc-status"] == "0"

    @pytest.mark.parametrize(
        ("failure", "status", "message"),
        [
            (InvalidParameter("no, 100%\nünï"), "3", "no, 100%25%0A%C3%BCn%C3%AF"),
            (CallFailed(5, "gone"), "5", "gone"),
            (RuntimeError("secret"), "13", "internal error"),
        ],
    )
    async def test_failures_are_statuses(
        self, pair: Pair, failure: Exception, status: str, message: str
    ) -> None:
        async def fail(call: Call) -> None:
            raise failure

        other = await pair({"/echo": fail})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        assert await ended(other, 1) == {"grpc-status": status, "grpc-message": message}

    async def test_details_go_as_base64(self, pair: Pair) -> None:
        async def fail(call: Call) -> None:
            raise CallFailed(2, "x", b"\xff\x00details")

        other = await pair({"/echo": fail})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        details = (await ended(other, 1))["grpc-status-details-bin"]
        assert base64.b64decode(details + "==") == b"\xff\x00details"

    async def test_an_unknown_method(self, pair: Pair) -> None:
        other = await pair({})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        assert (await ended(other, 1))["grpc-status"] == "12"

    @pytest.mark.parametrize("bad", [b"\1\0\0\0\1x", b"\0\xff\xff\xff\xffx"])
    async def test_compressed_and_giant_messages_are_refused(self, pair: Pair, bad: bytes) -> None:
        other = await pair({"/echo": echo})
        other.state.send_headers(1, REQUEST)
        await other.send(1, bad)
        assert (await ended(other, 1))["grpc-status"] == "8"

    async def test_a_reset_cancels_the_work(self, pair: Pair) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work(call: Call) -> None:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()

        other = await pair({"/echo": work})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        await begun.wait()
        other.state.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
        await other.flush()
        await cancelled.wait()

    async def test_a_lost_connection_cancels_the_work_and_a_blocked_writer(self, pair: Pair) -> None:
        over = asyncio.Event()

        async def flood(call: Call) -> None:
            try:
                while True:
                    await call.send(bytes(100_000))
            finally:
                over.set()

        other = await pair({"/echo": flood})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        await other.of(h2.events.DataReceived)
        other.socket.close()
        await over.wait()

    async def test_a_header_block_in_many_frames(self, pair: Pair) -> None:
        seen = {}

        async def look(call: Call) -> None:
            seen["x"] = call.metadata("x-long")

        other = await pair({"/echo": look})
        other.state.send_headers(1, [*REQUEST, ("x-long", "v" * 40_000)], end_stream=True)
        await other.flush()
        await ended(other, 1)
        assert seen["x"] == ["v" * 40_000]

    async def test_pings_are_answered(self, pair: Pair) -> None:
        other = await pair({})
        other.state.ping(b"12345678")
        await other.flush()
        assert (await other.of(h2.events.PingAckReceived)).ping_data == b"12345678"

    async def test_a_smaller_window_is_kept_to(self, pair: Pair) -> None:
        async def much(call: Call) -> None:
            await call.send(bytes(1_000_000))

        other = await pair({"/echo": much})
        other.state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        other.state.send_headers(1, REQUEST, end_stream=True)
        await other.flush()
        assert (await ended(other, 1))["grpc-status"] == "0"  # h2 raises where the window is overrun
        assert len(other.data[1]) == 1_000_005

    async def test_the_last_of_many_windows_is_set_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = http2.Connection()
        windows: list[int] = []
        monkeypatch.setattr(ours, "_set_window", windows.append)
        settings = b"".join(struct.pack(">HI", http2.INITIAL_WINDOW, size) for size in range(2700))
        ours.data_received(frame(http2.SETTINGS, 0, 0, settings))
        assert windows == [2699]

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            http2.PREFACE + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01",  # a frame of 16385 bytes
            http2.PREFACE + b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x",  # data of no stream
            http2.PREFACE + b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff",  # headers that are none
            http2.PREFACE + b"\x00\x00\x00\x01\x04\x00\x00\x00\x02",  # a server's number
            http2.PREFACE + b"\x00\x00\x00\x09\x04\x00\x00\x00\x01",  # a continuation of nothing
            http2.PREFACE + b"\x00\x00\x01\x04\x00\x00\x00\x00\x00x",  # a setting of one byte
            http2.PREFACE
            + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff" * 2,  # window past its end
        ],
    )
    async def test_what_breaks_the_protocol_ends_the_connection(self, data: bytes) -> None:
        fresh = http2.Connection(lambda stream: grpc.serve({}, stream))
        here, there = socket.socketpair()
        with there:
            here.setblocking(False)
            there.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: fresh, sock=here)
            await loop.sock_sendall(there, data)
            seen = b""
            while chunk := await loop.sock_recv(there, 65536):
                seen += chunk
        assert b"\x07\x00\x00\x00\x00\x00" in seen  # GOAWAY
        await fresh.closed


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class TestFloods:
    """A client that asks for much and reads little costs little, and is let go of."""

    @pytest.fixture
    def flood(self) -> Callable[..., Any]:
        """`flood(methods, data, reading)`: send it all; what comes until the end, where that is read."""
        ours: list[http2.Connection] = []

        async def send(methods: dict[str, grpc.Method], data: bytes, *, reading: bool = True) -> bytes:
            here, there = socket.socketpair()
            with there:
                for each in (here, there):
                    each.setblocking(False)
                loop = asyncio.get_running_loop()
                ours.append(http2.Connection(lambda stream: grpc.serve(methods, stream)))
                await loop.create_unix_connection(lambda: ours[-1], sock=here)
                sending = asyncio.ensure_future(loop.sock_sendall(there, http2.PREFACE + data))
                seen = b""
                if not reading:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        await sending
                with contextlib.suppress(ConnectionResetError):
                    while chunk := await loop.sock_recv(there, 65536):
                        seen += chunk
                await asyncio.gather(sending, return_exceptions=True)
                await ours[-1].closed
                return seen

        return send

    @pytest.mark.parametrize(
        "question",
        [frame(http2.SETTINGS, 0, 0), frame(http2.PING, 0, 0, b"12345678")],
        ids=["settings", "ping"],
    )
    async def test_answers_that_nobody_reads(self, flood: Callable[..., Any], question: bytes) -> None:
        seen = await flood({}, question * 400_000, reading=False)
        assert len(seen) < 1 << 20

    async def test_streams_that_are_reset_at_once(self, flood: Callable[..., Any]) -> None:
        running = most = 0

        async def stubborn(call: Call) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                running -= 1

        block = hpack.Encoder().encode([(":method", "POST"), (":path", "/m"), ("x", "y" * 50)], huffman=False)
        rapid = b"".join(
            frame(http2.HEADERS, http2.END_HEADERS, number, block)
            + frame(http2.RST_STREAM, 0, number, bytes(4))
            for number in range(1, 4001, 2)
        )
        end = frame(http2.DATA, 0, 0)
        seen = await flood({"/m": stubborn}, rapid + end)
        assert seen.count(frame(http2.RST_STREAM, 0, 1)[3:4]) > 0
        assert most <= http2.STREAMS_AT_ONCE
        assert running == 0

    async def test_a_header_block_without_end(self, flood: Callable[..., Any]) -> None:
        begun = frame(http2.HEADERS, 0, 1, b"x")
        for more in (b"", b"x" * 16384):
            seen = await flood({}, begun + frame(http2.CONTINUATION, 0, 1, more) * 1000)
            assert b"a header block is too large" in seen

    async def test_data_past_the_window(self, flood: Callable[..., Any]) -> None:
        async def never_reads(call: Call) -> None:
            await asyncio.get_running_loop().create_future()

        block = hpack.Encoder().encode([(":method", "POST"), (":path", "/m")])
        much = frame(http2.HEADERS, http2.END_HEADERS, 1, block) + frame(http2.DATA, 0, 1, bytes(16384)) * 65
        seen = await flood({"/m": never_reads}, much)
        assert b"more data than there is room for" in seen

    async def test_giant_messages_come_within_the_window(self, pair: Pair) -> None:
        sizes = []

        async def look(call: Call) -> None:
            sizes.extend([len(message) async for message in call.messages()])

        other = await pair({"/echo": look})
        other.state.send_headers(1, REQUEST)
        await other.send(1, framed(bytes(15_000_000)), end=True)
        assert await ended(other, 1) == {"grpc-status": "0"}
        assert sizes == [15_000_000]


class TestClient:
    """We call."""

    async def test_one_message_for_one(self, pair: Pair) -> None:
        other = await pair()
        asking = asyncio.create_task(grpc.ask(other.ours, "/m", b"question", [("key", "value")]))
        request = await other.of(h2.events.RequestReceived)
        assert ("key", "value") in request.headers
        await other.of(h2.events.StreamEnded)
        other.state.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        await other.send(1, framed(b"answer"))
        other.state.send_headers(1, [("grpc-status", "0")], end_stream=True)
        await other.flush()
        assert await asking == b"answer"
        assert other.data[1] == framed(b"question")

    async def test_a_failure_without_a_body(self, pair: Pair) -> None:
        other = await pair()
        asking = asyncio.create_task(grpc.ask(other.ours, "/m", b""))
        await other.of(h2.events.RequestReceived)
        headers = [(":status", "200"), ("grpc-status", "5"), ("grpc-message", "not%20here")]
        other.state.send_headers(1, headers, end_stream=True)
        await other.flush()
        with pytest.raises(CallFailed, match="not here") as caught:
            await asking
        assert caught.value.code == 5

    @pytest.mark.parametrize("status", ["\u00b2", "\u0665", "-1", "", "x"])
    async def test_a_status_that_is_no_number_is_unknown(self, pair: Pair, status: str) -> None:
        other = await pair()
        asking = asyncio.create_task(grpc.ask(other.ours, "/m", b""))
        await other.of(h2.events.RequestReceived)
        headers = [(":status", "200"), ("grpc-status", status), ("grpc-status-details-bin", "\u00e9")]
        other.state.send_headers(1, headers, end_stream=True)
        await other.flush()
        with pytest.raises(CallFailed) as caught:
            await asking
        assert (caught.value.code, caught.value.details) == (grpc.UNKNOWN, b"")

    async def test_a_reset_after_the_answer_changes_nothing(self, pair: Pair) -> None:
        """gRPC servers end a stream that they did not read to its end so."""
        other = await pair()

        async def read() -> list[bytes]:
            async with Calling(other.ours, "/m") as calling:
                return [message async for message in calling.messages()]

        reading = asyncio.create_task(read())
        await other.of(h2.events.RequestReceived)
        other.state.send_headers(1, [(":status", "200")])
        other.state.send_data(1, framed(b"all"))
        other.state.send_headers(1, [("grpc-status", "0")], end_stream=True)
        other.state.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
        await other.flush()
        assert await reading == [b"all"]

    async def test_a_call_on_a_connection_that_is_gone(self, pair: Pair) -> None:
        other = await pair()
        asking = asyncio.create_task(grpc.ask(other.ours, "/m", b""))
        await other.of(h2.events.RequestReceived)
        other.socket.close()
        with pytest.raises(StreamReset):
            await asking
        with pytest.raises(StreamReset):
            await grpc.ask(other.ours, "/m", b"")

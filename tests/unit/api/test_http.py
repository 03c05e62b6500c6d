"""HTTP/1.1 as it is on the wire: framing, keep-alive, pipelining, limits, and clients that misbehave."""

import asyncio
import json
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from fake_engine import FakeEngine
from raw_client import RawClient

from proa.api.server import Limits, Server, serve
from proa.errors import Conflict, InvalidParameter, System
from proa.schema.config import DaemonConfig

Connect = Callable[[], RawClient]


async def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    client = connect()
    await client.send(
        b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n"
        b"POST /containers/create?name=a HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b'Content-Length: 13\r\n\r\n{"Image":"b"}'
        b"GET /containers/a/json HTTP/1.1\r\nHost: p\r\n\r\n"
        b"GET /nosuch HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n"
    )
    answers = [await client.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 201, 200, 404]
    assert answers[3].headers["connection"] == "close"
    assert await client.read_all() == b""


async def test_many_pipelined_requests_do_not_pile_up(connect: Connect) -> None:
    client = connect()
    request = b"GET /_ping HTTP/1.1\r\nHost: p\r\nX-Filler: " + b"x" * 900 + b"\r\n\r\n"
    sending = asyncio.create_task(client.send(request * 500))
    for _ in range(500):
        assert (await client.answer()).body == b"OK"
    await sending


async def test_a_request_may_come_byte_by_byte(connect: Connect) -> None:
    client = connect()
    for byte in b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n":
        await client.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await client.answer()).body == b"OK"


@pytest.mark.parametrize("seed", range(10))
async def test_requests_may_be_split_anywhere(connect: Connect, engine: FakeEngine, seed: int) -> None:
    """Whatever the reads are, the answers are the same."""
    chance = random.Random(seed)
    data = (
        b"POST /containers/create?name=a HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b'Transfer-Encoding: chunked\r\n\r\n8;x=y\r\n{"Image"\r\n5\r\n:"b"}\r\n0\r\nX-T: 1\r\n\r\n'
        b"\r\nPOST /images/load HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: 5\r\n\r\nhijkl"
        b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n"
    )
    cuts = sorted(chance.sample(range(1, len(data)), chance.randint(1, 40)))
    client = connect()
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        await client.send(data[start:end])
        await asyncio.sleep(0)
    answers = [await client.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [201, 200, 200, 200]
    assert engine.images.loaded == b"abcdefghijkl"
    assert answers[3].body == b"OK"


async def test_chunked_json_body(connect: Connect) -> None:
    client = connect()
    head = (
        b"POST /containers/create?name=a HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    await client.send(head + b'8;x=y\r\n{"Image"\r\n5\r\n:"b"}\r\n0\r\nX-Trailer: 1\r\n\r\n')
    assert (await client.answer()).status == 201
    assert (await client.request("GET", "/_ping")).status == 200


async def test_continue_is_sent_when_the_body_is_wanted(connect: Connect) -> None:
    client = connect()
    await client.send(
        b"POST /containers/create HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 13\r\n\r\n"
    )
    assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b'{"Image":"b"}')
    assert (await client.answer()).status == 201


async def test_no_continue_for_a_body_that_is_too_large(connect: Connect) -> None:
    client = connect()
    await client.send(
        b"POST /containers/create HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert (await client.answer()).status == 413
    assert await client.read_all() == b""


async def test_a_body_over_the_cap_is_read_and_refused(connect: Connect, limits: Limits) -> None:
    client = connect()
    answer = await client.request("POST", "/containers/create", b"x" * (limits.body_bytes + 1))
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await client.read_all() == b""


async def test_http_1_0_closes_and_streams_without_chunks(connect: Connect) -> None:
    client = connect()
    await client.send(b"GET /_ping HTTP/1.0\r\n\r\n")
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (b"OK", "close")
    client = connect()
    await client.send(b"GET /images/a/get HTTP/1.0\r\n\r\n")
    head = await client.head()
    assert "transfer-encoding" not in head.headers
    assert (await client.read_all()).endswith(b"xend")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET  /_ping HTTP/1.1\r\nHost: p\r\n\r\n", 400),
        (b"GET _ping HTTP/1.1\r\nHost: p\r\n\r\n", 400),
        (b"GET /_ping HTTP/2.0\r\nHost: p\r\n\r\n", 505),
        (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: p\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nBad Name: 1\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\n folded\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nNoColon\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nX: a\nY: b\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nX: a\rY: b\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST /_ping HTTP/1.1\r\nHost: p\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400),
        (b"POST /_ping HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: p\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01", 400),  # a TLS client waits for an answer to its hello
    ],
)
async def test_malformed_requests_are_refused_and_cut(connect: Connect, data: bytes, status: int) -> None:
    client = connect()
    await client.send(data)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert "message" in json.loads(answer.body)
    assert await client.read_all() == b""


class TestBodies:
    """JSON in Docker's liberties."""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"{", "invalid JSON: unexpected EOF"),
            (b" ", "invalid JSON: got EOF while reading request body"),
            (b'{"Image":"a"} x', "unexpected content after JSON"),
            (b"{}", "config cannot be empty in order to create a container"),
            (b"", "config cannot be empty in order to create a container"),
        ],
    )
    async def test_bad_json(self, connect: Connect, body: bytes, message: str) -> None:
        answer = await connect().request("POST", "/containers/create", body)
        assert answer.status == 400
        assert json.loads(answer.body)["message"].startswith(message)

    async def test_nulls_and_words_as_go_clients_send_them(
        self, connect: Connect, engine: FakeEngine
    ) -> None:
        body = {
            "Image": "b",
            "Hostname": None,
            "Cmd": "date",
            "Entrypoint": None,
            "Env": None,
            "HostConfig": {"Memory": None, "Binds": None, "RestartPolicy": {"Name": None}},
        }
        answer = await connect().request("POST", "/containers/create", json.dumps(body).encode())
        assert answer.status == 201
        decoded = engine.containers.calls[0][2]
        assert (decoded.hostname, decoded.cmd, decoded.host_config.memory) == ("", ["date"], 0)

    @pytest.mark.parametrize(
        ("content_type", "message"),
        [
            ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
            (None, "malformed Content-Type header (): mime: no media type"),
        ],
    )
    async def test_content_type(self, connect: Connect, content_type: str | None, message: str) -> None:
        client = connect()
        header = f"Content-Type: {content_type}\r\n" if content_type else ""
        await client.send(
            f"POST /containers/create HTTP/1.1\r\nHost: p\r\n{header}Content-Length: 2\r\n\r\n{{}}".encode()
        )
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)) == (400, {"message": message})


class TestStreams:
    """Bodies and answers that are streamed."""

    async def test_an_empty_archive_is_a_stream_too(self, connect: Connect, engine: FakeEngine) -> None:
        client = connect()
        assert (await client.request("POST", "/images/load")).status == 200
        assert (await client.request("POST", "/images/create?fromSrc=-&repo=a&tag=b")).status == 200
        assert engine.images.calls == [("import", "", "a", "b", "Imported from -", (), "")]

    async def test_an_import_from_a_url(self, connect: Connect, engine: FakeEngine) -> None:
        for source, url in (("https%3A%2F%2Fh%2Fx%3Fy", "https://h/x?y"), ("h%2Fx", "http://h/x")):
            assert (await connect().request("POST", f"/images/create?fromSrc={source}")).status == 200
            assert engine.images.calls[-1][:2] == ("import", url)
            assert engine.images.calls[-1][4] == f"Imported from {unquote(source)}"

    async def test_load_takes_a_chunked_archive(self, connect: Connect, engine: FakeEngine) -> None:
        client = connect()
        await client.send(
            b"POST /images/load?quiet=1 HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"%x\r\n%b\r\n" % (100_000, b"t" * 100_000)
        for _ in range(20):
            await client.send(piece)
        await client.send(b"0\r\n\r\n")
        answer = await client.answer()
        assert json.loads(answer.body)["stream"] == "Loaded image: busybox:latest\n"
        assert len(engine.images.loaded) == 2_000_000
        assert (await client.request("GET", "/_ping")).status == 200

    async def test_a_slow_consumer_stops_the_reading(self, connect: Connect, engine: FakeEngine) -> None:
        engine.images.gate = asyncio.Event()
        client = connect()
        size = 32 * 1024 * 1024
        await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.send(b"t" * size))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sending.done()
        engine.images.gate.set()
        await sending
        assert (await client.answer()).status == 200
        assert len(engine.images.loaded) == size

    async def test_an_early_failure_of_load_has_a_status(self, connect: Connect) -> None:
        client = connect()
        body = b"bad" + b"x" * 3_000_000
        await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(body))
        await client.send(body)
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)) == (400, {"message": "invalid tar header"})
        assert (await client.request("GET", "/_ping")).status == 200

    async def test_a_late_failure_of_load_is_told_in_the_stream(self, connect: Connect) -> None:
        client = connect()
        await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: 4\r\n\r\nlate")
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body.splitlines()[-1]) == {
            "errorDetail": {"message": "archive ends early"},
            "error": "archive ends early",
        }

    async def test_a_client_that_leaves_during_load_fails_its_body(
        self, connect: Connect, engine: FakeEngine, server: Server
    ) -> None:
        client = connect()
        await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: 9\r\n\r\nabc")
        client.half_close()
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)) == (400, {"message": "unexpected EOF"})
        assert await client.read_all() == b""

    async def test_malformed_chunks_fail_the_body(self, connect: Connect) -> None:
        client = connect()
        await client.send(
            b"POST /images/load HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX"
        )
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)) == (400, {"message": "invalid chunk"})
        assert await client.read_all() == b""

    async def test_save_streams_in_chunks(self, connect: Connect, engine: FakeEngine) -> None:
        client = connect()
        answer = await client.request("GET", "/images/get?names=a&names=b")
        assert answer.headers["content-type"] == "application/x-tar"
        assert answer.body == b"".join(engine.images.saved)
        assert engine.images.calls == [("save", ("a", "b"))]
        assert (await client.request("GET", "/images/nosuch/get")).status == 404

    async def test_a_client_that_leaves_ends_its_stream(self, connect: Connect, engine: FakeEngine) -> None:
        client = connect()
        await client.send(b"GET /events HTTP/1.1\r\nHost: p\r\n\r\n")
        await client.head()
        await client.chunk()
        client.close()
        await asyncio.wait_for(engine.system.events_closed.wait(), 30)

    async def test_a_client_that_does_not_read_holds_its_source(
        self, connect: Connect, engine: FakeEngine
    ) -> None:
        engine.images.saved = [b"x" * 65536] * 1000
        client = connect()
        taken = 0

        async def archive() -> object:
            nonlocal taken
            for chunk in engine.images.saved:
                taken += 1
                yield chunk

        engine.images._archive = archive  # type: ignore[method-assign]
        await client.send(b"GET /images/a/get HTTP/1.1\r\nHost: p\r\n\r\n")
        await client.head()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert taken < 100
        total = 0
        while chunk := await client.chunk():
            total += len(chunk)
        assert total == 65536 * 1000


class TestDeadlines:
    """Clients that hold a connection and say nothing."""

    @pytest.fixture
    def limits(self, request: pytest.FixtureRequest) -> Limits:
        return Limits(**dict(request.param))

    @pytest.mark.parametrize("limits", [{"head_timeout": 0.02, "body_timeout": 0.02}], indirect=True)
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"GET /_ping HT",
            b"POST /containers/create HTTP/1.1\r\nHost: p\r\nContent-Length: 9\r\n\r\n{",
        ],
    )
    async def test_a_slow_request_is_cut(self, connect: Connect, data: bytes) -> None:
        client = connect()
        await client.send(data)
        assert await client.read_all() == b""

    @pytest.mark.parametrize("limits", [{"head_timeout": 5, "body_timeout": 0.02}], indirect=True)
    async def test_a_slow_body_is_cut(self, connect: Connect) -> None:
        client = connect()
        assert (await client.request("GET", "/_ping")).status == 200
        await client.send(b"POST /images/load HTTP/1.1\r\nHost: p\r\nContent-Length: 9\r\n\r\nabc")
        await client.read_all()

    @pytest.mark.parametrize("limits", [{"idle_timeout": 0.02}], indirect=True)
    async def test_an_idle_connection_is_closed(self, connect: Connect) -> None:
        client = connect()
        assert (await client.request("GET", "/_ping")).status == 200
        assert await client.read_all() == b""

    @pytest.mark.parametrize("limits", [{"body_timeout": 0.01, "idle_timeout": 0.01}], indirect=True)
    async def test_a_stream_outlives_them(self, connect: Connect) -> None:
        client = connect()
        await client.send(b"GET /events HTTP/1.1\r\nHost: p\r\n\r\n")
        await client.head()
        await client.chunk()
        await client.chunk()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.chunk(), 0.05)


class TestCaps:
    """One client cannot take every connection."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(connections_per_client=2)

    async def test_connections_over_the_cap_are_turned_away(self, connect: Connect) -> None:
        first, second, third = connect(), connect(), connect()
        assert (await first.request("GET", "/_ping")).status == 200
        assert (await second.request("GET", "/_ping")).status == 200
        answer = await third.request("GET", "/_ping")
        assert (answer.status, json.loads(answer.body)) == (503, {"message": "too many connections"})
        first.close()
        assert (await second.request("GET", "/_ping")).status == 200
        assert (await connect().request("GET", "/_ping")).status == 200


class TestSockets:
    """The socket file."""

    async def test_mode_and_removal(self, server: Server, address: Path) -> None:
        assert stat.S_IMODE(address.stat().st_mode) == 0o600
        await server.close()
        assert not address.exists()

    async def test_group(self, address: Path) -> None:
        group = os.getgid()
        server = await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",), group=str(group)))
        assert stat.S_IMODE(address.stat().st_mode) == 0o660
        await server.close()

    async def test_unknown_group(self, address: Path) -> None:
        with pytest.raises(InvalidParameter, match="group nosuchgroup not found"):
            await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",), group="nosuchgroup"))
        assert not address.exists()

    async def test_a_live_socket_is_left_alone(self, server: Server, address: Path) -> None:
        with pytest.raises(Conflict, match="another daemon is listening"):
            await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",)))
        assert address.exists()

    async def test_a_dead_socket_is_replaced(self, address: Path) -> None:
        first = await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",)))
        first._paths.clear()  # as if it had been killed
        await first.close()
        assert address.exists()
        second = await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",)))
        await second.close()

    async def test_a_file_that_is_no_socket_is_left_alone(self, address: Path) -> None:
        address.write_text("mine")
        with pytest.raises(Conflict, match="is no socket"):
            await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}",)))
        assert address.read_text() == "mine"

    async def test_a_missing_directory(self, address: Path) -> None:
        with pytest.raises(System, match="failed to listen"):
            await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{address}/x/y",)))

    @pytest.mark.parametrize("host", ["x", "http://x", "tcp://127.0.0.1", "tcp://127.0.0.1:x"])
    async def test_bad_addresses(self, host: str) -> None:
        with pytest.raises(InvalidParameter):
            await serve(FakeEngine(), DaemonConfig(hosts=(host,)))

    async def test_closing_lets_a_plain_answer_finish(
        self, connect: Connect, server: Server, engine: FakeEngine
    ) -> None:
        client, streaming = connect(), connect()
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def slow(ref: str, name: str) -> None:
            reached.set()
            await go_on.wait()

        engine.containers.rename = slow  # type: ignore[method-assign]
        await client.send(b"POST /containers/one/rename?name=two HTTP/1.1\r\nHost: p\r\n\r\n")
        await streaming.send(b"GET /events HTTP/1.1\r\nHost: p\r\n\r\n")
        await streaming.head()
        await reached.wait()
        closing = asyncio.create_task(server.close())
        await streaming.read_all()
        go_on.set()
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (204, "close")
        await closing

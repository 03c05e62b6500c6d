"""Bytes of a peer, read as HTTP or refused: what the client takes for an answer."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from proa.registry.connection import BUFFER_MAX, HEAD_MAX, Broken, Connection
from proa.registry.origin import Origin
from proa.registry.pool import NoConnection, Pool, Route
from proa.registry.proxies import Proxies
from proa.registry.response import TooLarge, receive
from proa.registry.tls import TLSSettings


class FakeTransport(asyncio.Transport):
    """What the loop would do, written down."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def connected(*parts: bytes, end: bool = False) -> tuple[Connection, FakeTransport]:
    """A connection that these bytes have come over, and its end."""
    connection, transport = Connection(), FakeTransport()
    connection.connection_made(transport)
    for part in parts:
        connection.data_received(part)
    if end:
        connection.eof_received()
        connection.connection_lost(None)
    return connection, transport


async def whole(
    data: bytes, *, bodiless: bool = False, end: bool = False, piece: int = 0
) -> tuple[int, bytes]:
    """(status, body) of an answer that comes in pieces."""
    parts = [data[i : i + piece] for i in range(0, len(data), piece)] if piece else [data]
    connection, _ = connected(*parts, end=end)
    response = await receive(connection, bodiless=bodiless)
    return response.status, await response.read(1000)


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize(
    ("data", "end", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, (200, b"hello")),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", False, (200, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b"")),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", True, (200, b"hello")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n",
            False,
            (200, b"hello"),
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n"
            b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx",
            False,
            (201, b"x"),
        ),
    ],
)
async def test_answers(data: bytes, end: bool, found: tuple[int, bytes], piece: int) -> None:
    assert await whole(data, end=end, piece=piece) == found


async def test_no_body_after_head() -> None:
    assert await whole(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", bodiless=True) == (200, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (HEAD_MAX + 10),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"",
    ],
)
async def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(Broken):
        await whole(data, end=True)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 2000", b"Transfer-Encoding: chunked"], ids=["by length", "in chunks"]
)
async def test_a_body_that_is_too_large(head: bytes) -> None:
    body = b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n" if b"chunked" in head else b"x" * 2000
    with pytest.raises(TooLarge):
        await whole(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)


async def test_a_reset_is_no_end_of_a_body() -> None:
    connection, _ = connected(b"HTTP/1.0 200 OK\r\n\r\nhel")
    response = await receive(connection)
    connection.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    assert await response.some() == b"hel"
    with pytest.raises(Broken, match="connection reset by peer"):
        await response.some()


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 forged", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", True),
    ],
)
async def test_which_connections_are_kept(answer: bytes, kept: bool) -> None:
    connection, transport = connected(answer)
    response = await receive(connection)
    taken: list[Connection] = []
    response.keep = taken.append
    assert await response.read(10) == b"x"
    response.close()
    assert (taken == [connection], transport.aborted) == (kept, not kept)


async def test_an_unread_body_costs_the_connection() -> None:
    connection, transport = connected(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx")
    response = await receive(connection)
    response.keep = lambda _: pytest.fail("kept")
    response.close()
    assert transport.aborted


async def test_reading_pauses_while_nobody_reads() -> None:
    connection, transport = connected(b"x" * BUFFER_MAX)
    assert transport.reading
    connection.data_received(b"y")
    assert not transport.reading
    assert len(await connection.some()) == BUFFER_MAX
    assert transport.reading


async def test_small_reads_are_joined() -> None:
    connection, _ = connected(*[b"x" * 1400] * 10)
    assert await connection.some() == b"x" * 14_000


async def test_a_body_waits_for_the_kernel_and_stops_at_an_early_answer() -> None:
    connection, transport = connected()
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        connection.pause_writing()
        sent.set()
        yield b"two"
        connection.data_received(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
        yield b"three"

    sending = asyncio.ensure_future(connection.send(b"HEAD", body()))
    await sent.wait()
    assert not sending.done()
    connection.resume_writing()
    assert await sending is False
    assert transport.written == b"HEADonetwo"
    assert (await receive(connection)).status == 413


async def test_an_early_answer_does_not_wait_for_the_kernel() -> None:
    connection, _ = connected()
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        connection.pause_writing()
        sent.set()
        yield b"one"
        yield b"two"

    sending = asyncio.ensure_future(connection.send(b"HEAD", body()))
    await sent.wait()
    connection.data_received(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
    assert await sending is False


async def test_a_dial_given_up_during_its_lookup_leaves_no_failure_behind() -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    pool = Pool(Proxies())
    route = Route(Origin("https", "nosuch.invalid", 443), TLSSettings())
    dials = [asyncio.ensure_future(pool.take(route)) for _ in range(8)]
    await asyncio.sleep(0)  # all have begun
    for dial in dials:
        dial.cancel()
    await asyncio.wait(dials)
    del dial
    dials.clear()
    # The lookups that are left come back before one that begins now.
    await asyncio.gather(*(asyncio.get_running_loop().getaddrinfo("localhost", 1) for _ in range(8)))
    gc.collect()
    assert told == []


async def test_a_host_that_no_name_can_be() -> None:
    with pytest.raises(NoConnection, match="no such host"):
        await Pool(Proxies()).take(Route(Origin("https", "x" * 64, 443), TLSSettings()))

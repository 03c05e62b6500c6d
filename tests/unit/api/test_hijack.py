"""Attach and exec take the connection out of HTTP, whatever the client has sent by then."""

import json
from collections.abc import Callable

import pytest
from fake_containers import frame
from fake_engine import FakeEngine
from raw_client import RawClient

from proa.api.server import Server

Connect = Callable[[], RawClient]

UPGRADE = b"Host: p\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
ATTACH = b"POST /v1.51/containers/one/attach?stream=1&stdin=1&stdout=1&stderr=1"


@pytest.fixture
async def client(connect: Connect) -> RawClient:
    client = connect()
    await client.request("POST", "/containers/create?name=one", b'{"Image":"b"}')
    await client.request("POST", "/containers/create?name=tty", b'{"Image":"b","Tty":true}')
    return client


async def test_attach_upgrades_and_half_closes(client: RawClient, engine: FakeEngine) -> None:
    await client.send(ATTACH + b" HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 0\r\n\r\n")
    head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: 1.51\r\n"
    )
    # An answer of this length fills a send buffer made narrow, so that the keeper can tell when it is read.
    assert len(head) > 192
    await client.send(b"hello")
    assert await client.read_exactly(13) == frame(1, b"hello")
    client.half_close()
    assert await client.read_all() == frame(2, b"eof")
    options = engine.containers.calls[-1][2]
    assert (options.stdin, options.stdout, options.stderr, options.stream, options.logs) == (
        True,
        True,
        True,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("version", "name", "content_type"),
    [
        ("1.42", "one", b"multiplexed-stream"),
        ("1.41", "one", b"raw-stream"),
        ("1.51", "tty", b"raw-stream"),
    ],
)
async def test_the_stream_is_typed_by_version_and_tty(
    client: RawClient, version: str, name: str, content_type: bytes
) -> None:
    target = f"POST /v{version}/containers/{name}/attach?stream=1 HTTP/1.1\r\n"
    await client.send(target.encode() + UPGRADE + b"\r\n")
    assert content_type in await client.read_until(b"\r\n\r\n")


async def test_input_sent_ahead_reaches_the_new_owner(client: RawClient) -> None:
    await client.send(ATTACH + b" HTTP/1.1\r\n" + UPGRADE + b"\r\n" + b"GET /ahead")
    await client.read_until(b"\r\n\r\n")
    assert await client.read_exactly(18) == frame(1, b"GET /ahead")


async def test_without_upgrade_the_answer_is_200_and_input_ahead_is_kept(client: RawClient) -> None:
    await client.send(ATTACH + b" HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\n\r\nahead")
    head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nApi-Version: "
    )
    assert await client.read_exactly(13) == frame(1, b"ahead")


async def test_a_refused_attach_is_plain_http(client: RawClient) -> None:
    await client.send(b"POST /containers/nosuch/attach HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    answer = await client.answer()
    assert (answer.status, json.loads(answer.body)) == (404, {"message": "No such container: nosuch"})
    assert (await client.request("GET", "/_ping")).status == 200


async def test_exec_start_reads_its_body_before_it_upgrades(client: RawClient, engine: FakeEngine) -> None:
    created = await client.request("POST", "/containers/one/exec", b'{"Cmd":["cat"],"AttachStdin":true}')
    exec_id = json.loads(created.body)["Id"]
    body = b'{"Detach":false,"Tty":false,"ConsoleSize":null}'
    await client.send(
        f"POST /exec/{exec_id}/start HTTP/1.1\r\n".encode()
        + UPGRADE
        + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
        + b"ahead"
    )
    assert b"101 UPGRADED" in await client.read_until(b"\r\n\r\n")
    assert await client.read_exactly(13) == frame(1, b"ahead")
    client.half_close()
    assert await client.read_all() == frame(2, b"eof")
    assert engine.execs.started[0][2] is True


async def test_an_exec_that_is_created_to_be_started_upgrades_at_once(
    client: RawClient, engine: FakeEngine
) -> None:
    body = b'{"Cmd":["cat"],"AttachStdin":true}'
    await client.send(
        b"POST /v1.51/containers/one/exec?start=1 HTTP/1.1\r\n"
        + UPGRADE
        + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
        + b"ahead"
    )
    head = await client.read_until(b"\r\n\r\n")
    [exec_id] = engine.execs.bodies
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert f"\r\nLocation: /exec/{exec_id}\r\n".encode() in head
    assert await client.read_exactly(13) == frame(1, b"ahead")
    client.half_close()
    assert await client.read_all() == frame(2, b"eof")
    assert engine.execs.started[0][2] is True


async def test_an_exec_that_cannot_be_created_is_not_upgraded(client: RawClient, engine: FakeEngine) -> None:
    for name, body, status in (("nosuch", b'{"Cmd":["cat"]}', 404), ("one", b'{"Cmd":[]}', 400)):
        await client.send(
            f"POST /containers/{name}/exec?start=1 HTTP/1.1\r\n".encode()
            + UPGRADE
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        assert (await client.answer()).status == status
    assert engine.execs.started == []
    assert (await client.request("GET", "/_ping")).status == 200


async def test_a_detached_exec_is_plain_http(client: RawClient, engine: FakeEngine) -> None:
    created = await client.request("POST", "/containers/one/exec", b'{"Cmd":["true"]}')
    exec_id = json.loads(created.body)["Id"]
    assert (await client.request("POST", f"/exec/{exec_id}/start", b'{"Detach":true}')).status == 200
    assert engine.execs.started[0][2] is False
    assert json.loads((await client.request("GET", f"/exec/{exec_id}/json")).body)["ExitCode"] == 0
    assert (await client.request("POST", f"/exec/{exec_id}/resize?h=2&w=x")).status == 400
    refused = await client.request("POST", "/containers/one/exec", b'{"Cmd":[]}')
    assert (refused.status, json.loads(refused.body)) == (400, {"message": "No exec command specified"})


async def test_a_hijacked_connection_outlives_the_server(client: RawClient, server: Server) -> None:
    await client.send(ATTACH + b" HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    await client.read_until(b"\r\n\r\n")
    await server.close()
    await client.send(b"still")
    assert await client.read_exactly(13) == frame(1, b"still")


async def test_the_server_forgets_a_hijacked_connection(client: RawClient, server: Server) -> None:
    await client.send(ATTACH + b" HTTP/1.1\r\n" + UPGRADE + b"\r\n")
    await client.read_until(b"\r\n\r\n")
    assert server.connections == 0

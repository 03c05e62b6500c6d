"""tcp with mutual TLS: who is let in, and half-close of hijacked connections."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_containers import frame
from fake_engine import FakeEngine

from proa.api.server import Limits, Server, serve
from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


PING = b"GET /_ping HTTP/1.1\r\nHost: p\r\n\r\n"


def openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def make_certificate(directory: Path, name: str, *signer: str) -> None:
    openssl(
        directory,
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem", *signer),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, a server and a client that it signed, and a stranger."""
    directory = tmp_path_factory.mktemp("tls")
    make_certificate(directory, "ca")
    make_certificate(directory, "stranger")
    for name in ("server", "client"):
        make_certificate(directory, name, "-CA", "ca.pem", "-CAkey", "ca.key")
    return directory


@pytest.fixture
def config(certificates: Path) -> DaemonConfig:
    return DaemonConfig(
        hosts=("tcp://127.0.0.1:0",),
        tlsverify=True,
        tlscacert=str(certificates / "ca.pem"),
        tlscert=str(certificates / "server.pem"),
        tlskey=str(certificates / "server.key"),
    )


@pytest.fixture
async def port(config: DaemonConfig) -> AsyncIterator[int]:
    server = await serve(FakeEngine(), config, Limits(head_timeout=5))
    yield port_of(server)
    await server.close()


def port_of(server: Server) -> int:
    return int(server.addresses[0].rpartition(":")[2])


class TlsClient:
    """TLS over memory BIOs, since Python's sockets cannot half-close it."""

    def __init__(self, certificates: Path, name: str | None) -> None:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        if name is not None:
            context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def connect(self, port: int) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", port))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, self._outgoing.read())

    async def _receive(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def half_close(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self._flush()

    async def read(self) -> bytes:
        """Some bytes; empty when the server has said that it ends."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    async def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            piece = await self.read()
            assert piece, data
            data += piece
        return data

    async def ping(self, port: int) -> bytes:
        await self.connect(port)
        await self.send(PING)
        return await self.read()

    def close(self) -> None:
        self._socket.close()


async def test_a_known_client_is_served(certificates: Path, port: int) -> None:
    client = TlsClient(certificates, "client")
    await client.connect(port)
    for _ in range(3):
        await client.send(PING)
        assert await client.read_until(b"OK")
    await client.send(b"GET /images/a/get HTTP/1.1\r\nHost: p\r\n\r\n")
    assert len(await client.read_until(b"\r\n0\r\n\r\n")) > 200_000
    client.close()


@pytest.mark.parametrize("name", [None, "stranger"])
async def test_other_clients_are_not(certificates: Path, port: int, name: str | None) -> None:
    client = TlsClient(certificates, name)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await client.ping(port)
    client.close()


async def attached(certificates: Path, port: int) -> TlsClient:
    client = TlsClient(certificates, "client")
    await client.connect(port)
    await client.send(
        b"POST /containers/create?name=one HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\n"
        b'Content-Length: 13\r\n\r\n{"Image":"b"}'
    )
    await client.read_until(b"}\n")
    await client.send(
        b"POST /containers/one/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: p\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nahead"
    )
    assert b"101 UPGRADED" in await client.read_until(frame(1, b"ahead"))
    return client


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
async def test_plain_http_is_told_so(port: int, method: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} /_ping HTTP/1.1\r\nHost: p\r\n\r\n".encode())
    assert await reader.read() == (
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    )
    writer.close()
    await writer.wait_closed()


async def test_attach_half_closes(certificates: Path, port: int) -> None:
    client = await attached(certificates, port)
    await client.send(b"hello")
    assert await client.read_until(b"hello") == frame(1, b"hello")
    await client.half_close()
    assert await client.read_until(b"eof") == frame(2, b"eof")
    assert await client.read() == b""
    client.close()


async def test_attach_of_a_slow_reader_loses_nothing(certificates: Path, port: int) -> None:
    client = await attached(certificates, port)
    piece = b"x" * 60_000
    sending = asyncio.create_task(send_all(client, piece, 200))
    received = 0
    while received < 200 * len(piece):
        data = await client.read()
        assert data
        received += data.count(b"x")
    await sending
    client.close()


async def send_all(client: TlsClient, piece: bytes, times: int) -> None:
    for _ in range(times):
        await client.send(piece)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tlscert": ""}, "tls needs tlscert and tlskey"),
        ({"tlscacert": ""}, "tlsverify needs tlscacert"),
        ({"tlskey": "/nosuch"}, "could not load the TLS certificate and key"),
    ],
)
async def test_bad_settings(config: DaemonConfig, changes: dict[str, str], message: str) -> None:
    settings = {
        name: getattr(config, name) for name in ("hosts", "tlsverify", "tlscacert", "tlscert", "tlskey")
    }
    with pytest.raises(InvalidParameter, match=message):
        await serve(FakeEngine(), DaemonConfig(**{**settings, **changes}))


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
async def test_the_docker_cli(certificates: Path, port: int, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("docker", f"--config={tmp_path}", f"--host=tcp://127.0.0.1:{port}", "--tlsverify"),
        *(f"--tlscacert={certificates}/ca.pem", f"--tlscert={certificates}/client.pem"),
        *(f"--tlskey={certificates}/client.key", "version", "--format", "{{.Server.Version}}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert output == b"28.0.0\n"

"""A client of BuildKit's protocol, as buildx is: a session that serves directories and secrets, and calls."""

import asyncio
import hashlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from proa.buildkit import grpc, messages
from proa.buildkit.filesync import DATA, FIN, REQ, STAT
from proa.buildkit.grpc import Call, CallFailed
from proa.buildkit.http2 import Connection
from proa.buildkit.outputs import walk

GATEWAY = "/moby.buildkit.v1.frontend.LLBBridge/"
CONTROL = "/moby.buildkit.v1.Control/"


class Client:
    """One build's two connections."""

    def __init__(self, address: str, directories: Mapping[str, Path], known: Mapping[str, bytes]) -> None:
        self._address = address
        self._directories = directories
        self._secrets = known
        self._connections: list[Connection] = []
        self.id = secrets.token_hex(8)
        self.shared_key = ""
        """What it keeps its directories at the daemon by; empty for a client without."""
        self.begun = asyncio.Event()
        """The daemon has asked for a directory."""
        self.asked: list[dict[str, list[str]]] = []
        """The metadata of each request for a directory."""
        self.sent: list[str] = []
        """The files that were asked for."""
        self.received: dict[str, bytes] = {}
        """Files that came as an output, by path."""
        self.exporters: list[str] = []
        """The numbers of the outputs that came."""
        self.follows = True
        """Only what is asked for by name is sent, as buildx does; else everything always is."""
        self.archive = b""
        """An archive that came as an output."""
        self.wants_archive = False
        self.stores: dict[str, dict[str, bytes]] = {}
        """Blobs by digest, by store."""
        self._methods: dict[str, grpc.Method] = {
            "/moby.filesync.v1.FileSync/DiffCopy": self._send_directory,
            "/moby.filesync.v1.FileSend/DiffCopy": self._receive,
            "/containerd.services.content.v1.Content/Read": self._read_blob,
            "/containerd.services.content.v1.Content/Write": self._write_blob,
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": self._secret,
        }

    async def open(self) -> None:
        """Begin the session, then the calls' connection."""
        head = f"X-Docker-Expose-Session-Uuid: {self.id}\r\n"
        head += f"X-Docker-Expose-Session-Sharedkey: {self.shared_key}\r\n" if self.shared_key else ""
        head += "".join(f"X-Docker-Expose-Session-Grpc-Method: {name}\r\n" for name in self._methods)
        await self._upgrade("/session", head, Connection(partial(grpc.serve, self._methods)))
        self.calls = Connection()
        await self._upgrade("/grpc", "", self.calls)

    async def close(self) -> None:
        """End both."""
        for connection in self._connections:
            connection.close()
            await connection.closed

    async def _upgrade(self, path: str, head: str, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        ours = socket.socket(socket.AF_UNIX)
        ours.setblocking(False)
        await loop.sock_connect(ours, self._address)
        request = f"POST {path} HTTP/1.1\r\nHost: p\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{head}\r\n"
        await loop.sock_sendall(ours, request.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await loop.sock_recv(ours, 1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        await loop.create_unix_connection(lambda: connection, sock=ours)
        self._connections.append(connection)

    # ---- what is asked of the daemon -----------------------------------------------------------------

    async def ask(self, path: str, request: Any, answer: Any, *metadata: tuple[str, str]) -> Any:
        return answer.FromString(await grpc.ask(self.calls, path, request.SerializeToString(), metadata))

    def begin(self, ref: str, **fields: Any) -> "asyncio.Future[Any]":
        """A job of this ref by Control.Solve: its answer, which comes when the job is over."""
        asked = messages.ControlSolveRequest(Ref=ref, Session=self.id, **fields)
        return asyncio.ensure_future(self.ask(f"{CONTROL}Solve", asked, messages.ControlSolveResponse))

    async def build(
        self, options: Mapping[str, str], exporter: str = "moby", *, fields: Any = None, **attributes: str
    ) -> dict[str, str]:
        """As buildx does: a solve that waits, the gateway's, and its return. Raises CallFailed.

        `fields` are the solve's, beside those of one exporter.
        """
        ref = secrets.token_hex(8)
        named = {name.replace("_", "-"): value for name, value in attributes.items()}
        exporters = {"ExporterDeprecated": exporter, "ExporterAttrsDeprecated": named}
        solving = self.begin(ref, **exporters, **(fields or {}))
        told = asyncio.ensure_future(self.status(ref))
        build_id = ("buildkit-controlapi-buildid", ref)
        request = messages.SolveRequest(Frontend="dockerfile.v0", FrontendOpt=options)
        returned = messages.ReturnRequest()
        try:
            try:
                await self.ask(f"{GATEWAY}Solve", request, messages.SolveResponse, build_id)
            except CallFailed as exc:
                returned.error.ParseFromString(exc.details)
                returned.error.code, returned.error.message = exc.code, str(exc)
            await self.ask(f"{GATEWAY}Return", returned, messages.ReturnRequest, build_id)
            self.told = await told
            return dict((await solving).ExporterResponse)
        finally:
            for task in (solving, told):
                task.cancel()
            await asyncio.gather(solving, told, return_exceptions=True)

    async def status(self, ref: str) -> list[Any]:
        """All that a build tells."""
        request = messages.StatusRequest(Ref=ref).SerializeToString()
        async with grpc.Calling(self.calls, f"{CONTROL}Status") as calling:
            await calling.send(request)
            calling.end()
            return [messages.StatusResponse.FromString(message) async for message in calling.messages()]

    # ---- what the daemon asks for --------------------------------------------------------------------

    async def _send_directory(self, call: Call) -> None:
        keys = ("dir-name", "exclude-patterns", "followpaths")
        wish = {key: call.metadata(key) for key in keys}
        self.asked.append(wish)
        self.begun.set()
        root = self._directories[wish["dir-name"][0]]
        found = [
            (path, told)
            for path, told in walk(str(root))
            if told.path not in wish["exclude-patterns"]
            and (not (wish["followpaths"] and self.follows) or told.path in wish["followpaths"])
        ]
        for _, told in found:
            await call.send(messages.Packet(type=STAT, stat=told).SerializeToString())
        await call.send(messages.Packet(type=STAT).SerializeToString())
        async for message in call.messages():
            packet = messages.Packet.FromString(message)
            if packet.type == FIN:
                await call.send(messages.Packet(type=FIN).SerializeToString())
                return
            self.sent.append(found[packet.ID][0])
            content = Path(found[packet.ID][0]).read_bytes()
            for piece in (content, b""):
                await call.send(messages.Packet(type=DATA, ID=packet.ID, data=piece).SerializeToString())

    async def _receive(self, call: Call) -> None:
        self.exporters += call.metadata("buildkit-attachable-exporter-id")
        if self.wants_archive:
            async for message in call.messages():
                self.archive += messages.BytesMessage.FromString(message).data
            return
        paths: list[str] = []
        wanted: dict[int, bytes] = {}
        async for message in call.messages():
            packet = messages.Packet.FromString(message)
            if packet.type == DATA and packet.data:
                wanted[packet.ID] += packet.data
            elif packet.type == DATA:
                self.received[paths[packet.ID]] = wanted.pop(packet.ID)
                if not wanted:
                    await call.send(messages.Packet(type=FIN).SerializeToString())
            elif packet.type == STAT and packet.HasField("stat"):
                paths.append(packet.stat.path)
                if not packet.stat.mode >> 12 and not packet.stat.linkname:
                    wanted[len(paths) - 1] = b""
            elif packet.type == STAT:
                for number in wanted:
                    await call.send(messages.Packet(type=REQ, ID=number).SerializeToString())
            elif packet.type == FIN:
                return

    async def _read_blob(self, call: Call) -> None:
        asked = messages.ReadContentRequest.FromString(await call.message())
        (store,) = call.metadata("buildkit-attachable-store-id")
        found = self.stores[store].get(asked.digest)
        if found is None:
            raise CallFailed(grpc.NOT_FOUND, f"content {asked.digest}: not found")
        for start in range(0, len(found), 1000):
            answer = messages.ReadContentResponse(offset=start, data=found[start : start + 1000])
            await call.send(answer.SerializeToString())

    async def _write_blob(self, call: Call) -> None:
        (store,) = call.metadata("buildkit-attachable-store-id")
        data = b""
        async for message in call.messages():
            asked = messages.WriteContentRequest.FromString(message)
            if asked.expected in self.stores[store]:
                raise CallFailed(6, f"content {asked.expected}: already exists")
            assert asked.offset in (0, len(data))
            data += asked.data
            if asked.action == 2:
                assert len(data) == asked.total
                assert asked.expected == f"sha256:{hashlib.sha256(data).hexdigest()}"
                self.stores[store][asked.expected] = data
            await call.send(b"\x08\x01")

    async def _secret(self, call: Call) -> None:
        asked = messages.GetSecretRequest.FromString(await call.message())
        if asked.ID not in self._secrets:
            raise CallFailed(grpc.NOT_FOUND, f"secret {asked.ID} not found")
        await call.send(messages.GetSecretResponse(data=self._secrets[asked.ID]).SerializeToString())


@asynccontextmanager
async def client(
    address: str,
    context: Path,
    known: Mapping[str, bytes] | None = None,
    *,
    shared_key: str = "key",
    **directories: Path,
) -> AsyncIterator[Client]:
    """A client whose context and Dockerfile are in one directory."""
    made = Client(address, {"context": context, "dockerfile": context, **directories}, known or {})
    made.shared_key = shared_key
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def write_files(directory: Path, files: Mapping[str, str]) -> Path:
    """Files by path below a directory."""
    for name, text in files.items():
        path = directory / name
        os.makedirs(path.parent, exist_ok=True)
        path.write_text(text)
    return directory

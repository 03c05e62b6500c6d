"""A Docker API server that records what a client sends and answers from a table: for tests of the CLI alone.

It speaks just enough HTTP/1.1 for one client: keep-alive, bodies by length or in chunks, hijacked streams.
"""

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTAINER_ID = "c" * 64
EXEC_ID = "e" * 64


@dataclass
class Request:
    """One request as it came in; `path` is without the version and the query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    version: str = ""

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class Answer:
    """What to send back; `stream` takes the raw socket over instead."""

    status: int = 200
    body: Any = None
    stream: Callable[[socket.socket], None] | None = None
    content_type: str = "application/json"
    head_first: bool = False
    """Send the head, then `gate` is waited for, then the body (as /wait does)."""
    gate: threading.Event | None = None
    location: str = ""
    """What a stream's head says was made."""


def frame(stream: int, data: bytes) -> bytes:
    """One frame of Docker's multiplexed stream."""
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@dataclass
class FakeDaemon:
    """The server; `routes` maps (method, path regex) to an Answer or a function of the request."""

    socket_path: Path
    routes: list[tuple[str, str, Answer | Callable[[Request], Answer]]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    max_version: str = "1.51"
    tcp: bool = False
    """Listen on a port of 127.0.0.1 instead."""

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_INET if self.tcp else socket.AF_UNIX)
        self._listener.bind(("127.0.0.1", 0) if self.tcp else str(self.socket_path))
        self._listener.listen(64)
        self._lock = threading.Lock()
        self._closing = False
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def host(self) -> str:
        """Its DOCKER_HOST."""
        return (
            f"tcp://127.0.0.1:{self._listener.getsockname()[1]}" if self.tcp else f"unix://{self.socket_path}"
        )

    def on(self, method: str, path: str, answer: Answer | Callable[[Request], Answer]) -> None:
        """Answer `method` on paths that match `path`; the latest rule wins."""
        self.routes.insert(0, (method, path, answer))

    def find(self, method: str, path: str) -> Request:
        """The last request with this method whose path matches."""
        found = [r for r in self.requests if r.method == method and re.fullmatch(path, r.path)]
        assert found, f"no {method} {path} among {[(r.method, r.path) for r in self.requests]}"
        return found[-1]

    def close(self) -> None:
        """Stop listening, end every connection and join the threads."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for connection in self._connections:
            connection.close()

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while (request := self._read(reader)) is not None:
                if not self._answer(connection, request):
                    break
        except OSError:
            pass
        finally:
            reader.close()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _read(self, reader: Any) -> Request | None:
        line = reader.readline()
        if not line:
            return None
        method, target, _ = line.decode().split(" ", 2)
        headers: dict[str, str] = {}
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(reader.readline(), 16):
                body += reader.read(size)
                reader.readline()
            reader.readline()
        else:
            body = reader.read(int(headers.get("content-length", "0")))
        path, _, query = target.partition("?")
        version = ""
        if match := re.match(r"/v(\d+\.\d+)(/.*)", path):
            version, path = match.groups()
        return Request(method, path, query, headers, body, version)

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
        answer = self._route(request)
        if answer.stream is not None:
            self._hijack(connection, request, answer)
            return False
        body = answer.body
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"HTTP/1.1 {answer.status} X\r\nApi-Version: {self.max_version}\r\nOSType: linux\r\n"
        head += f"Content-Type: {answer.content_type}\r\n"
        if request.method == "HEAD":
            connection.sendall((head + f"Content-Length: {len(payload)}\r\n\r\n").encode())
        elif answer.gate is not None:
            connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
            answer.gate.wait(10)
            connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(payload), payload))
        else:
            connection.sendall((head + f"Content-Length: {len(payload)}\r\n\r\n").encode() + payload)
        return True

    def _route(self, request: Request) -> Answer:
        if request.path == "/_ping":
            return Answer(200, b"OK", content_type="text/plain")
        if request.version and _number(request.version) > _number(self.max_version):
            text = f"client version {request.version} is too new. Maximum supported API version is "
            return Answer(400, {"message": text + self.max_version})
        for method, path, answer in self.routes:
            if method == request.method and re.fullmatch(path, request.path):
                return answer if isinstance(answer, Answer) else answer(request)
        return Answer(404, {"message": f"page not found: {request.method} {request.path}"})

    def _hijack(self, connection: socket.socket, request: Request, answer: Answer) -> None:
        assert answer.stream is not None
        upgrade = "upgrade" in request.headers
        status = b"101 UPGRADED" if upgrade else b"200 OK"
        extra = b"Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else b""
        if answer.location:
            extra += f"Location: {answer.location}\r\n".encode()
        kind = answer.content_type.encode()
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\n" + extra + b"\r\n")
        answer.stream(connection)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@dataclass
class RunScript:
    """A container's life for `run`: what it writes, whether it reads stdin to the end, how it exits."""

    output: bytes = b""
    exit_code: int = 0
    echo: bool = False
    tty: bool = False
    start_answer: Answer = field(default_factory=lambda: Answer(204))
    received: bytearray = field(default_factory=bytearray)
    signals: list[str] = field(default_factory=list)
    ends_on_signal: bool = False

    def install(self, daemon: FakeDaemon) -> None:
        """Teach `daemon` this container."""
        started = threading.Event()
        exited = threading.Event()
        attached = threading.Event()

        def attach(connection: socket.socket) -> None:
            attached.set()
            started.wait(10)
            connection.sendall(self.output)
            while self.echo and (data := connection.recv(65536)):
                self.received += data
                connection.sendall(data if self.tty else frame(1, data))
            if self.ends_on_signal:
                exited.wait(10)
            exited.set()
            connection.shutdown(socket.SHUT_WR)

        def start(_: Request) -> Answer:
            if self.start_answer.status >= 400:
                exited.set()
            started.set()
            if not attached.is_set():
                exited.set()
            return self.start_answer

        def kill(request: Request) -> Answer:
            self.signals.append(request.query)
            if self.ends_on_signal:
                exited.set()
            return Answer(204)

        kind = (
            "application/vnd.docker.raw-stream" if self.tty else "application/vnd.docker.multiplexed-stream"
        )
        container = "/containers/[^/]+"
        daemon.on("POST", "/containers/create", Answer(201, {"Id": CONTAINER_ID, "Warnings": []}))
        daemon.on("POST", f"{container}/attach", Answer(stream=attach, content_type=kind))
        daemon.on("POST", f"{container}/wait", Answer(200, {"StatusCode": self.exit_code}, gate=exited))
        daemon.on("POST", f"{container}/start", start)
        daemon.on("POST", f"{container}/kill", kill)
        daemon.on("POST", f"{container}/resize", Answer(200))
        inspected = {
            "Id": CONTAINER_ID,
            "Config": {"Tty": self.tty, "OpenStdin": True},
            "State": {"Running": True},
        }
        daemon.on("GET", f"{container}/json", Answer(200, inspected))


if __name__ == "__main__":
    import sys
    import time

    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    server = FakeDaemon(path)
    RunScript(output=frame(1, b"hello\n"), exit_code=int(sys.argv[2]) if len(sys.argv) > 2 else 0).install(
        server
    )
    try:
        while True:
            time.sleep(0.2)
            while server.requests:
                request = server.requests.pop(0)
                print(
                    request.method,
                    request.path,
                    request.query,
                    request.headers,
                    request.body.decode(),
                    flush=True,
                )
    except KeyboardInterrupt:
        os._exit(0)

"""HTTP/1.1 to the daemon over C sockets: requests, streamed bodies and hijacked connections.

Connections are kept alive and reused. The API version is the newest this CLI speaks; a daemon that
refuses it names its own, and the request is sent again. Source: the Docker Engine API, v1.51; RFC 9112.
"""

import _socket

from proa.cli.environment import choice_file, exists, variable
from proa.cli.failure import ConnectionFailed, DaemonError, Failure
from proa.cli.jsontext import accelerator, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from proa.cli.flags import Globals

API_VERSION = "1.51"
CHUNK = 65536

_CONSTANT = "Host: proa\r\nUser-Agent: proa\r\n"

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


class Response:
    """One response: the head is read, the body is read on demand."""

    __slots__ = ("_done", "_length", "connection", "headers", "status")

    def __init__(
        self, connection: "Connection", status: int, headers: dict[str, str], bodiless: bool
    ) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        length = headers.get("content-length")
        if bodiless or status in (204, 304):
            self._length: int | None = 0
        elif headers.get("transfer-encoding") == "chunked":
            self._length = -1
        else:
            self._length = None if length is None else int(length)
        self._done = self._length == 0

    def read(self) -> bytes:
        """The whole body; the connection can be used again afterwards."""
        if self._length is not None and self._length >= 0 and not self._done:
            self._done = True
            return self.connection.exactly(self._length)
        return b"".join(self.chunks())

    def json(self) -> "Any":
        """The whole body, decoded."""
        return decode(self.read())

    def chunks(self) -> "Iterator[bytes]":
        """The body as it comes in."""
        if self._done:
            return
        connection = self.connection
        if self._length == -1:
            while size := int(connection.line().partition(b";")[0], 16):
                while size:
                    data = connection.some(size)
                    size -= len(data)
                    yield data
                connection.line()
            while connection.line():
                pass
        elif self._length is None:
            connection.reusable = False
            while data := connection.some(CHUNK, at_end=b""):
                yield data
        else:
            left = self._length
            while left:
                data = connection.some(left)
                left -= len(data)
                yield data
        self._done = True

    @property
    def done(self) -> bool:
        """Whether the body was read to its end."""
        return self._done


class Connection:
    """One connection; what was read beyond the message at hand stays in `buffer`."""

    __slots__ = ("buffer", "reusable", "sock")

    def __init__(self, sock: "Any") -> None:
        self.sock = sock
        self.buffer = b""
        self.reusable = True

    def some(self, limit: int, at_end: bytes | None = None) -> bytes:
        """Between one and `limit` bytes; at the stream's end `at_end`, or ConnectionFailed without one."""
        if self.buffer:
            data, self.buffer = self.buffer[:limit], self.buffer[limit:]
            return data
        try:
            data = self.sock.recv(limit)
        except OSError as exc:
            raise ConnectionFailed(f"error during connect: {exc.strerror}") from exc
        if not data:
            if at_end is None:
                raise ConnectionFailed("error during connect: unexpected EOF")
            return at_end
        return data  # type: ignore[no-any-return]

    def exactly(self, count: int) -> bytes:
        """Just `count` bytes."""
        parts = []
        while count:
            data = self.some(count)
            count -= len(data)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def line(self) -> bytes:
        """One line, without its end."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            kept, self.buffer = self.buffer, b""
            self.buffer = kept + self.some(CHUNK)
        line, self.buffer = self.buffer[:end], self.buffer[end + 2 :]
        return line

    def send(self, data: bytes) -> None:
        """Send it all. Raises ConnectionFailed."""
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise ConnectionFailed(f"error during connect: {exc.strerror}") from exc

    def response(self, bodiless: bool = False) -> Response:
        """Read the next response's head."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            kept, self.buffer = self.buffer, b""
            self.buffer = kept + self.some(CHUNK)
        head, self.buffer = self.buffer[:end].decode("latin-1"), self.buffer[end + 4 :]
        status, *lines = head.split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("connection", "").lower() == "close":
            self.reusable = False
        return Response(self, int(status.split(" ", 2)[1]), headers, bodiless)

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class Client:
    """One daemon: where it is, how to reach it, and the connections that are open and idle."""

    def __init__(self, host: str, connect: "Callable[[], Any]") -> None:
        self.host = host
        self.version = variable("DOCKER_API_VERSION") or API_VERSION
        self.pinned = bool(variable("DOCKER_API_VERSION"))
        self.headers: dict[str, str] = {}
        self._connect = connect
        self._idle: list[Connection] = []

    def connection(self) -> tuple[Connection, bool]:
        """An idle connection or a new one, and whether it was used before."""
        if self._idle:
            return self._idle.pop(), True
        return Connection(self._connect()), False

    def forget(self) -> None:
        """Close the idle connections: the daemon behind them is gone."""
        while self._idle:
            self._idle.pop().close()

    def send(
        self, method: str, path: str, body: bytes | None = None, extra: str = "", fresh: bool = False
    ) -> Connection:
        """Send a request; the answer is to be read from the connection that is returned."""
        if body is None:
            length = "" if method in ("GET", "HEAD") else "Content-Length: 0\r\n"
        else:
            length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"{method} /v{self.version}{path} HTTP/1.1\r\n{_CONSTANT}{length}{extra}\r\n"
        data = head.encode() if body is None else head.encode() + body
        while True:
            connection, used = (Connection(self._connect()), False) if fresh else self.connection()
            try:
                connection.send(data)
            except ConnectionFailed:
                connection.close()
                if not used:
                    raise
                continue
            return connection

    def receive(self, connection: Connection, bodiless: bool = False) -> Response:
        """The answer to a request that was sent. Raises DaemonError for a refusal."""
        response = connection.response(bodiless)
        if response.status >= 400:
            raise self._refusal(response, connection, bodiless)
        return response

    def request(
        self, method: str, path: str, body: object = None, extra: str = "", ahead: int = 0
    ) -> Response:
        """Send a request and read the head of its answer; meanwhile open `ahead` connections for later ones.

        Raises DaemonError for a refusal, ConnectionFailed.
        """
        data = None if body is None else encode(body)
        bodiless = method == "HEAD"
        try:
            connection = self.send(method, path, data, extra)
            # Meanwhile the daemon works.
            for _ in range(ahead):
                self._idle.insert(0, Connection(self._connect()))
            accelerator()
            return self.receive(connection, bodiless)
        except WrongVersion as exc:
            self.version = exc.version
            return self.receive(self.send(method, path, data, extra), bodiless)

    def call(self, method: str, path: str, body: object = None, extra: str = "", ahead: int = 0) -> "Any":
        """A request whose whole answer is JSON (None when there is none)."""
        response = self.request(method, path, body, extra, ahead)
        data = response.read()
        self.release(response)
        return decode(data) if data else None

    def release(self, response: Response) -> None:
        """Give a connection back whose answer was read to the end."""
        connection = response.connection
        if response.done and connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def upload(
        self,
        method: str,
        path: str,
        parts: "Iterable[bytes]",
        content_type: str = "application/x-tar",
        extra: str = "",
    ) -> Response:
        """A request whose body is streamed in chunks."""
        self.negotiate()
        connection, _ = self.connection()
        connection.send(
            f"{method} /v{self.version}{path} HTTP/1.1\r\n{_CONSTANT}"
            f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n{extra}\r\n".encode()
        )
        try:
            for part in parts:
                if part:
                    connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            connection.send(b"0\r\n\r\n")
        except ConnectionFailed:
            # The daemon may have answered early and closed: its answer says why.
            try:
                return self.receive(connection)
            except ConnectionFailed:
                pass
            raise
        return self.receive(connection)

    def negotiate(self) -> None:
        """Learn the daemon's version, for a request that cannot be sent twice."""
        if not self.pinned:
            self.ping()

    def ping(self) -> dict[str, str]:
        """The headers of GET /_ping; lowers `version` to what the daemon speaks."""
        response = self.request("GET", "/_ping")
        response.read()
        self.release(response)
        spoken = response.headers.get("api-version", "")
        if spoken and not self.pinned and version_number(spoken) < version_number(self.version):
            self.version = spoken
        return response.headers

    def _refusal(self, response: Response, connection: Connection, bodiless: bool) -> Failure:
        body = b"" if bodiless else response.read()
        self.release(response)
        try:
            reason = decode(body)["message"]
        except (ValueError, KeyError, TypeError):
            reason = body.decode("utf-8", "replace").strip() or f"HTTP status {response.status}"
        if response.status == 400 and not self.pinned and "Maximum supported API version is " in reason:
            return WrongVersion(reason)
        return DaemonError(response.status, reason)


class WrongVersion(DaemonError):
    """The daemon is older than this CLI; `version` is what it speaks."""

    def __init__(self, reason: str) -> None:
        super().__init__(400, reason)
        self.version = reason.rpartition("Maximum supported API version is ")[2].strip(" .")


def version_number(version: str) -> tuple[int, int]:
    """1.9 comes before 1.10."""
    major, _, minor = version.partition(".")
    return int(major), int(minor or "0")


def default_socket() -> str:
    """Path of the local daemon's socket."""
    return (variable("PROA_EXEC_ROOT") or "/run/proa") + "/proad.sock"


def client(options: "Globals") -> Client:
    """The client that the command line and the environment ask for.

    With neither, it is the local daemon, which is started when nothing listens there.
    """
    if options.hosts or options.context or options.tls or options.tlsverify:
        special = True
    else:
        special = any(
            variable(name) for name in ("PROA_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "PROA_CONTEXT")
        ) or exists(choice_file(options))
    if special:
        from proa.cli.endpoint import client_for

        return client_for(options)
    path = default_socket()
    return Client(f"unix://{path}", lambda: _connect_or_start(path))


def unix_socket(path: str) -> "Any":
    """A connected socket. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _connect_or_start(path: str) -> "Any":
    try:
        return unix_socket(path)
    except (FileNotFoundError, ConnectionRefusedError):
        from proa.cli.autostart import start_and_connect

        return start_and_connect(path)
    except OSError as exc:
        from proa.cli.endpoint import unreachable

        raise unreachable(f"unix://{path}", exc) from exc


def query(**fields: object) -> str:
    """A query string of the fields that are set (not None, not empty, not False)."""
    parts = [
        f"{name}={'1' if value is True else quote(str(value))}"
        for name, value in fields.items()
        if value is not None and value is not False and value != ""
    ]
    return "?" + "&".join(parts) if parts else ""


_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


def quote(text: str) -> str:
    """Percent-encode for one part of a path or a query."""
    if _PLAIN.issuperset(text):
        return text
    return "".join(
        chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )

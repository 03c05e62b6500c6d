"""Both directions at once: standard input to the container, its output back, in one poll loop.

Nothing here blocks but the poll: neither a slow reader of our output nor a container that does not read
holds up the other direction.
"""

import posix
import select

from proa.cli.failure import Failure
from proa.cli.streams import CHUNK, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.transport import Connection

# A pipe that polls writable takes at least this much without blocking (PIPE_BUF, pipe(7)).
PIPE_BUF = 4096

DEFAULT_DETACH_KEYS = b"\x10\x11"

_NAMED_KEYS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class Detached(Exception):
    """The user typed the detach sequence."""


def detach_sequence(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q`. Raises Failure."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            keys += key.encode("utf-8", "surrogateescape")
            continue
        name = key.lower()
        letter = name[5:]
        if name.startswith("ctrl-") and len(letter) == 1 and "a" <= letter <= "z":
            keys.append(ord(letter) - ord("a") + 1)
        elif name.startswith("ctrl-") and letter in _NAMED_KEYS:
            keys.append(_NAMED_KEYS[letter])
        else:
            raise Failure(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(keys)


class EscapeProxy:
    """Holds typed keys back while they could be the start of the detach sequence."""

    __slots__ = ("_keys", "_matched")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence is complete)."""
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            if self._matched:
                passed += self._keys[: self._matched]
                self._matched = 0
                if byte == self._keys[0]:
                    self._matched = 1
                    continue
            passed.append(byte)
        return bytes(passed), False


class Conversation:
    """The state of the loop; `run` returns when the container's output ends."""

    def __init__(
        self,
        connection: "Connection",
        tty: bool,
        stdin: int,
        stdout: int | None,
        stderr: int | None,
        keys: bytes,
    ) -> None:
        self._connection = connection
        self._sock = connection.sock
        self._frames = None if tty else Demultiplexer(stdout, stderr)
        self._stdout = stdout
        self._stdin: int | None = stdin
        self._escape = EscapeProxy(keys) if tty and keys else None
        self._outgoing = b""
        self._detached = False
        self._incoming: list[tuple[int, memoryview]] = []
        self._ended = False
        self._peer_reads = True

    def run(self) -> None:
        """Raises Detached; Failure when our reader is gone."""
        self._sock.setblocking(False)
        if self._connection.buffer:
            data, self._connection.buffer = self._connection.buffer, b""
            self._arrived(data)
        while self._incoming or not self._ended:
            for fd, event in self._poll():
                self._handle(fd, event)
            if self._detached and not self._outgoing:
                raise Detached

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        events = 0 if self._incoming or self._ended else select.POLLIN
        if self._outgoing:
            events |= select.POLLOUT
        elif self._stdin is not None and not self._ended:
            poll.register(self._stdin, select.POLLIN)
        if events:
            poll.register(self._sock.fileno(), events)
        if self._incoming:
            poll.register(self._incoming[0][0], select.POLLOUT)
        if self._pending_tls():
            return [(self._sock.fileno(), select.POLLIN)]
        return poll.poll()

    def _pending_tls(self) -> bool:
        pending = getattr(self._sock, "pending", None)
        return pending is not None and not self._incoming and pending() > 0

    def _handle(self, fd: int, event: int) -> None:
        if fd == self._sock.fileno():
            if event & select.POLLOUT:
                self._flush()
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._incoming:
                self._receive()
        elif self._incoming and fd == self._incoming[0][0]:
            self._write()
        elif fd == self._stdin:
            self._read_input()

    def _read_input(self) -> None:
        assert self._stdin is not None
        try:
            data = posix.read(self._stdin, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stdin = None
            self._half_close()
            return
        if self._escape is not None:
            data, self._detached = self._escape.feed(data)
            if self._detached:
                self._stdin = None
        self._outgoing = data if self._peer_reads else b""
        self._flush()

    def _flush(self) -> None:
        if not self._outgoing:
            return
        try:
            sent = self._sock.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError as exc:
            if _wants(exc):
                return
            # The container reads no more; its output may still be on the way.
            self._outgoing, self._peer_reads, self._stdin = b"", False, None
            return
        self._outgoing = self._outgoing[sent:]

    def _half_close(self) -> None:
        try:
            self._sock.shutdown(1)
        except OSError:
            return

    def _receive(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as exc:
            if _wants(exc):
                return
            data = b""
        if data:
            self._arrived(data)
        else:
            self._ended = True

    def _arrived(self, data: bytes) -> None:
        if self._frames is None:
            if self._stdout is not None:
                self._incoming.append((self._stdout, memoryview(data)))
            return
        self._incoming.extend(
            (fd, memoryview(payload)) for fd, payload in self._frames.feed(data) if fd is not None
        )

    def _write(self) -> None:
        fd, data = self._incoming[0]
        try:
            written = posix.write(fd, data[:PIPE_BUF])
        except BlockingIOError:
            return
        except OSError as exc:
            name = "/dev/stderr" if fd == 2 else "/dev/stdout"
            raise Failure(f"write {name}: {(exc.strerror or '').lower()}") from exc
        if written == len(data):
            del self._incoming[0]
        else:
            self._incoming[0] = (fd, data[written:])


def _wants(exc: OSError) -> bool:
    """Whether a TLS socket only asks to be polled again."""
    return type(exc).__name__ in ("SSLWantReadError", "SSLWantWriteError")

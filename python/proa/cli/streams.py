"""A container's output on its way to the terminal or a pipe, and signals on their way to the container.

Without input to forward, one blocking loop is enough: signal handlers run between its system calls.
Source: the Docker Engine API, v1.51, ContainerAttach ("Stream format").
"""

import _signal  # type: ignore[import-not-found]
import posix

from proa.cli.failure import ConnectionFailed, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proa.cli.transport import Client, Connection

CHUNK = 65536

# What is never forwarded: cannot be caught, is the CLI's own, or means that the CLI itself failed.
_KEPT = frozenset(
    ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGURG", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")
)


class Demultiplexer:
    """Splits Docker's framed stream: eight bytes of head (stream, 0, 0, 0, length) and the payload."""

    __slots__ = ("_left", "_pending", "_target", "targets")

    def __init__(self, stdout: int | None, stderr: int | None) -> None:
        self.targets = (stdout, stdout, stderr)
        self._pending = b""
        self._left = 0
        self._target: int | None = None

    def feed(self, data: bytes) -> "Iterator[tuple[int | None, bytes]]":
        """(file descriptor, payload) for what `data` completes; None when that stream is not wanted."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        position, end = 0, len(data)
        while position < end:
            if not self._left:
                if end - position < 8:
                    self._pending = data[position:]
                    return
                self._head(data, position)
                position += 8
                continue
            stop = min(position + self._left, end)
            yield self._target, data[position:stop]
            self._left -= stop - position
            position = stop

    def _head(self, data: bytes, position: int) -> None:
        stream = data[position]
        self._left = int.from_bytes(data[position + 4 : position + 8], "big")
        if stream > 3:
            raise Failure(f"Unrecognized input header: {stream}")
        # Stream 3 carries the daemon's own errors.
        self._target = self.targets[stream] if stream < 3 else 2


def write_all(fd: int, data: bytes) -> None:
    """Write it all, waiting where the other side is slow.

    Raises Failure in Docker's words when the reader is gone.
    """
    while data:
        try:
            written = posix.write(fd, data)
        except BlockingIOError:
            wait_writable(fd)
            continue
        except OSError as exc:
            name = {1: "/dev/stdout", 2: "/dev/stderr"}.get(fd, str(fd))
            raise Failure(f"write {name}: {(exc.strerror or '').lower()}") from exc
        if written == len(data):
            return
        data = data[written:]


def wait_writable(fd: int) -> None:
    """Wait until a file descriptor that others made non-blocking takes more."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def copy_output(connection: "Connection", tty: bool, stdout: int | None, stderr: int | None) -> None:
    """Write what the container says until its stream ends."""
    pieces = _pieces(connection)
    if tty:
        for data in pieces:
            if stdout is not None:
                write_all(stdout, data)
        return
    demultiplex(pieces, stdout, stderr)


def demultiplex(pieces: "Iterable[bytes]", stdout: int | None, stderr: int | None) -> None:
    """Write a framed stream to its file descriptors."""
    frames = Demultiplexer(stdout, stderr)
    for data in pieces:
        for fd, payload in frames.feed(data):
            if fd is not None:
                write_all(fd, payload)


def _pieces(connection: "Connection") -> "Iterator[bytes]":
    try:
        while data := connection.some(CHUNK, at_end=b""):
            yield data
    except ConnectionFailed:
        # A reset is how a stream ends whose container went while input was on its way.
        return


def forward_signals(client: "Client", container: str, tty: bool) -> None:
    """From now on send every signal that this process gets to the container."""
    numbers: dict[int, str] = {}
    for name, number in _signal.__dict__.items():
        if name.startswith("SIG") and "_" not in name and name not in _KEPT:
            numbers.setdefault(int(number), name[3:])
    if tty:
        # The terminal's size goes by a request of its own.
        numbers.pop(int(_signal.SIGWINCH), None)

    def forward(number: int, _: object) -> None:
        name = numbers[number]
        try:
            response = client.request("POST", f"/containers/{container}/kill?signal={name}")
            response.read()
            client.release(response)
        except Failure:
            # The container may be gone already, or not be started yet.
            return

    for number, name in numbers.items():
        if name.startswith("RT"):
            continue
        _signal.signal(number, forward)

"""DNS for tests: sockets in a process's network namespace, messages, and a server that says what it is told.

An own small reading of RFC 1035, so that the resolver's is checked against a second one.
"""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from msgspec import Struct

RESOLVER = ("127.0.0.11", 53)
A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 41
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)
_CLONE_NEWNET = 0x40000000

Records = list[tuple[str, int, int, bytes]]
"""(name, type, seconds to live, data)."""


class Message(Struct, frozen=True, kw_only=True):
    """What a test looks at in a response."""

    id: int
    code: int
    truncated: bool
    question: bytes
    answers: Records
    authority: Records
    additional: Records
    size: int

    def addresses(self) -> list[str]:
        """Those of A and AAAA records, in order."""
        families = {A: socket.AF_INET, AAAA: socket.AF_INET6}
        return [socket.inet_ntop(families[r[1]], r[3]) for r in self.answers if r[1] in families]


def socket_inside(pid: int, kind: socket.SocketKind, family: int = socket.AF_INET) -> socket.socket:
    """A socket in the network namespace of a process: made by a thread that goes there and ends."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(family, kind))
        except OSError as exc:
            made.append(exc)
        finally:
            os.close(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    result.settimeout(20)
    return result


def encode_name(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(
    id_: int, name: str, kind: int = A, *, edns: int = 0, options: bytes = b"", flags: int = 0x100
) -> bytes:
    """A question; with `edns`, the size that the client takes over UDP."""
    extra = struct.pack(">BHHIH", 0, OPT, edns, 0, len(options)) + options if edns else b""
    return (
        struct.pack(">6H", id_, flags, 1, 0, 0, bool(extra))
        + encode_name(name)
        + struct.pack(">HH", kind, 1)
        + extra
    )


def record(kind: int, ttl: int, data: bytes, name: bytes = b"\xc0\x0c") -> bytes:
    """A record of the question's own name, unless told otherwise."""
    return name + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def soa(ttl: int, minimum: int) -> bytes:
    """A zone's own record, as it comes along with "there is no such name"."""
    return record(
        SOA,
        ttl,
        encode_name("ns.example") + encode_name("root.example") + struct.pack(">5I", 1, 2, 3, 4, minimum),
    )


def respond(
    asked: bytes,
    answers: list[bytes] = (),
    authority: list[bytes] = (),
    *,
    code: int = 0,
    flags: int = 0x8180,
) -> bytes:  # type: ignore[assignment]
    """A response to a question."""
    end = _skip_name(asked, 12) + 4
    head = asked[:2] + struct.pack(">5H", flags | code, 1, len(answers), len(authority), 0)
    return head + asked[12:end] + b"".join(answers) + b"".join(authority)


def decode(message: bytes) -> Message:
    id_, flags, questions, *counts = struct.unpack_from(">6H", message)
    at = 12
    for _ in range(questions):
        at = _skip_name(message, at) + 4
    question, sections = message[12:at], []
    for count in counts:
        records: Records = []
        for _ in range(count):
            name, at = _read_name(message, at)
            kind, _, ttl, length = struct.unpack_from(">HHIH", message, at)
            data = message[at + 10 : at + 10 + length]
            assert len(data) == length, "a record that breaks off"
            if kind in (PTR, CNAME):
                data = _read_name(message, at + 10)[0].encode()
            records.append((name, kind, ttl, data))
            at += 10 + length
        sections.append(records)
    assert at == len(message), "something behind the last record"
    return Message(
        id=id_,
        code=flags & 15,
        truncated=bool(flags & 0x200),
        question=question,
        answers=sections[0],
        authority=sections[1],
        additional=sections[2],
        size=len(message),
    )


def _skip_name(message: bytes, at: int) -> int:
    while message[at] and message[at] < 192:
        at += 1 + message[at]
    return at + (2 if message[at] else 1)


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    labels, end = [], _skip_name(message, at)
    while message[at]:
        if message[at] >= 192:
            at = struct.unpack_from(">H", message, at)[0] & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), end


class Client:
    """Asks the resolver as a program in the container of process `pid` would."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.udp = socket_inside(pid, socket.SOCK_DGRAM)
        self.udp.connect(RESOLVER)
        self._id = 0

    def ask(self, name: str, kind: int = A, **options: object) -> Message:
        """Over UDP. Raises TimeoutError."""
        self._id += 1
        self.udp.send(query(self._id, name, kind, **options))  # type: ignore[arg-type]
        return self.answer()

    def answer(self) -> Message:
        return decode(self.udp.recv(1 << 16))

    def ask_over_tcp(self, *names: str, kind: int = A) -> list[Message]:
        """All at once over one connection; answers in the order of the questions."""
        with socket_inside(self._pid, socket.SOCK_STREAM) as tcp:
            tcp.connect(RESOLVER)
            questions = [query(number, name, kind) for number, name in enumerate(names)]
            tcp.sendall(b"".join(struct.pack(">H", len(q)) + q for q in questions))
            answers = {}
            with tcp.makefile("rb") as stream:
                for _ in names:
                    (length,) = struct.unpack(">H", stream.read(2))
                    message = decode(stream.read(length))
                    answers[message.id] = message
            return [answers[number] for number in range(len(names))]

    def close(self) -> None:
        self.udp.close()


Answer = Callable[[bytes, str, bool], bytes | None]
"""(the question's message, its name, whether it came over TCP) to the response; None for silence."""


def _same_port(pid: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on one free port of 127.0.0.1."""
    while True:
        with contextlib.ExitStack() as undo:
            udp = undo.enter_context(socket_inside(pid, socket.SOCK_DGRAM))
            tcp = undo.enter_context(socket_inside(pid, socket.SOCK_STREAM))
            udp.bind(("127.0.0.1", 0))
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                continue  # somebody's connection has the port
            tcp.listen(8)
            udp.settimeout(None)
            tcp.settimeout(None)
            undo.pop_all()
        return udp, tcp


class FakeServer:
    """A server on sockets of the test's, UDP and TCP on one port; remembers what it was asked."""

    def __init__(self, answer: Answer, pid: int | None = None) -> None:
        """In the network namespace of process `pid`, or in the test's own."""
        self.udp, self.tcp = _same_port(os.getpid() if pid is None else pid)
        self.port = self.udp.getsockname()[1]
        self.asked: list[tuple[str, bool]] = []
        """(name as it was written, whether over TCP)."""
        self.messages: list[bytes] = []
        self.clients: list[tuple[str, int]] = []
        """Who asked over UDP."""
        self._answer = answer
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._udp, self._tcp)]

    def __enter__(self) -> "FakeServer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tcp.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # it is not connected, and wakes all the same
            self.udp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.udp.close()
        self.tcp.close()

    def respond_to(self, message: bytes, tcp: bool) -> bytes | None:
        name, _ = _read_name(message, 12)
        self.asked.append((name, tcp))
        self.messages.append(message)
        return self._answer(message, name, tcp)

    def _udp(self) -> None:
        while True:
            message, client = self.udp.recvfrom(1 << 16)
            if not message:
                return
            self.clients.append(client)
            response = self.respond_to(message, False)
            if response is not None:
                self.udp.sendto(response, client)

    def _tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                head = stream.read(2)
                if len(head) == 2:
                    response = self.respond_to(stream.read(struct.unpack(">H", head)[0]), True)
                    if response is not None:
                        connection.sendall(struct.pack(">H", len(response)) + response)

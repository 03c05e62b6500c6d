"""A real proad on a machine of its own, and one outside: what the tests of networks do with them."""

import socket
import threading

from instance import Instance, eventually
from netns import Namespace

OUTSIDE = "203.0.113.2"
HOST = "203.0.113.1"
WEB = ("sh", "-c", "mkdir -p /w; hostname >/w/name; exec httpd -f -p 80 -h /w")
ECHO = ("busybox", "nc", "-ll", "-p", "7", "-e", "cat")
"""Sends back what it gets, as long as the connection lasts."""


def docker(daemon: Instance, *words: str) -> str:
    done = daemon.run(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


def address(daemon: Instance, container: str, network: str, key: str = "IPAddress") -> str:
    found = daemon.api.call("GET", f"/containers/{container}/json")
    return found["NetworkSettings"]["Networks"][network][key]


def fetch(where: Namespace, at: str, port: int) -> str:
    """The page that WEB serves."""

    def get() -> str:
        with socket.create_connection((at, port), timeout=20) as made:
            made.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: made.recv(4096), b"")).split(b"\r\n\r\n")[1].decode().strip()

    return where.run(get)


def refused(where: Namespace, at: str, port: int) -> bool:
    def get() -> bool:
        try:
            socket.create_connection((at, port), timeout=0.5).close()
        except OSError:
            return True
        return False

    return where.run(get)


def run_web(daemon: Instance, name: str, *options: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "-h", name, *options, "busybox", *WEB)


def fetch_all(where: Namespace, at: str, port: int, count: int) -> bytes:
    """A file of so many bytes, in however many packets."""

    def get() -> bytes:
        with socket.create_connection((at, port), timeout=10) as made:
            made.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: made.recv(1 << 16), b""))
            return answer.partition(b"\r\n\r\n")[2][:count]

    return where.run(get)


class Talk:
    """A connection that carries a line back and forth, for as long as it is asked to."""

    def __init__(self, where: Namespace, at: str, port: int) -> None:
        self.socket = where.run(lambda: socket.create_connection((at, port), timeout=10))
        self.lines = 0
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.socket.sendall(b"ping\n")
                assert self.socket.recv(5) == b"ping\n"
                self.lines += 1
        except Exception as exc:
            self.failure = exc

    def goes_on(self) -> bool:
        lines = self.lines
        return eventually(lambda: self.failure is not None or self.lines > lines + 5) and not self.failure

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.socket.close()

"""The ends of a throughput measurement: a sink in a container's network, and who sends to its published port.

    python benches/traffic.py sink PID PORT              take what is sent in the network of PID
    python benches/traffic.py send ADDRESS PORT SECONDS  send; prints the seconds for a GiB
    python benches/traffic.py outside                    a machine of its own; see `Outside`

The sink asks the kernel to throw away what has come (MSG_TRUNC), so that what is measured is the way there.
"""

import contextlib
import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

CLONE_NEWNET = 0x40000000
CHUNK = bytes(1 << 20)
GIB = 1 << 30
HOST, FAR = "203.0.113.1", "203.0.113.2"
"""The addresses of the machine and of the one outside, on the wire between them."""


# ---- what the program does ----------------------------------------------------------------------


def enter_network(pid: int) -> None:
    """The calling thread is in the network namespace of a process."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        _checked(ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET), "setns")


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)


def sink(pid: int, port: int) -> None:
    """Take one connection after the other, for ever."""
    enter_network(pid)
    untouched = bytearray(1 << 20)
    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        while True:
            taken, _ = server.accept()
            with taken, contextlib.suppress(ConnectionError):
                while taken.recv_into(untouched, 0, socket.MSG_TRUNC):
                    pass


def send(address: str, port: int, seconds: float) -> float:
    """Seconds per GiB of one connection that sends for so long."""
    with socket.create_connection((address, port), timeout=10) as made:
        sent, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            sent += made.send(CHUNK)
        return (time.perf_counter() - begun) / sent * GIB


def outside() -> None:
    """Leave for a network namespace; run each line of stdin as a command there, and print what it says."""
    _checked(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET), "unshare")
    print("ready", flush=True)
    for line in sys.stdin:
        done = subprocess.run(line.split(), check=True, capture_output=True, text=True)
        print(done.stdout.strip(), flush=True)


# ---- how a bench has it done --------------------------------------------------------------------


@contextlib.contextmanager
def program(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """This file as a program, ready; ended afterwards."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            if _line(running.stdout) != "ready":
                raise RuntimeError(f"{' '.join(arguments)}: not ready")
            yield running
        finally:
            running.kill()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


class Outside:
    """Another machine, on a wire to this one: a network namespace and a veth pair."""

    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self._running = running
        self._wire = f"bench{running.pid}"[:15]
        pid = str(running.pid)
        _ip("link", "add", self._wire, "type", "veth", "peer", "name", "far", "netns", pid)
        _ip("addr", "add", f"{HOST}/30", "dev", self._wire)
        _ip("link", "set", self._wire, "up")
        for words in (f"addr add {FAR}/30 dev far", "link set far up", "link set lo up"):
            self.run(f"ip {words}")

    def run(self, command: str) -> str:
        """The output of a command there."""
        assert self._running.stdin is not None
        self._running.stdin.write(command + "\n")
        self._running.stdin.flush()
        return _line(self._running.stdout)

    def send(self, port: int, seconds: float) -> float:
        """Seconds per GiB of one connection from there to this machine's address."""
        return float(self.run(f"{sys.executable} {__file__} send {HOST} {port} {seconds}"))


@contextlib.contextmanager
def outside_machine() -> Iterator[Outside]:
    """The wire goes with the machine at its end."""
    with program("outside") as running:
        yield Outside(running)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main() -> None:
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "sink":
        sink(int(arguments[0]), int(arguments[1]))
    elif verb == "send":
        print(send(arguments[0], int(arguments[1]), float(arguments[2])))
    else:
        outside()


if __name__ == "__main__":
    main()

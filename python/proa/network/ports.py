"""Host ports: which are published, and sockets that hold them so that no program of the host takes them.

The firewall translates before the host's own sockets are asked, so these never see a packet.
Source: moby's libnetwork/portallocator; ip(7).
"""

import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from proa.errors import System
from proa.network.sandbox import PortWish, PublishedPort

ANY = "0.0.0.0"
_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

_Key = tuple[str, str, int]
"""(protocol, host address, port)."""


class Ports:
    """The host ports of this daemon's containers."""

    def __init__(self, ephemeral: tuple[int, int] | None = None) -> None:
        """`ephemeral`: first and last port for those that ask for none; default is the host's range."""
        self._held: dict[_Key, socket.socket | None] = {}
        self._first, self._last = ephemeral or _ephemeral_range()
        self._next = self._first

    def take(self, wishes: Sequence[PortWish]) -> tuple[PublishedPort, ...]:
        """Hold a host port for each wish, all or none. Raises System in Docker's words."""
        taken: list[PublishedPort] = []
        with ExitStack() as undo:
            for wish in wishes:
                port = self._take_one(wish)
                undo.callback(self.give_back, (port,))
                taken.append(port)
            undo.pop_all()
        return tuple(taken)

    def hold(self, ports: Iterable[PublishedPort]) -> None:
        """Hold the ports of a container that runs already, as far as the host lets us."""
        for port in ports:
            key = _key(port)
            if key not in self._held:
                try:
                    self._held[key] = _bind(*key)
                except OSError:
                    self._held[key] = None  # a program of the host was faster; the translation comes first

    def give_back(self, ports: Iterable[PublishedPort]) -> None:
        """Let go of them; ones not held are no error."""
        for port in ports:
            held = self._held.pop(_key(port), None)
            if held is not None:
                held.close()

    def _take_one(self, wish: PortWish) -> PublishedPort:
        host = wish.host_address or ANY
        failure: System | None = None
        for number in self._candidates(wish):
            try:
                self._hold_one((wish.protocol, host, number), wish)
            except System as exc:
                failure = failure or exc
                continue
            return PublishedPort(
                protocol=wish.protocol,
                container_port=wish.container_port,
                host_address=host,
                host_port=number,
            )
        raise failure or System("no port is free: the host's range of ephemeral ports is used up")

    def _candidates(self, wish: PortWish) -> Iterable[int]:
        if wish.first:
            return range(wish.first, wish.last + 1)
        size = self._last - self._first + 1
        start = self._next - self._first
        self._next = self._first + (start + 1) % size
        return (self._first + (start + step) % size for step in range(size))

    def _hold_one(self, key: _Key, wish: PortWish) -> None:
        protocol, host, number = key
        # 0.0.0.0 and one address of the host cannot both have a port.
        rivals = (k for k in self._held if k[0] == protocol and k[2] == number)
        if any(ANY in (k[1], host) or k[1] == host for k in rivals):
            raise System(f"Bind for {host}:{number} failed: port is already allocated")
        try:
            self._held[key] = _bind(protocol, host, number)
        except OSError as exc:
            reason = os.strerror(exc.errno or 0).lower()
            raise System(f"failed to bind host port for {host}:{number}/{protocol}: {reason}") from exc


def _bind(protocol: str, host: str, number: int) -> socket.socket | None:
    """A socket that holds the port; None for a protocol whose sockets this host may not have."""
    kind = _TYPES.get(protocol)
    if kind is None:
        return None
    made = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, number))
        if kind == socket.SOCK_STREAM:
            made.listen(1)  # without it another listener with SO_REUSEADDR could bind the port, too
    except BaseException:
        made.close()
        raise
    return made


def _key(port: PublishedPort) -> _Key:
    return (port.protocol, port.host_address, port.host_port)


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open(_RANGE, encoding="ascii") as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 49152, 65535

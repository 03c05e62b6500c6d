"""Host ports: which are published, and sockets that hold them so that no program of the host takes them.

The firewall translates before the host's own sockets are asked, so these never see a packet.
Source: moby's libnetwork/portallocator; ip(7), ipv6(7).
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from proa.errors import System
from proa.network.sandbox import PortWish, PublishedPort

ANY, ANY6 = "0.0.0.0", "::"
EVERY = (ANY, ANY6)
_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

_Key = tuple[str, int]
"""(protocol, port)."""


def is_ipv6(address: str) -> bool:
    """Of an address of the host in text."""
    return ":" in address


class Ports:
    """The host ports of this daemon's containers."""

    def __init__(self, ephemeral: tuple[int, int] | None = None, *, ipv6: bool | None = None) -> None:
        """`ephemeral`: first and last port for those that ask for none; default is the host's range.
        `ipv6`: whether the host has it; default is to look.
        """
        self._held: dict[_Key, dict[str, socket.socket | None]] = {}
        """By port: by host address, the socket that holds it."""
        self._first, self._last = ephemeral or _ephemeral_range()
        self._next = self._first
        self._ipv6 = os.path.exists("/proc/net/if_inet6") if ipv6 is None else ipv6

    def take(self, wishes: Sequence[PortWish], *, ipv6: bool = False) -> tuple[PublishedPort, ...]:
        """Hold a host port for each wish, all or none. Raises System in Docker's words.

        A wish for every address is held for IPv4, and with `ipv6` for that, too, under the same number.
        """
        taken: list[PublishedPort] = []
        with ExitStack() as undo:
            for wish in wishes:
                ports = self._take_one(wish, ipv6=ipv6 and self._ipv6)
                undo.callback(self.give_back, ports)
                taken += ports
            undo.pop_all()
        return tuple(taken)

    def hold(self, ports: Iterable[PublishedPort]) -> None:
        """Hold the ports of a container that runs already, as far as the host lets us."""
        for port in ports:
            held = self._held.setdefault((port.protocol, port.host_port), {})
            if port.host_address not in held:
                try:
                    held[port.host_address] = _bind(port.protocol, port.host_address, port.host_port)
                except OSError:
                    # A program of the host was faster; the translation comes first.
                    held[port.host_address] = None

    def give_back(self, ports: Iterable[PublishedPort]) -> None:
        """Let go of them; ones not held are no error."""
        for port in ports:
            key = (port.protocol, port.host_port)
            held = self._held.get(key, {})
            made = held.pop(port.host_address, None)
            if made is not None:
                made.close()
            if not held:
                self._held.pop(key, None)

    def _take_one(self, wish: PortWish, *, ipv6: bool) -> list[PublishedPort]:
        hosts = [wish.host_address] if wish.host_address else [ANY, *((ANY6,) if ipv6 else ())]
        failure: System | None = None
        for number in self._candidates(wish):
            try:
                return list(self._hold_all(wish, hosts, number))
            except System as exc:
                failure = failure or exc
        raise failure or System("no port is free: the host's range of ephemeral ports is used up")

    def _hold_all(self, wish: PortWish, hosts: Sequence[str], number: int) -> Sequence[PublishedPort]:
        ports = []
        with ExitStack() as undo:
            for host in hosts:
                port = PublishedPort(
                    protocol=wish.protocol,
                    container_port=wish.container_port,
                    host_address=host,
                    host_port=number,
                )
                self._hold_one(port)
                undo.callback(self.give_back, (port,))
                ports.append(port)
            undo.pop_all()
        return ports

    def _candidates(self, wish: PortWish) -> Iterator[int]:
        if wish.first:
            yield from range(wish.first, wish.last + 1)
            return
        size = self._last - self._first + 1
        start = self._next - self._first
        for step in range(size):
            number = self._first + (start + step) % size
            self._next = self._first + (start + step + 1) % size
            yield number

    def _hold_one(self, port: PublishedPort) -> None:
        host, number = port.host_address, port.host_port
        held = self._held.setdefault((port.protocol, number), {})
        every = ANY6 if is_ipv6(host) else ANY
        rivals = [other for other in held if is_ipv6(other) == is_ipv6(host)]
        # All addresses of the host and one of them cannot both have a port.
        if host in rivals or every in rivals or (host == every and rivals):
            raise System(f"Bind for {_shown(host)}:{number} failed: port is already allocated")
        try:
            held[host] = _bind(port.protocol, host, number)
        except OSError as exc:
            reason = os.strerror(exc.errno or 0).lower()
            raise System(
                f"failed to bind host port for {_shown(host)}:{number}/{port.protocol}: {reason}"
            ) from exc
        finally:
            if not held:
                self._held.pop((port.protocol, number), None)


def _shown(host: str) -> str:
    return f"[{host}]" if is_ipv6(host) else host


def _bind(protocol: str, host: str, number: int) -> socket.socket | None:
    """A socket that holds the port; None for a protocol whose sockets this host may not have."""
    kind = _TYPES.get(protocol)
    if kind is None:
        return None
    made = socket.socket(socket.AF_INET6 if is_ipv6(host) else socket.AF_INET, kind)
    try:
        if is_ipv6(host):
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, number))
        if kind == socket.SOCK_STREAM:
            made.listen(1)  # without it another listener with SO_REUSEADDR could bind the port, too
    except BaseException:
        made.close()
        raise
    return made


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open(_RANGE, encoding="ascii") as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 49152, 65535

"""Host ports: which of them this daemon's containers have, and which are next. Pure; the keeper holds them.

Source: moby's libnetwork/portallocator.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence

from proa.errors import System
from proa.network.sandbox import PortWish, PublishedPort

ANY, ANY6 = "0.0.0.0", "::"
EVERY = (ANY, ANY6)
_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


def is_ipv6(address: str) -> bool:
    """Of an address of the host in text."""
    return ":" in address


class Ports:
    """The host ports of this daemon's containers."""

    def __init__(self, ephemeral: tuple[int, int] | None = None, *, ipv6: bool | None = None) -> None:
        """`ephemeral`: first and last port for those that ask for none; default is the host's range.
        `ipv6`: whether the host has it; default is to look.
        """
        self._held: dict[tuple[str, int], set[str]] = {}
        """By protocol and port: the addresses of the host."""
        self._first, self._last = ephemeral or _ephemeral_range()
        self._next = self._first
        self._ipv6 = os.path.exists("/proc/net/if_inet6") if ipv6 is None else ipv6

    def take(
        self, wish: PortWish, busy: Collection[int] = (), routed: Collection[bool] = ()
    ) -> tuple[PublishedPort, ...]:
        """A host port for a wish: of the family that it names, or the same number in each that there is.

        `busy` are numbers that programs of the host have. `routed` are the families (whether it is IPv6) in
        which the container is reached at its own address: there the host's port is 0, and comes last. Raises
        System in Docker's words.
        """
        both = (ANY, ANY6) if self._ipv6 else (ANY,)
        every = (wish.host_address,) if wish.host_address else both
        hosts = [host for host in every if is_ipv6(host) not in routed]
        opened = tuple(_published(wish, host, 0) for host in every if is_ipv6(host) in routed)
        return (*(self._take(wish, hosts, busy) if hosts else ()), *opened)

    def _take(self, wish: PortWish, hosts: Sequence[str], busy: Collection[int]) -> tuple[PublishedPort, ...]:
        failure: System | None = None
        for number in self._candidates(wish):
            if number in busy:
                continue
            try:
                self._check(wish.protocol, hosts, number)
            except System as exc:
                failure = failure or exc
                continue
            self._held.setdefault((wish.protocol, number), set()).update(hosts)
            return tuple(_published(wish, host, number) for host in hosts)
        raise failure or System("no port is free: the host's range of ephemeral ports is used up")

    def hold(self, ports: Iterable[PublishedPort]) -> None:
        """A container that runs has them already."""
        for port in filter(_has_number, ports):
            self._held.setdefault((port.protocol, port.host_port), set()).add(port.host_address)

    def give_back(self, ports: Iterable[PublishedPort]) -> None:
        """They are free; ones not held are no error."""
        for port in filter(_has_number, ports):
            key = (port.protocol, port.host_port)
            held = self._held.get(key, set())
            held.discard(port.host_address)
            if not held:
                self._held.pop(key, None)

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

    def _check(self, protocol: str, hosts: Sequence[str], number: int) -> None:
        """All addresses of the host and one of them cannot both have a port."""
        held = self._held.get((protocol, number))
        if not held:
            return
        for host in hosts:
            every = ANY6 if is_ipv6(host) else ANY
            rivals = [other for other in held if is_ipv6(other) == is_ipv6(host)]
            if host in rivals or every in rivals or (host == every and rivals):
                holder = next(
                    (other for other in (host, every) if other in rivals), rivals[0] if rivals else ""
                )
                raise System(f"Bind for {holder}:{number} failed: port is already allocated")


def _published(wish: PortWish, host: str, number: int) -> PublishedPort:
    return PublishedPort(
        protocol=wish.protocol, container_port=wish.container_port, host_address=host, host_port=number
    )


def _has_number(port: PublishedPort) -> bool:
    return port.host_port > 0


def socket_name(port: PublishedPort, target: str = "") -> str:
    """`0.0.0.0:80/tcp`, as the keeper tells of one; with a target `0.0.0.0:80:10.0.0.2:80/tcp`."""
    host = f"[{port.host_address}]" if is_ipv6(port.host_address) else port.host_address
    return f"{host}:{port.host_port}{':' if target else ''}{target}/{port.protocol}"


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open(_RANGE, encoding="ascii") as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 49152, 65535

"""Addresses: subnets, a free one for a network, and the addresses held in it. Pure; IPv4 as numbers.

An address that comes free is handed out last: what still knows its former holder (ARP, conntrack, a
client's cache) has the longest time to forget it.

Source: moby's libnetwork/ipamutils (default pools) and netutils (GenerateMACFromIP).
"""

import socket
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from proa.errors import InvalidParameter, System


class Subnet(Struct, frozen=True, order=True):
    """A range by its first address and prefix length."""

    first: int
    prefix: int

    @classmethod
    def around(cls, address: int, prefix: int) -> "Subnet":
        """The subnet that an address is in."""
        return cls(address & mask_of(prefix), prefix)

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Of `10.0.0.0/8`; host bits are dropped. Raises InvalidParameter."""
        address, prefix = parse_cidr(text)
        return cls.around(address, prefix)

    @property
    def last(self) -> int:
        """The broadcast address."""
        return self.first | (0xFFFFFFFF >> self.prefix)

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last

    def overlaps(self, other: "Subnet") -> bool:
        """Whether they have an address in common."""
        return self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return f"{to_text(self.first)}/{self.prefix}"


def mask_of(prefix: int) -> int:
    """The netmask of a prefix length."""
    return (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF


def to_text(address: int) -> str:
    """Dotted."""
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def parse_address(text: str) -> int:
    """Of dotted text; raises InvalidParameter."""
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):
        raise InvalidParameter(f"invalid IPv4 address: {text}") from None


def parse_cidr(text: str) -> tuple[int, int]:
    """(address, prefix) of `10.0.0.1/8`; raises InvalidParameter."""
    address, _, prefix = text.partition("/")
    if not (prefix.isascii() and prefix.isdigit() and 1 <= int(prefix) <= 30):
        raise InvalidParameter(f"invalid CIDR address: {text}")
    return parse_address(address), int(prefix)


def mac_of(address: int) -> str:
    """Docker's hardware address of an IPv4 address: locally administered, collision-free on its network."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.to_bytes(4, "big"))


DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    *((f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    ("192.168.0.0/16", 20),
)
"""Docker's: (range, prefix of the subnets cut from it)."""


def choose_subnet(pools: Iterable[tuple[str, int]], used: Sequence[Subnet]) -> Subnet:
    """The first subnet of the pools that overlaps none in use. Raises System when all do."""
    for base, size in pools:
        for candidate in _cut(Subnet.parse(base), size):
            if not any(candidate.overlaps(taken) for taken in used):
                return candidate
    raise System("all predefined address pools have been fully subnetted")


def _cut(base: Subnet, size: int) -> Iterator[Subnet]:
    if not base.prefix <= size <= 30:
        raise InvalidParameter(f"invalid address pool: {base} cannot be cut into /{size}")
    step = 1 << (32 - size)
    for first in range(base.first, base.last + 1, step):
        yield Subnet(first, size)


class Addresses:
    """The addresses of one subnet: which are held, and which is next."""

    def __init__(self, subnet: Subnet, reserved: Iterable[int] = ()) -> None:
        self.subnet = subnet
        self._held = {subnet.first, subnet.last, *reserved}
        self._next = subnet.first + 1

    def __len__(self) -> int:
        """How many are held, the reserved ones counted."""
        return len(self._held)

    def take(self) -> int:
        """The next free address after the one taken last, around the end. Raises System when full."""
        size = self.subnet.last - self.subnet.first + 1
        if len(self._held) >= size:
            raise System("no available IPv4 addresses on this network's address pools")
        candidate = self._next
        while candidate in self._held:
            candidate = self._following(candidate)
        self._held.add(candidate)
        self._next = self._following(candidate)
        return candidate

    def hold(self, address: int) -> bool:
        """Take this very address; False where it is held or outside."""
        if address not in self.subnet or address in self._held:
            return False
        self._held.add(address)
        self._next = max(self._next, self._following(address))
        return True

    def free(self, address: int) -> None:
        """Give an address back; one that is not held is no error."""
        if address not in (self.subnet.first, self.subnet.last):
            self._held.discard(address)

    def _following(self, address: int) -> int:
        return self.subnet.first if address >= self.subnet.last else address + 1

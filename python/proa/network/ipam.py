"""Addresses: subnets, a free one for a network, and the addresses held in it. Pure; addresses as numbers.

A number alone does not say its family; a `Subnet` does, by its `bits`. An address that comes free is handed
out last: what still knows its former holder (ARP, conntrack, a client's cache) has the longest time to
forget it.

Source: moby's libnetwork/ipamutils (default pools), libnetwork/ipams/defaultipam and netutils.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from proa.errors import Forbidden, InvalidParameter, System

IPV4, IPV6 = 32, 128
"""Bits of an address, which tell the families apart."""
_FAMILY = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
_LONGEST = {IPV4: 30, IPV6: 126}
"""Prefixes that leave room for a gateway and a container."""


class Subnet(Struct, frozen=True, order=True):
    """A range by its first address and prefix length."""

    first: int
    prefix: int
    bits: int = IPV4

    @classmethod
    def around(cls, address: int, prefix: int, bits: int = IPV4) -> "Subnet":
        """The subnet that an address is in."""
        return cls(address & mask_of(prefix, bits), prefix, bits)

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Of `10.0.0.0/8` or `fd00::/64`; host bits are dropped. Raises InvalidParameter."""
        return cls.around(*parse_cidr(text))

    @property
    def last(self) -> int:
        """The broadcast address, in IPv4."""
        return self.first | ((1 << (self.bits - self.prefix)) - 1)

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last

    def overlaps(self, other: "Subnet") -> bool:
        """Whether they have an address in common."""
        return self.bits == other.bits and self.first <= other.last and other.first <= self.last

    def within(self, other: "Subnet") -> bool:
        """Whether all of it is in another one."""
        return self.bits == other.bits and other.first <= self.first and self.last <= other.last

    def __str__(self) -> str:
        return f"{to_text(self.first, self.bits)}/{self.prefix}"


def mask_of(prefix: int, bits: int = IPV4) -> int:
    """The netmask of a prefix length."""
    return ((1 << prefix) - 1) << (bits - prefix)


def to_text(address: int, bits: int = IPV4) -> str:
    """As people write it."""
    return socket.inet_ntop(_FAMILY[bits], address.to_bytes(bits // 8, "big"))


def parse_address(text: str) -> int:
    """Of dotted text; raises InvalidParameter."""
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):
        raise InvalidParameter(f"invalid IPv4 address: {text}") from None


def parse_any(text: str) -> tuple[int, int]:
    """(address, bits) of either family; raises InvalidParameter."""
    bits = IPV6 if ":" in text else IPV4
    try:
        return int.from_bytes(socket.inet_pton(_FAMILY[bits], text), "big"), bits
    except (OSError, ValueError):
        raise InvalidParameter(f"invalid IP address: {text}") from None


def parse_cidr(text: str) -> tuple[int, int, int]:
    """(address, prefix, bits) of `10.0.0.1/8`; raises InvalidParameter."""
    address, _, prefix = text.partition("/")
    bits = IPV6 if ":" in address else IPV4
    if not (prefix.isascii() and prefix.isdigit() and 1 <= int(prefix) <= bits):
        raise InvalidParameter(f"invalid CIDR address: {text}")
    return parse_any(address)[0], int(prefix), bits


def mac_of(address: int) -> str:
    """Docker's hardware address of an IPv4 address: locally administered, collision-free on its network.

    Of an IPv6 address it takes the last four bytes, in which those of a network differ, too.
    """
    low = (address & 0xFFFFFFFF).to_bytes(4, "big")
    return "02:42:" + ":".join(f"{byte:02x}" for byte in low)


DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    *((f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    ("192.168.0.0/16", 20),
)
"""Docker's: (range, prefix of the subnets cut from it)."""


def ula_pool(seed: bytes) -> tuple[str, int]:
    """The IPv6 pool of a host without one: a unique local /48, the same for one seed of five bytes."""
    if len(seed) != 5:
        raise ValueError("a global id has 40 bits")
    return str(Subnet(int.from_bytes(b"\xfd" + seed, "big") << 80, 48, IPV6)), 64


def choose_subnet(pools: Iterable[tuple[str, int]], used: Sequence[Subnet], bits: int = IPV4) -> Subnet:
    """The first subnet of the pools of a family that overlaps none in use. Raises System when all do."""
    for base, size in pools:
        pool = Subnet.parse(base)
        if pool.bits != bits:
            continue
        for candidate in _cut(pool, size):
            if not any(candidate.overlaps(taken) for taken in used):
                return candidate
    raise System("all predefined address pools have been fully subnetted")


def _cut(base: Subnet, size: int) -> Iterator[Subnet]:
    if not base.prefix <= size <= _LONGEST[base.bits]:
        raise InvalidParameter(f"invalid address pool: {base} cannot be cut into /{size}")
    step = 1 << (base.bits - size)
    for first in range(base.first, base.last + 1, step):
        yield Subnet(first, size, base.bits)


class Addresses:
    """The addresses of one subnet: which are held, and which is next.

    `only` is the range that `take` hands out of; an address that is asked for may lie outside of it.
    """

    def __init__(self, subnet: Subnet, reserved: Iterable[int] = (), only: Subnet | None = None) -> None:
        self.subnet = subnet
        self._never = frozenset((*_ends(subnet), *reserved))
        self._held = set(self._never)
        self._range = only or subnet
        self._size = self._range.last - self._range.first + 1
        self._next = self._range.first

    def __len__(self) -> int:
        """How many are held, the reserved ones counted."""
        return len(self._held)

    @property
    def held(self) -> frozenset[int]:
        """Those that somebody has."""
        return frozenset(self._held - self._never)

    @property
    def available(self) -> int:
        """How many `take` could still give."""
        return self._size - sum(1 for number in self._held if number in self._range)

    @property
    def spare(self) -> bool:
        """Whether `take` could still give one; seldom a look at all that are held."""
        return self._size > len(self._held) or self.available > 0

    def take(self) -> int:
        """The next free address after the one taken last, around the end. Raises System when full."""
        candidate = self._next
        # Among so many candidates there is one that is not held, if there is one at all.
        for _ in range(min(self._size, len(self._held) + 1)):
            if candidate not in self._held:
                self._held.add(candidate)
                self._next = self._following(candidate)
                return candidate
            candidate = self._following(candidate)
        family = "IPv4" if self.subnet.bits == IPV4 else "IPv6"
        raise System(f"no available {family} addresses on this network's address pools")

    def take_this(self, address: int) -> None:
        """An address that was asked for. Raises InvalidParameter, Forbidden in Docker's words."""
        if address not in self.subnet:
            text = to_text(address, self.subnet.bits)
            raise InvalidParameter(
                f"invalid address {text}: It does not belong to any of this network's subnets"
            )
        if address in self._held:
            raise Forbidden("Address already in use")
        self._held.add(address)

    def hold(self, address: int) -> bool:
        """Take this very address for what has it already; False where it is held or outside."""
        if address not in self.subnet or address in self._held:
            return False
        self._held.add(address)
        if address in self._range:
            self._next = max(self._next, self._following(address))
        return True

    def free(self, address: int) -> None:
        """Give an address back; one that is not held is no error."""
        if address not in self._never:
            self._held.discard(address)

    def _following(self, address: int) -> int:
        return self._range.first if address >= self._range.last else address + 1


def _ends(subnet: Subnet) -> tuple[int, ...]:
    """What no interface has: the network's and the broadcast address, but of a link between two (RFC 3021);
    in IPv6 the routers' anycast address.
    """
    if subnet.bits == IPV6:
        return (subnet.first,)
    return (subnet.first, subnet.last) if subnet.bits - subnet.prefix > 1 else ()

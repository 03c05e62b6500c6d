"""The addresses of a network: one space for each of its subnets, and what endpoints are given out of them."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from proa.errors import InvalidParameter, ProaError, System
from proa.network.ipam import IPV4, IPV6, Addresses, Subnet, mac_of, parse_any
from proa.network.records import SubnetRecord, new_id
from proa.network.sandbox import EndpointWish

_NAMES = {IPV4: "IPv4", IPV6: "IPv6"}


class Assigned(Struct, frozen=True, kw_only=True):
    """What an endpoint was given; None where the network has no addresses of the family."""

    four: int | None
    six: int | None
    mac: str


class Spaces:
    """Which addresses are held."""

    def __init__(self, subnets: Sequence[SubnetRecord], network: str) -> None:
        """`network` is what a message calls it."""
        self._spaces = [_space(subnet) for subnet in subnets]
        self._network = network

    def moved(self, subnets: Sequence[SubnetRecord]) -> "Spaces":
        """Of other subnets; addresses stay held where they still lie in one."""
        changed = Spaces(subnets, self._network)
        for space in self._spaces:
            for number in space.held:
                changed._hold(number, space.subnet.bits)
        return changed

    @property
    def spare(self) -> bool:
        """Whether there are addresses for one more endpoint."""
        families = {space.subnet.bits for space in self._spaces}
        return all(any(s.spare for s in self._spaces if s.subnet.bits == bits) for bits in families)

    def assign(self, wish: EndpointWish) -> Assigned:
        """Addresses for an endpoint, all or none. Raises ProaError."""
        four = self._take(IPV4, wish.ipv4)
        try:
            six = self._take(IPV6, wish.ipv6)
        except BaseException:
            if four is not None:
                self._free(four, IPV4)
            raise
        number = four if four is not None else six
        mac = mac_of(number) if number is not None else mac_of(int(new_id()[:8], 16))
        return Assigned(four=four, six=six, mac=wish.mac or mac)

    def free(self, assigned: Assigned) -> None:
        """Give its addresses back. Idempotent."""
        for number, bits in ((assigned.four, IPV4), (assigned.six, IPV6)):
            if number is not None:
                self._free(number, bits)

    def free_all(self, addresses: Iterable[str]) -> None:
        """The same, of addresses in text."""
        for text in addresses:
            self._free(*parse_any(text))

    def hold_all(self, addresses: Iterable[str]) -> None:
        """Somebody has them already."""
        for text in addresses:
            self._hold(*parse_any(text))

    def hold(self, number: int) -> bool:
        """Take this IPv4 address; False where it is held or in no subnet."""
        return self._hold(number, IPV4)

    def number(self, text: str) -> int:
        """An address, parsed."""
        return parse_any(text)[0]

    def _take(self, bits: int, text: str) -> int | None:
        spaces = [space for space in self._spaces if space.subnet.bits == bits]
        if text:
            number, _ = parse_any(text)
            for space in spaces:
                if number in space.subnet:
                    space.take_this(number)
                    return number
            raise InvalidParameter(f"{text}: the network has no {_NAMES[bits]} subnet with this address")
        for index, space in enumerate(spaces, start=1):
            try:
                return space.take()
            except System as exc:
                if index == len(spaces):
                    raise System(f"{exc}: {self._network}") from None
        return None

    def _hold(self, number: int, bits: int) -> bool:
        return any(space.hold(number) for space in self._spaces if space.subnet.bits == bits)

    def _free(self, number: int, bits: int) -> None:
        for space in self._spaces:
            if space.subnet.bits == bits:
                space.free(number)


def _space(subnet: SubnetRecord) -> Addresses:
    only = Subnet.parse(subnet.ip_range) if subnet.ip_range else None
    return Addresses(subnet.range, subnet.reserved, only)


def address_faults(subnets: Sequence[SubnetRecord], wish: EndpointWish) -> Sequence[str]:
    """What is wrong with the addresses of a wish on a network of these subnets."""
    found = []
    for text, bits in ((wish.ipv4, IPV4), (wish.ipv6, IPV6)):
        if not text:
            continue
        able = [subnet.range for subnet in subnets if subnet.configured and subnet.range.bits == bits]
        if not able:
            found.append(
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            )
        elif not any(_lies_in(text, subnet) for subnet in able):
            found.append(f"no configured subnet or ip-range contain the IP address {text}")
    return found


def _lies_in(text: str, subnet: Subnet) -> bool:
    try:
        return parse_any(text)[0] in subnet
    except ProaError:
        return False

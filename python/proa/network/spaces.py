"""The addresses of a network: one space for each of its subnets, and what endpoints are given out of them."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from proa.errors import InvalidParameter, System
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

    def __init__(self, subnets: Sequence[SubnetRecord]) -> None:
        self._subnets = tuple(subnets)
        self._spaces = [_space(subnet) for subnet in subnets]

    def moved(self, subnets: Sequence[SubnetRecord]) -> "Spaces":
        """Of other subnets; addresses stay held where they still lie in one."""
        changed = Spaces(subnets)
        for space in self._spaces:
            for number in space.held:
                changed._hold(number, space.subnet.bits)
        return changed

    def check(self, wish: EndpointWish, *, default: bool) -> None:
        """Raises InvalidParameter for what no endpoint can have; `default`: of the default network."""
        for text in (wish.ipv4, wish.ipv6):
            if text:
                self._check_address(text, default=default)
        if wish.aliases and default:
            raise InvalidParameter(
                "network-scoped alias is supported only for containers in user defined networks"
            )

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

    def _check_address(self, text: str, *, default: bool) -> None:
        if default:
            raise InvalidParameter("user specified IP address is supported on user defined networks only")
        number, bits = parse_any(text)
        able = [subnet for subnet in self._subnets if subnet.range.bits == bits]
        if not any(subnet.configured for subnet in able):
            raise InvalidParameter(
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            )
        if not any(number in subnet.range for subnet in able):
            raise InvalidParameter(
                f"invalid endpoint settings:\nno configured subnet contains IP address {text}"
            )

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
            except System:
                if index == len(spaces):
                    raise
        return None

    def _hold(self, number: int, bits: int) -> bool:
        return any(space.hold(number) for space in self._spaces if space.subnet.bits == bits)

    def _free(self, number: int, bits: int) -> None:
        for space in self._spaces:
            if space.subnet.bits == bits:
                space.free(number)


def _space(subnet: SubnetRecord) -> Addresses:
    only = one_or_more(subnet.ip_range) if subnet.ip_range else None
    return Addresses(subnet.range, subnet.reserved, only)


def one_or_more(text: str) -> Subnet:
    """A range, which may be a single address (`10.0.0.7/32`)."""
    address, _, prefix = text.partition("/")
    if prefix in ("32", "128"):
        number, bits = parse_any(address)
        return Subnet(number, bits, bits)
    return Subnet.parse(text)

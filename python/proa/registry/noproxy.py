"""NO_PROXY: who is reached without a proxy, by Go's rules. Pure.

    *                       everybody
    10.0.0.0/8              addresses of a network
    10.1.2.3   [::1]:5000   an address, whatever its spelling
    example.com             that host and those below it
    .example.com *.example.com   those below it alone

A port after a colon narrows all but networks. localhost and loopback addresses never have a proxy.

Source: golang.org/x/net/http/httpproxy, the documentation of Config.NoProxy and its matchers.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from msgspec import Struct

from proa.registry.origin import Origin

Address = IPv4Address | IPv6Address


class _Everybody(Struct, frozen=True):
    def holds(self, host: str, port: int, address: Address | None) -> bool:
        return True


class _Network(Struct, frozen=True):
    network: IPv4Network | IPv6Network

    def holds(self, host: str, port: int, address: Address | None) -> bool:
        return address is not None and address in self.network


class _Single(Struct, frozen=True):
    address: Address
    port: str

    def holds(self, host: str, port: int, address: Address | None) -> bool:
        return address == self.address and self.port in ("", str(port))


class _Domain(Struct, frozen=True):
    suffix: str
    """With its dot."""
    itself: bool
    port: str

    def holds(self, host: str, port: int, address: Address | None) -> bool:
        if address is not None:
            return False  # of a zone's name, too: CVE-2025-22870
        found = host.endswith(self.suffix) or (self.itself and host == self.suffix[1:])
        return found and self.port in ("", str(port))


Rule = _Everybody | _Network | _Single | _Domain


def read_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a NO_PROXY; what is none is passed over, as Go does."""
    found = (_rule(part.strip().lower()) for part in text.split(",") if part.strip())
    return tuple(rule for rule in found if rule is not None)


def is_direct(rules: tuple[Rule, ...], origin: Origin) -> bool:
    """Whether an origin is reached without a proxy."""
    host = origin.host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(rule.holds(host, origin.port, address) for rule in rules)


def _rule(text: str) -> Rule | None:
    if text == "*":
        return _Everybody()
    if "/" in text:
        try:
            return _Network(ip_network(text, strict=False))
        except ValueError:
            pass
    name, port = _split(text)
    address = _address(name)
    if address is not None:
        return _Single(address, port)
    name = name.removeprefix("*") if name.startswith("*.") else name
    if not name.strip("."):
        return None
    return _Domain(name, False, port) if name.startswith(".") else _Domain(f".{name}", True, port)


def _split(text: str) -> tuple[str, str]:
    """(host, port); an IPv6 address without brackets has no port."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and ":" not in host else (text, "")


def _address(host: str) -> Address | None:
    try:
        found = ip_address(host)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found

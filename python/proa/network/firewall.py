"""The firewall: one nft table of constant rules; a network is elements in a few sets. Blocking.

    set bridges         interface        every bridge of proa
    set links           in . out         a bridge with itself, and interfaces of the host that it trusts
    set internal        interface        bridges of internal networks
    set unprotected[6]  interface        bridges whose containers are open to all that is routed to them
    set routed[6]       interface        bridges whose containers are reached without translation
    set masquerade[6]   address range    subnets whose traffic leaves under the host's address

    map publish[6]      protocol . port -> address . port               published on every address
    map publish_at[6]   protocol . address . port -> address . port     published on one
    set open[6]         protocol . address . port                       published without translation (routed)

    chain guard        in @bridges, to 127.0.0.0/8            drop
    chain prerouting   to the host, in a map                  translate the destination
    chain output       the same, for what the host itself sends (but to ::1)
    chain forward      out @bridges, established or related   accept
                       in . out @links                        accept
                       in @internal                           drop
                       out @bridges, destination translated   accept
                       to @open                               accept
                       out @unprotected, @unprotected6        accept
                       out @routed, ICMP; @routed6, ICMPv6    accept
                       out @bridges                           drop
    chain postrouting  from @masquerade, out not @bridges     masquerade
                       from @masquerade, out @bridges, translated     masquerade  (hairpin, localhost)

So what comes from outside unasked is dropped, networks do not reach each other, containers reach out, and
those of an internal network reach nothing but each other and the host. Publishing a port is one element more.
127.0.0.0/8 is in @masquerade, and the bridges have route_localnet, so that the host reaches published ports
on localhost; the guard keeps containers from the host's own. The whole table is written in one transaction
that replaces it: a half-written firewall is never seen.

Beside another firewall: every base chain at a hook must let a packet through, so an accept there
overrides none of the drops here, and a FORWARD policy DROP there (dockerd's iptables sets one) would stop
proa's traffic: see docker_user.py for the way through. A policy DROP of the host's own is respected, and so
are rules of the host's administrator in the chain DOCKER-USER.
"""

import errno
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from proa.network import nftables as nft
from proa.network.ipam import IPV4, IPV6, Subnet
from proa.network.netlink import NETFILTER, Message, Netlink

_NUMBERS = {
    name: number
    for number, name in enumerate(
        (
            *("bridges", "links", "internal", "masquerade", "masquerade6", "open", "open6"),
            *("unprotected", "unprotected6", "routed", "routed6"),
            *("publish", "publish_at", "publish6", "publish_at6"),
        ),
        start=1,
    )
}
"""Names each set inside a transaction that makes them."""
_BY_FAMILY = ("unprotected", "routed")
"""Sets of bridges that there are for each family."""
_LOOPBACK = Subnet.parse("127.0.0.0/8")
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ESTABLISHED_OR_RELATED = 2 | 4
_DESTINATION_TRANSLATED = 1 << 5
own_sockets: deque[int] = deque(maxlen=256)
"""Numbers of the sockets that the last changes went through: the kernel tells of changes with them."""
_AT_ONCE = 400
"""Elements in a message: its attributes' lengths have sixteen bits."""


class FirewallNetwork(Struct, frozen=True, kw_only=True):
    """A network as the firewall sees it."""

    bridges: tuple[str, ...]
    """The bridge, and its shards."""
    masquerade: tuple[Subnet, ...] = ()
    """Those of its subnets that leave under the host's address."""
    internal_traffic: bool = True
    """Containers of the network reach each other through the host's forwarding (icc)."""
    internal: bool = False
    unprotected: tuple[int, ...] = ()
    """The families, by their bits, in which it is open to all that is routed to it."""
    routed: tuple[int, ...] = ()
    """Those in which its containers are reached at their own addresses: ICMP and `Opening` pass."""
    trusted: tuple[str, ...] = ()
    """Interfaces of the host from which everything passes."""


class Translation(Struct, frozen=True, kw_only=True):
    """A published port; `host_address` None for every address of the host."""

    protocol: str
    host_address: int | None
    host_port: int
    address: int
    port: int
    bits: int = IPV4


class Opening(Struct, frozen=True, kw_only=True):
    """A port of a container that outsiders reach at the container's own address."""

    protocol: str
    address: int
    port: int
    bits: int = IPV4


Rule = Translation | Opening


class Owner:
    """The socket that a table belongs to, open for the life of the process; one thread at a time."""

    def __init__(self) -> None:
        self.netlink = Netlink(NETFILTER)
        self.lock = threading.Lock()


_owners: dict[str, Owner] = {}
"""By table."""


def disown(table: str) -> None:
    """Let others change the table again; it stays."""
    owner = _owners.pop(table, None)
    if owner is not None:
        owner.netlink.close()


def install(
    table: str, networks: Iterable[FirewallNetwork], published: Sequence[Rule] = (), *, own: bool = False
) -> None:
    """Write the table with these networks and ports, in place of whatever it held. Raises OSError.

    With `own` nobody else can change it as long as this process lives: a `flush ruleset` passes it by, which
    otherwise would cost the connections that send meanwhile. Kernels before 6.9 cannot, and the table is one
    as any other.
    """
    content = _content(table, tuple(networks), published)
    # Deleting what is not there fails the transaction; creating what is there does not, unless it is to be
    # one's own and was nobody's: then it has to go first.
    ways = ((True, True), (False, True), (False, False)) if own else ((False, False),)
    if own:
        _owners.setdefault(table, Owner())
    for first, then in ways:
        start = (nft.new_table(table, owned=first), nft.delete_table(table), nft.new_table(table, owned=then))
        try:
            _send(table, [*start, *content])
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL) or not then:
                raise
        else:
            return


def _content(table: str, networks: Sequence[FirewallNetwork], published: Sequence[Rule]) -> list[Message]:
    messages = [
        *_sets(table),
        *_chains(table),
        nft.add_elements(table, "masquerade", _interval(_LOOPBACK), _NUMBERS["masquerade"]),
        *_additions(table, published, fresh=True),
    ]
    for network in networks:
        for name, elements in _elements(network):
            messages.append(nft.add_elements(table, name, elements, _NUMBERS[name]))
    return messages


def add_network(table: str, network: FirewallNetwork) -> None:
    """A network more; elements that are there already are no error. Raises OSError (ENOENT: no table)."""
    _send(table, [nft.add_elements(table, name, elements) for name, elements in _elements(network)])


def remove_network(table: str, network: FirewallNetwork) -> None:
    """A network less; what is not there is no error."""
    for name, elements in _elements(network):
        _forgiving(table, [nft.delete_elements(table, name, elements)])


def change(table: str, add: Sequence[Rule], remove: Sequence[Rule] = ()) -> None:
    """Publish ports and take others back, all or none. Raises OSError (ENOENT: no table)."""
    _send(table, [*_removals(table, remove), *_additions(table, add)])


def unpublish(table: str, ports: Sequence[Rule]) -> None:
    """Take ports back; ones that are not there are no error, one at a time then."""
    if not _forgiving(table, _removals(table, ports)) and len(ports) > 1:
        for port in ports:
            unpublish(table, [port])


def remove(table: str) -> None:
    """Take the table away; missing is no error."""
    _forgiving(table, [nft.delete_table(table)])


def _forgiving(table: str, messages: Sequence[Message]) -> bool:
    """False where something was not there: then nothing was done."""
    try:
        _send(table, messages)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
        return False
    return True


def _send(table: str, messages: Sequence[Message]) -> None:
    if not messages:
        return
    owner = _owners.get(table)
    if owner is not None:
        with owner.lock:
            _transact(owner.netlink, messages)
    else:
        with Netlink(NETFILTER) as netlink:
            _transact(netlink, messages)


def _transact(netlink: Netlink, messages: Sequence[Message]) -> None:
    own_sockets.append(netlink.number)
    netlink.batch(nft.transaction(messages))


# ---- sets ---------------------------------------------------------------------------------------


def _sets(table: str) -> Iterator[Message]:
    pair = nft.concatenation(nft.TYPE_INTERFACE, nft.TYPE_INTERFACE)
    for name, kind, size in (
        ("bridges", nft.TYPE_INTERFACE, 16),
        ("links", pair, 32),
        ("internal", nft.TYPE_INTERFACE, 16),
        *((f"{name}{suffix}", nft.TYPE_INTERFACE, 16) for name in _BY_FAMILY for suffix in ("", "6")),
    ):
        yield nft.new_set(table, name, _NUMBERS[name], kind, size)
    protocol, port = nft.TYPE_PROTOCOL, nft.TYPE_PORT
    for suffix, address, size in (("", nft.TYPE_ADDRESS, 4), ("6", nft.TYPE_ADDRESS6, 16)):
        name = f"masquerade{suffix}"
        yield nft.new_set(table, name, _NUMBERS[name], address, size, flags=nft.SET_INTERVAL)
        name = f"open{suffix}"
        kind = nft.concatenation(protocol, address, port)
        yield nft.new_set(table, name, _NUMBERS[name], kind, size + 8)
        target = (address, port)
        name = f"publish{suffix}"
        yield nft.new_map(table, name, _NUMBERS[name], (protocol, port), target, (8, size + 4))
        name = f"publish_at{suffix}"
        yield nft.new_map(
            table, name, _NUMBERS[name], (protocol, address, port), target, (size + 8, size + 4)
        )


def _elements(network: FirewallNetwork) -> Iterator[tuple[str, list[bytes]]]:
    """(set, elements) of a network."""
    bridges = [nft.element(nft.interface_key(bridge)) for bridge in network.bridges]
    yield "bridges", bridges
    if network.internal_traffic:
        yield "links", [nft.element(nft.interface_key(bridge, bridge)) for bridge in network.bridges]
    if network.internal:
        yield "internal", bridges
    for source in network.trusted:
        yield "links", [nft.element(nft.interface_key(source, bridge)) for bridge in network.bridges]
    for name, families in zip(_BY_FAMILY, (network.unprotected, network.routed), strict=True):
        for bits in families:
            yield (name if bits == IPV4 else f"{name}6"), bridges
    for subnet in network.masquerade:
        yield ("masquerade" if subnet.bits == IPV4 else "masquerade6"), _interval(subnet)


def _additions(table: str, rules: Sequence[Rule], *, fresh: bool = False) -> Iterator[Message]:
    for name, found in _by_set(rules).items():
        for start in range(0, len(found), _AT_ONCE):
            elements = [_element(rule) for rule in found[start : start + _AT_ONCE]]
            yield nft.add_elements(table, name, elements, _NUMBERS[name] if fresh else None)


def _removals(table: str, rules: Sequence[Rule]) -> list[Message]:
    return [
        nft.delete_elements(table, name, [nft.element(_key_of(rule)) for rule in found[start:][:_AT_ONCE]])
        for name, found in _by_set(rules).items()
        for start in range(0, len(found), _AT_ONCE)
    ]


def _by_set(rules: Sequence[Rule]) -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        found.setdefault(_set_of(rule), []).append(rule)
    return found


def _set_of(rule: Rule) -> str:
    suffix = "6" if rule.bits == IPV6 else ""
    if isinstance(rule, Opening):
        return f"open{suffix}"
    return f"publish{suffix}" if rule.host_address is None else f"publish_at{suffix}"


def _element(rule: Rule) -> bytes:
    if isinstance(rule, Opening):
        return nft.element(_key_of(rule))
    target = nft.words(_octets(rule.address, rule.bits), rule.port.to_bytes(2, "big"))
    return nft.map_element(_key_of(rule), target)


def _key_of(rule: Rule) -> bytes:
    protocol = bytes([_PROTOCOLS[rule.protocol]])
    if isinstance(rule, Opening):
        return nft.words(protocol, _octets(rule.address, rule.bits), rule.port.to_bytes(2, "big"))
    number = rule.host_port.to_bytes(2, "big")
    if rule.host_address is None:
        return nft.words(protocol, number)
    return nft.words(protocol, _octets(rule.host_address, rule.bits), number)


def _octets(address: int, bits: int) -> bytes:
    return address.to_bytes(bits // 8, "big")


def _interval(subnet: Subnet) -> list[bytes]:
    first, after = _octets(subnet.first, subnet.bits), _octets(subnet.last + 1, subnet.bits)
    return [nft.element(first), nft.element(after, interval_end=True)]


# ---- chains -------------------------------------------------------------------------------------


def _chains(table: str) -> list[Message]:
    return [
        nft.new_base_chain(table, "guard", "filter", nft.PREROUTING, nft.RAW_PRIORITY),
        nft.new_base_chain(table, "prerouting", "nat", nft.PREROUTING, nft.DESTINATION_NAT_PRIORITY),
        nft.new_base_chain(table, "output", "nat", nft.OUTPUT, nft.DESTINATION_NAT_PRIORITY),
        nft.new_base_chain(table, "forward", "filter", nft.FORWARD, nft.FILTER_PRIORITY),
        nft.new_base_chain(table, "postrouting", "nat", nft.POSTROUTING, nft.SOURCE_NAT_PRIORITY),
        nft.new_rule(
            table, "guard", _interface("in", "bridges"), nft.ipv4(), nft.to_loopback(), nft.verdict(nft.DROP)
        ),
        *_forward(table),
        *_translations(table, "prerouting"),
        *_translations(table, "output"),
        *_masquerade(table),
    ]


def _forward(table: str) -> Iterator[Message]:
    to_bridge = _interface("out", "bridges")
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    for rule in (
        (to_bridge, nft.connection_state(_ESTABLISHED_OR_RELATED), accept),
        (nft.interfaces_in("links", _NUMBERS["links"]), accept),
        (_interface("in", "internal"), drop),
        (to_bridge, nft.connection_status(_DESTINATION_TRANSLATED), accept),
        (nft.ipv4(), nft.destination_in("open", _NUMBERS["open"]), accept),
        (nft.ipv6(), nft.destination_in("open6", _NUMBERS["open6"], six=True), accept),
        (nft.ipv4(), _interface("out", "unprotected"), accept),
        (nft.ipv6(), _interface("out", "unprotected6"), accept),
        (nft.ipv4(), _interface("out", "routed"), nft.icmp(), accept),
        (nft.ipv6(), _interface("out", "routed6"), nft.icmp(six=True), accept),
        (to_bridge, drop),
    ):
        yield nft.new_rule(table, "forward", *rule)


def _translations(table: str, chain: str) -> Iterator[Message]:
    # IPv6 from ::1 to a container cannot be: the keeper's socket has it, and passes it on.
    six_only = nft.ipv6() + nft.not_to_loopback6()
    for family, six, suffix in ((nft.ipv4(), False, ""), (six_only, True, "6")):
        for name, with_address in ((f"publish_at{suffix}", True), (f"publish{suffix}", False)):
            translate = nft.translate_by(name, _NUMBERS[name], with_address=with_address, six=six)
            yield nft.new_rule(table, chain, family, nft.to_this_host(), translate)


def _masquerade(table: str) -> Iterator[Message]:
    translated = nft.connection_status(_DESTINATION_TRANSLATED)
    outwards, to_bridge = _interface("out", "bridges", inverted=True), _interface("out", "bridges")
    for family, six, name in ((nft.ipv4(), False, "masquerade"), (nft.ipv6(), True, "masquerade6")):
        ours = family + nft.source_in(name, _NUMBERS[name], six=six)
        yield nft.new_rule(table, "postrouting", ours, outwards, nft.masquerade())
        yield nft.new_rule(table, "postrouting", ours, to_bridge, translated, nft.masquerade())


def _interface(direction: str, name: str, *, inverted: bool = False) -> bytes:
    return nft.interface_in(direction, name, _NUMBERS[name], inverted=inverted)

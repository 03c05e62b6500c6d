"""nftables messages: the expressions and objects of a ruleset as nfnetlink attributes.

A vocabulary and nothing else; what the rules are is firewall.py's. Source: linux/netfilter/nf_tables.h.
"""

import struct
from collections.abc import Iterable, Sequence

from proa.network.netlink import ACK, APPEND, CREATE, Message, attribute, attributes, be32, nested, string

IPV4, IPV6, INET = 2, 10, 1
"""Families of tables."""
GROUP = 7
"""NFNLGRP_NFTABLES: the multicast group that tells of changes."""
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _DELTABLE = 0, 2
_OWNER, _PERSIST = 2, 4
_NEWCHAIN = 3
_NEWRULE, _GETRULE, _DELRULE = 6, 7, 8
_NEWSET = 9
_NEWSETELEM, _DELSETELEM = 12, 14
GET_RULE = _SUBSYSTEM | _GETRULE

PREROUTING, FORWARD, OUTPUT, POSTROUTING = 0, 2, 3, 4
"""Hook numbers (enum nf_inet_hooks)."""
RAW_PRIORITY, DESTINATION_NAT_PRIORITY, FILTER_PRIORITY, SOURCE_NAT_PRIORITY = -300, -100, 0, 100
DROP, ACCEPT = 0, 1

SET_INTERVAL = 4
_SET_MAP = 8
TYPE_ADDRESS, TYPE_ADDRESS6, TYPE_PROTOCOL, TYPE_PORT, TYPE_INTERFACE = 7, 8, 12, 13, 41
"""nft's numbers of data types: only nft itself reads them, to print a set."""

_REGISTER_1, _REGISTER_2 = 1, 2
_WORD_0 = 8
"""NFT_REG32_00: registers of four bytes from here on; a concatenated key is a run of them."""
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_DIRECTIONS = {_META_IIFNAME: "in", _META_OIFNAME: "out"}
_PROTOCOL_IPV4, _PROTOCOL_IPV6 = 2, 10
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE, _DESTINATION = 12, 16
"""Offsets of the addresses in an IPv4 header."""
_SOURCE6, _DESTINATION6 = 8, 24
_LOCAL_ADDRESS = 2
_INTERFACE_NAME = 16


# ---- messages -----------------------------------------------------------------------------------


def transaction(messages: Sequence[Message]) -> list[Message]:
    """Messages between the batch marks: the kernel does all of them or none."""
    marker = struct.pack(">BBH", 0, 0, 10)
    return [Message(_BATCH_BEGIN, 0, marker), *messages, Message(_BATCH_END, 0, marker)]


def new_table(table: str, *, owned: bool = False) -> Message:
    """A table; an `owned` one can be changed only through this socket while that is open; it stays then."""
    flags = be32(2, _OWNER | _PERSIST) if owned else b""
    return _message(_NEWTABLE, CREATE, string(1, table) + flags, f"create nft table {table}")


def delete_table(table: str) -> Message:
    return _message(_DELTABLE, 0, string(1, table), f"remove nft table {table}")


def new_base_chain(table: str, name: str, kind: str, hook: int, priority: int) -> Message:
    """A chain at a hook, policy accept; `kind` is filter or nat."""
    body = string(1, table) + string(3, name)
    body += nested(4, be32(1, hook), be32(2, priority)) + be32(5, ACCEPT) + string(7, kind)
    return _message(_NEWCHAIN, CREATE, body, f"create nft chain {name}")


def new_set(table: str, name: str, number: int, key_type: int, key_size: int, *, flags: int = 0) -> Message:
    """A set; `number` names it inside the transaction."""
    body = string(1, table) + string(2, name) + be32(3, flags) + be32(4, key_type) + be32(5, key_size)
    body += be32(10, number)
    if key_type == TYPE_INTERFACE:
        # For nft's listing: keys are in the host's byte order (libnftnl's NFTNL_UDATA_SET_KEYBYTEORDER).
        body += attribute(13, struct.pack("=BBI", 0, 4, 1))
    return _message(_NEWSET, CREATE, body, f"create nft set {name}")


def new_map(
    table: str, name: str, number: int, key: Sequence[int], value: Sequence[int], sizes: tuple[int, int]
) -> Message:
    """A map between concatenations of data types; `sizes` in bytes, each part padded to four."""
    body = string(1, table) + string(2, name) + be32(3, _SET_MAP)
    body += be32(4, concatenation(*key)) + be32(5, sizes[0])
    body += be32(6, concatenation(*value)) + be32(7, sizes[1]) + be32(10, number)
    return _message(_NEWSET, CREATE, body, f"create nft map {name}")


def concatenation(*types: int) -> int:
    """nft's number of a concatenated type."""
    number = 0
    for kind in types:
        number = number << 6 | kind
    return number


def add_elements(table: str, name: str, elements: Iterable[bytes], number: int | None = None) -> Message:
    return _elements(_NEWSETELEM, CREATE, table, name, elements, number)


def delete_elements(table: str, name: str, elements: Iterable[bytes]) -> Message:
    return _elements(_DELSETELEM, 0, table, name, elements, None)


def new_rule(table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the end of a chain."""
    body = string(1, table) + string(2, chain) + nested(4, *expressions)
    return _message(_NEWRULE, CREATE | APPEND, body, f"add nft rule to {chain}")


def insert_rule(family: int, table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the beginning of a chain of any family."""
    body = string(1, table) + string(2, chain) + nested(4, *expressions)
    return _message(_NEWRULE, CREATE, body, f"add nft rule to {chain}", family)


def delete_rule(family: int, table: str, chain: str, handle: int) -> Message:
    body = string(1, table) + string(2, chain) + attribute(3, struct.pack(">Q", handle))
    return _message(_DELRULE, 0, body, f"remove nft rule from {chain}", family)


def _message(kind: int, flags: int, body: bytes, what: str, family: int = INET) -> Message:
    return Message(_SUBSYSTEM | kind, ACK | flags, struct.pack(">BBH", family, 0, 0) + body, what)


def _elements(
    kind: int, flags: int, table: str, name: str, elements: Iterable[bytes], number: int | None
) -> Message:
    body = string(1, table) + string(2, name)
    if number is not None:
        body += be32(4, number)
    return _message(kind, flags, body + nested(3, *elements), f"change nft set {name}")


# ---- set elements -------------------------------------------------------------------------------


def element(key: bytes, *, interval_end: bool = False) -> bytes:
    """One element; an interval is its first key and, as its end, the key after its last."""
    body = nested(1, attribute(1, key))
    return nested(1, body + be32(3, 1)) if interval_end else nested(1, body)


def map_element(key: bytes, value: bytes) -> bytes:
    """One element of a map."""
    return nested(1, nested(1, attribute(1, key)) + nested(2, attribute(1, value)))


def words(*parts: bytes) -> bytes:
    """A concatenated key or value: each part padded to four bytes."""
    return b"".join(part.ljust(4, b"\0") for part in parts)


def interface_key(*names: str) -> bytes:
    """Interface names as a key, each padded as the kernel compares them."""
    return b"".join(name.encode().ljust(_INTERFACE_NAME, b"\0") for name in names)


# ---- expressions --------------------------------------------------------------------------------


def ipv4() -> bytes:
    """Match IPv4 only: what a payload offset needs in the inet family."""
    return _meta(_META_NFPROTO, _REGISTER_1) + _compare(bytes([_PROTOCOL_IPV4]))


def ipv6() -> bytes:
    """Match IPv6 only."""
    return _meta(_META_NFPROTO, _REGISTER_1) + _compare(bytes([_PROTOCOL_IPV6]))


def icmp(*, six: bool = False) -> bytes:
    """ICMP, or ICMPv6."""
    return _meta(_META_L4PROTO, _REGISTER_1) + _compare(bytes([58 if six else 1]))


def source_in(name: str, number: int, *, six: bool = False) -> bytes:
    """The source address is in a set."""
    offset, size = (_SOURCE6, 16) if six else (_SOURCE, 4)
    return _payload(_NETWORK_HEADER, offset, size, _REGISTER_1) + _lookup(name, number)


def to_loopback() -> bytes:
    """The IPv4 destination is in 127.0.0.0/8."""
    return _payload(_NETWORK_HEADER, _DESTINATION, 1, _REGISTER_1) + _compare(bytes([127]))


def not_to_loopback6() -> bytes:
    """The IPv6 destination is not `::1`."""
    load = _payload(_NETWORK_HEADER, _DESTINATION6, 16, _REGISTER_1)
    return load + _compare(bytes(15) + b"\1", operation=1)


def to_this_host() -> bytes:
    """The destination address is one of the host's own."""
    kind = _expression("fib", be32(1, _REGISTER_1), be32(2, 3), be32(3, 2))
    return kind + _compare(struct.pack("=I", _LOCAL_ADDRESS))


def translate_by(name: str, number: int, *, with_address: bool, six: bool = False) -> bytes:
    """Destination translation by a map of (protocol, [address,] port) to (address, port)."""
    find = _expression("lookup", string(1, name), be32(2, _WORD_0), be32(3, _WORD_0), be32(4, number))
    family, words_ = (_PROTOCOL_IPV6, 4) if six else (_PROTOCOL_IPV4, 1)
    translate = _expression("nat", be32(1, 1), be32(2, family), be32(3, _WORD_0), be32(5, _WORD_0 + words_))
    return _load_destination(with_address=with_address, six=six) + find + translate


def destination_in(name: str, number: int, *, six: bool = False) -> bytes:
    """(protocol, address, port) of the destination is in a set."""
    find = _expression("lookup", string(1, name), be32(2, _WORD_0), be32(4, number), be32(5, 0))
    return _load_destination(with_address=True, six=six) + find


def _load_destination(*, with_address: bool, six: bool) -> bytes:
    load = _meta(_META_L4PROTO, _WORD_0)
    register = _WORD_0 + 1
    if with_address:
        offset, size = (_DESTINATION6, 16) if six else (_DESTINATION, 4)
        load += _payload(_NETWORK_HEADER, offset, size, register)
        register += size // 4
    return load + _payload(_TRANSPORT_HEADER, 2, 2, register)


def interface_in(direction: str, name: str, number: int, *, inverted: bool = False) -> bytes:
    """The `in` or `out` interface is (or is not) in a set."""
    key = _META_IIFNAME if direction == "in" else _META_OIFNAME
    return _meta(key, _REGISTER_1) + _lookup(name, number, inverted=inverted)


def interface_is(direction: str, name: str) -> bytes:
    """The `in` or `out` interface is this one."""
    key = _META_IIFNAME if direction == "in" else _META_OIFNAME
    return _meta(key, _REGISTER_1) + _compare(name.encode() + b"\0")


def accepted_interface(expressions: Sequence[bytes]) -> tuple[str, str] | None:
    """(`in` or `out`, interface) of a rule, as the kernel lists it, that accepts by that and nothing else."""
    parsed = [dict(attributes(expression)) for expression in expressions]
    kept = [p for p in parsed if p.get(1) != b"counter\0"]
    if [p.get(1) for p in kept] != [b"meta\0", b"cmp\0", b"immediate\0"]:
        return None
    meta, compare, immediate = (dict(attributes(p.get(2, b""))) for p in kept)
    verdict_ = dict(attributes(dict(attributes(immediate.get(2, b""))).get(2, b""))).get(1)
    direction = _DIRECTIONS.get(int.from_bytes(meta.get(2, b""), "big"))
    if direction is None or verdict_ != struct.pack(">I", ACCEPT) or compare.get(2) != bytes(4):
        return None
    value = dict(attributes(compare.get(3, b""))).get(1, b"")
    return (direction, value[:-1].decode(errors="replace")) if value.endswith(b"\0") else None


def interfaces_in(name: str, number: int) -> bytes:
    """The pair (in, out) of interfaces is in a set."""
    return _meta(_META_IIFNAME, _REGISTER_1) + _meta(_META_OIFNAME, _REGISTER_2) + _lookup(name, number)


def connection_state(bits: int) -> bytes:
    """The connection's state is one of these bits (2 established, 4 related)."""
    return _connection(0, bits)


def connection_status(bits: int) -> bytes:
    """The connection's status has one of these bits (0x20: its destination was translated)."""
    return _connection(2, bits)


def verdict(code: int) -> bytes:
    return _expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, code))))


def counter() -> bytes:
    """Counts what gets this far; iptables wants one in every rule of its own tables."""
    return _expression("counter")


def masquerade() -> bytes:
    return _expression("masq")


def _expression(name: str, *attributes_: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *attributes_))


def _meta(key: int, register: int) -> bytes:
    return _expression("meta", be32(2, key), be32(1, register))


def _payload(header: int, offset: int, size: int, register: int) -> bytes:
    return _expression("payload", be32(1, register), be32(2, header), be32(3, offset), be32(4, size))


def _compare(value: bytes, operation: int = 0) -> bytes:
    return _expression("cmp", be32(1, _REGISTER_1), be32(2, operation), nested(3, attribute(1, value)))


def _lookup(name: str, number: int, *, inverted: bool = False) -> bytes:
    return _expression(
        "lookup", string(1, name), be32(2, _REGISTER_1), be32(4, number), be32(5, int(inverted))
    )


def _connection(key: int, bits: int) -> bytes:
    """ct registers hold numbers in the host's order."""
    mask = nested(4, attribute(1, struct.pack("=I", bits)))
    nothing = struct.pack("=I", 0)
    load = _expression("ct", be32(2, key), be32(1, _REGISTER_1))
    keep = _expression(
        "bitwise",
        be32(1, _REGISTER_1),
        be32(2, _REGISTER_1),
        be32(3, 4),
        mask,
        nested(5, attribute(1, nothing)),
    )
    return load + keep + _compare(nothing, operation=1)

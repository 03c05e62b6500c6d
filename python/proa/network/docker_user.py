"""A way for proa's bridge through another engine's FORWARD policy DROP: two rules in the chain DOCKER-USER.

dockerd drops what is forwarded and not its own, and a drop in any table is final. DOCKER-USER is the
chain that it leaves to others, and keeps over its restarts; where there is one, proa's bridge may pass
there, both ways: what must not come in is still dropped by proa's own table. The rules are ones that
iptables shows and removes as `-i proa0 -j ACCEPT` and `-o proa0 -j ACCEPT`. No other table is touched.
Blocking.
"""

import errno
import struct
from collections.abc import Iterator

from msgspec import Struct

from proa.network import nftables as nft
from proa.network.netlink import DUMP, NETFILTER, Message, Netlink, attributes, string

_TABLE, _CHAIN = "filter", "DOCKER-USER"


class _Found(Struct, frozen=True):
    direction: str
    handle: int


def let_through(bridge: str) -> None:
    """Add the rules that are missing; without the chain there is nothing to do. Raises OSError."""
    with Netlink(NETFILTER) as netlink:
        present = {found.direction for found in _rules(netlink, bridge)}
        missing = [direction for direction in ("in", "out") if direction not in present]
        rules = [
            nft.insert_rule(
                nft.IPV4,
                _TABLE,
                _CHAIN,
                nft.interface_is(direction, bridge),
                nft.counter(),
                nft.verdict(nft.ACCEPT),
            )
            for direction in missing
        ]
        if rules:
            _change(netlink, rules)


def withdraw(bridge: str) -> None:
    """Remove the rules; missing ones are no error."""
    with Netlink(NETFILTER) as netlink:
        rules = [nft.delete_rule(nft.IPV4, _TABLE, _CHAIN, found.handle) for found in _rules(netlink, bridge)]
        if rules:
            _change(netlink, rules)


def _change(netlink: Netlink, rules: list[Message]) -> None:
    try:
        netlink.batch(nft.transaction(rules))
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def _rules(netlink: Netlink, bridge: str) -> Iterator[_Found]:
    """The rules of the chain that accept what comes in by, or goes out to, this bridge."""
    body = struct.pack(">BBH", nft.IPV4, 0, 0) + string(1, _TABLE) + string(2, _CHAIN)
    for answer in netlink.dump(Message(nft.GET_RULE, DUMP, body, f"list nft chain {_CHAIN}")):
        fields = dict(attributes(answer.payload[4:]))
        if fields.get(1, b"") != _TABLE.encode() + b"\0" or fields.get(2, b"") != _CHAIN.encode() + b"\0":
            continue
        expressions = [element for _, element in attributes(fields.get(4, b""))]
        for direction in ("in", "out"):
            if nft.matches_interface(expressions, direction, bridge):
                yield _Found(direction, int.from_bytes(fields[3], "big"))

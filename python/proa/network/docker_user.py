"""A way for proa's bridges through another engine's FORWARD policy DROP: rules in the chain DOCKER-USER.

dockerd drops what is forwarded and not its own, and a drop in any table is final. DOCKER-USER is the
chain that it leaves to others, and keeps over its restarts; where there is one, proa's bridges may pass
there, both ways: what must not come in is still dropped by proa's own table. The rules are ones that
iptables and ip6tables show and remove as `-i proa0 -j ACCEPT` and `-o proa0 -j ACCEPT`. No other table is
touched. When the rules are to be put back watch.py knows, and for which bridges wall.py. Blocking.
"""

import errno
import struct
from collections.abc import Iterable, Iterator

from msgspec import Struct

from proa.network import nftables as nft
from proa.network.firewall import own_sockets
from proa.network.netlink import DUMP, NETFILTER, Message, Netlink, attributes, string

TABLE, CHAIN = "filter", "DOCKER-USER"
_FAMILIES = (nft.IPV4, nft.IPV6)


class _Found(Struct, frozen=True):
    direction: str
    bridge: str
    handle: int


def let_through(bridges: Iterable[str]) -> None:
    """Add the rules that are missing; without the chain there is nothing to do. Raises OSError."""
    wanted = [(direction, bridge) for bridge in bridges for direction in ("in", "out")]
    with Netlink(NETFILTER) as netlink:
        for family in _FAMILIES if wanted else ():
            present = {(found.direction, found.bridge) for found in _rules(netlink, family)}
            _change(netlink, [_rule(family, *rule) for rule in wanted if rule not in present])


def withdraw(bridges: Iterable[str]) -> None:
    """Remove the rules; missing ones are no error."""
    gone = set(bridges)
    with Netlink(NETFILTER) as netlink:
        for family in _FAMILIES if gone else ():
            handles = [found.handle for found in _rules(netlink, family) if found.bridge in gone]
            _change(netlink, [nft.delete_rule(family, TABLE, CHAIN, handle) for handle in handles])


def _rule(family: int, direction: str, bridge: str) -> Message:
    matches = nft.interface_is(direction, bridge)
    return nft.insert_rule(family, TABLE, CHAIN, matches, nft.counter(), nft.verdict(nft.ACCEPT))


def _change(netlink: Netlink, rules: list[Message]) -> None:
    if not rules:
        return
    own_sockets.append(netlink.number)
    try:
        netlink.batch(nft.transaction(rules))
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def _rules(netlink: Netlink, family: int) -> Iterator[_Found]:
    """The rules of the chain that accept what comes in by, or goes out to, an interface."""
    body = struct.pack(">BBH", family, 0, 0) + string(1, TABLE) + string(2, CHAIN)
    for answer in netlink.dump(Message(nft.GET_RULE, DUMP, body, f"list nft chain {CHAIN}")):
        fields = dict(attributes(answer.payload[4:]))
        if fields.get(1, b"") != TABLE.encode() + b"\0" or fields.get(2, b"") != CHAIN.encode() + b"\0":
            continue
        accepted = nft.accepted_interface([element for _, element in attributes(fields.get(4, b""))])
        if accepted is not None:
            yield _Found(*accepted, int.from_bytes(fields[3], "big"))

"""The firewall: one nft table of constant rules; a network is elements in three sets. Blocking.

    set bridges     interface        every bridge of proa
    set links       in . out         pairs of bridges that may talk (a bridge with itself)
    set masquerade  address range    subnets whose traffic leaves under the host's address

    map publish     protocol . port -> address . port               published on every address
    map publish_at  protocol . address . port -> address . port     published on one

    chain guard        in @bridges, to 127.0.0.0/8            drop
    chain prerouting   to the host, in a map                  translate the destination
    chain output       the same, for what the host itself sends
    chain forward      out @bridges, established or related   accept
                       out @bridges, destination translated   accept
                       in . out @links                        accept
                       out @bridges                           drop
    chain postrouting  from @masquerade, out not @bridges     masquerade
                       from @masquerade, out @bridges, translated     masquerade  (hairpin, localhost)

So what comes from outside unasked is dropped, networks do not reach each other, and containers reach out.
Publishing a port is one element more. 127.0.0.0/8 is in @masquerade, and the bridge has route_localnet, so
that the host reaches published ports on localhost; the guard keeps containers from the host's own.
The whole table is written in one transaction that replaces it: a half-written firewall is never seen.

Beside another firewall: every base chain at a hook must let a packet through, so an accept there
overrides none of the drops here, and a FORWARD policy DROP there (dockerd's iptables sets one) would stop
proa's traffic: see docker_user.py for the way through. A policy DROP of the host's own is respected.
"""

import errno
from collections.abc import Sequence

from msgspec import Struct

from proa.network import nftables as nft
from proa.network.ipam import Subnet
from proa.network.netlink import NETFILTER, Message, Netlink

_BRIDGES, _LINKS, _MASQUERADE, _PUBLISH, _PUBLISH_AT = 1, 2, 3, 4, 5
_LOOPBACK = Subnet.parse("127.0.0.0/8")
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ESTABLISHED_OR_RELATED = 2 | 4
_DESTINATION_TRANSLATED = 1 << 5


class FirewallNetwork(Struct, frozen=True, kw_only=True):
    """A network as the firewall sees it."""

    bridge: str
    subnet: Subnet
    masquerade: bool = True
    internal_traffic: bool = True
    """Containers of the network reach each other through the host's forwarding (icc)."""


class Translation(Struct, frozen=True, kw_only=True):
    """A published port; `host_address` None for every address of the host."""

    protocol: str
    host_address: int | None
    host_port: int
    address: int
    port: int


def install(table: str, networks: Sequence[FirewallNetwork], published: Sequence[Translation] = ()) -> None:
    """Write the table with these networks and ports, in place of whatever it held. Raises OSError."""
    messages = [
        # Deleting what is not there fails the transaction; creating what is there does not.
        nft.new_table(table),
        nft.delete_table(table),
        nft.new_table(table),
        *_sets(table),
        *_chains(table),
        nft.add_elements(table, "masquerade", _interval(_LOOPBACK), _MASQUERADE),
        *_additions(table, published),
    ]
    for network in networks:
        messages += _elements(table, network)
    _send(messages)


def publish(table: str, ports: Sequence[Translation]) -> None:
    """Publish ports, all or none. Raises OSError."""
    _send(_additions(table, ports))


def unpublish(table: str, ports: Sequence[Translation]) -> None:
    """Take ports back; ones that are not there are no error, one at a time then."""
    removals = [nft.delete_elements(table, _map_of(port), [nft.element(_key_of(port))]) for port in ports]
    try:
        _send(removals)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
        if len(ports) > 1:
            for port in ports:
                unpublish(table, [port])


def remove(table: str) -> None:
    """Take the table away; missing is no error."""
    try:
        _send([nft.delete_table(table)])
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def _send(messages: Sequence[Message]) -> None:
    with Netlink(NETFILTER) as netlink:
        netlink.batch(nft.transaction(messages))


def _sets(table: str) -> list[Message]:
    pair = nft.concatenation(nft.TYPE_INTERFACE, nft.TYPE_INTERFACE)
    protocol, address, port = nft.TYPE_PROTOCOL, nft.TYPE_ADDRESS, nft.TYPE_PORT
    target = (address, port)
    return [
        nft.new_set(table, "bridges", _BRIDGES, nft.TYPE_INTERFACE, 16),
        nft.new_set(table, "links", _LINKS, pair, 32),
        nft.new_set(table, "masquerade", _MASQUERADE, nft.TYPE_ADDRESS, 4, flags=nft.SET_INTERVAL),
        nft.new_map(table, "publish", _PUBLISH, (protocol, port), target, (8, 8)),
        nft.new_map(table, "publish_at", _PUBLISH_AT, (protocol, address, port), target, (12, 8)),
    ]


def _chains(table: str) -> list[Message]:
    to_bridge = nft.interface_in("out", "bridges", _BRIDGES)
    from_bridge_outwards = nft.interface_in("out", "bridges", _BRIDGES, inverted=True)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    translated = nft.connection_status(_DESTINATION_TRANSLATED)
    from_container = nft.ipv4() + nft.source_in("masquerade", _MASQUERADE)
    return [
        nft.new_base_chain(table, "guard", "filter", nft.PREROUTING, nft.RAW_PRIORITY),
        nft.new_base_chain(table, "prerouting", "nat", nft.PREROUTING, nft.DESTINATION_NAT_PRIORITY),
        nft.new_base_chain(table, "output", "nat", nft.OUTPUT, nft.DESTINATION_NAT_PRIORITY),
        nft.new_base_chain(table, "forward", "filter", nft.FORWARD, nft.FILTER_PRIORITY),
        nft.new_base_chain(table, "postrouting", "nat", nft.POSTROUTING, nft.SOURCE_NAT_PRIORITY),
        nft.new_rule(table, "forward", to_bridge, nft.connection_state(_ESTABLISHED_OR_RELATED), accept),
        nft.new_rule(table, "forward", to_bridge, translated, accept),
        nft.new_rule(table, "forward", nft.interfaces_in("links", _LINKS), accept),
        nft.new_rule(table, "forward", to_bridge, drop),
        nft.new_rule(table, "postrouting", from_container, from_bridge_outwards, nft.masquerade()),
        nft.new_rule(table, "postrouting", from_container, to_bridge, translated, nft.masquerade()),
        nft.new_rule(
            table, "guard", nft.interface_in("in", "bridges", _BRIDGES), nft.ipv4(), nft.to_loopback(), drop
        ),
        *_translations(table, "prerouting"),
        *_translations(table, "output"),
    ]


def _translations(table: str, chain: str) -> list[Message]:
    to_host = nft.ipv4() + nft.to_this_host()
    return [
        nft.new_rule(table, chain, to_host, nft.translate_by("publish_at", _PUBLISH_AT, with_address=True)),
        nft.new_rule(table, chain, to_host, nft.translate_by("publish", _PUBLISH, with_address=False)),
    ]


def _additions(table: str, ports: Sequence[Translation]) -> list[Message]:
    return [
        nft.add_elements(table, _map_of(port), [nft.map_element(_key_of(port), _target_of(port))])
        for port in ports
    ]


def _map_of(port: Translation) -> str:
    return "publish" if port.host_address is None else "publish_at"


def _key_of(port: Translation) -> bytes:
    protocol, number = bytes([_PROTOCOLS[port.protocol]]), port.host_port.to_bytes(2, "big")
    if port.host_address is None:
        return nft.words(protocol, number)
    return nft.words(protocol, port.host_address.to_bytes(4, "big"), number)


def _target_of(port: Translation) -> bytes:
    return nft.words(port.address.to_bytes(4, "big"), port.port.to_bytes(2, "big"))


def _elements(table: str, network: FirewallNetwork) -> list[Message]:
    messages = [
        nft.add_elements(table, "bridges", [nft.element(nft.interface_key(network.bridge))], _BRIDGES)
    ]
    if network.internal_traffic:
        pair = nft.interface_key(network.bridge, network.bridge)
        messages.append(nft.add_elements(table, "links", [nft.element(pair)], _LINKS))
    if network.masquerade:
        messages.append(nft.add_elements(table, "masquerade", _interval(network.subnet), _MASQUERADE))
    return messages


def _interval(subnet: Subnet) -> list[bytes]:
    first, after = subnet.first.to_bytes(4, "big"), (subnet.last + 1).to_bytes(4, "big")
    return [nft.element(first), nft.element(after, interval_end=True)]

"""The firewall: one nft table of constant rules; a network is elements in three sets. Blocking.

    set bridges     interface        every bridge of proa
    set links       in . out         pairs of bridges that may talk (a bridge with itself)
    set masquerade  address range    subnets whose traffic leaves under the host's address

    chain forward      out @bridges, established or related   accept
                       out @bridges, destination translated   accept      (published ports)
                       in . out @links                        accept
                       out @bridges                           drop
    chain postrouting  from @masquerade, out not @bridges     masquerade

So what comes from outside unasked is dropped, networks do not reach each other, and containers reach out.
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

_BRIDGES, _LINKS, _MASQUERADE = 1, 2, 3
_ESTABLISHED_OR_RELATED = 2 | 4
_DESTINATION_TRANSLATED = 1 << 5


class FirewallNetwork(Struct, frozen=True, kw_only=True):
    """A network as the firewall sees it."""

    bridge: str
    subnet: Subnet
    masquerade: bool = True
    internal_traffic: bool = True
    """Containers of the network reach each other through the host's forwarding (icc)."""


def install(table: str, networks: Sequence[FirewallNetwork]) -> None:
    """Write the table with these networks, in place of whatever it held. Raises OSError."""
    messages = [
        # Deleting what is not there fails the transaction; creating what is there does not.
        nft.new_table(table),
        nft.delete_table(table),
        nft.new_table(table),
        *_sets(table),
        *_chains(table),
    ]
    for network in networks:
        messages += _elements(table, network)
    _send(messages)


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
    pair = nft.TYPE_INTERFACE << 6 | nft.TYPE_INTERFACE
    return [
        nft.new_set(table, "bridges", _BRIDGES, nft.TYPE_INTERFACE, 16),
        nft.new_set(table, "links", _LINKS, pair, 32),
        nft.new_set(table, "masquerade", _MASQUERADE, nft.TYPE_ADDRESS, 4, flags=nft.SET_INTERVAL),
    ]


def _chains(table: str) -> list[Message]:
    to_bridge = nft.interface_in("out", "bridges", _BRIDGES)
    from_bridge_outwards = nft.interface_in("out", "bridges", _BRIDGES, inverted=True)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    return [
        nft.new_base_chain(table, "forward", "filter", nft.FORWARD, nft.FILTER_PRIORITY),
        nft.new_base_chain(table, "postrouting", "nat", nft.POSTROUTING, nft.SOURCE_NAT_PRIORITY),
        nft.new_rule(table, "forward", to_bridge, nft.connection_state(_ESTABLISHED_OR_RELATED), accept),
        nft.new_rule(table, "forward", to_bridge, nft.connection_status(_DESTINATION_TRANSLATED), accept),
        nft.new_rule(table, "forward", nft.interfaces_in("links", _LINKS), accept),
        nft.new_rule(table, "forward", to_bridge, drop),
        nft.new_rule(
            table,
            "postrouting",
            nft.ipv4(),
            nft.source_in("masquerade", _MASQUERADE),
            from_bridge_outwards,
            nft.masquerade(),
        ),
    ]


def _elements(table: str, network: FirewallNetwork) -> list[Message]:
    messages = [
        nft.add_elements(table, "bridges", [nft.element(nft.interface_key(network.bridge))], _BRIDGES)
    ]
    if network.internal_traffic:
        pair = nft.interface_key(network.bridge, network.bridge)
        messages.append(nft.add_elements(table, "links", [nft.element(pair)], _LINKS))
    if network.masquerade:
        first, after = network.subnet.first.to_bytes(4, "big"), (network.subnet.last + 1).to_bytes(4, "big")
        interval = [nft.element(first), nft.element(after, interval_end=True)]
        messages.append(nft.add_elements(table, "masquerade", interval, _MASQUERADE))
    return messages

"""The host's side of a bridge network: the bridge device, and which ranges the host uses already.

Everything here blocks for the kernel; the caller runs it in its executor.

Source: rtnetlink(7); linux/if_link.h, linux/if_addr.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from proa.network.ipam import Subnet, mac_of
from proa.network.netlink import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    ROUTE,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    string,
    u32,
)

_NEWLINK, _DELLINK, _SETLINK = 16, 17, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_GETROUTE = 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 1, 3, 4, 18
_IFLA_PROTINFO, _BRPORT_MODE = 12, 4
_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST = 1
_IFF_UP = 1
_AF_BRIDGE = 7
_RT_TABLE_LOCAL = 255

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE_BODY = struct.Struct("=BBBBBBBBI")


class Bridge(Struct, frozen=True, kw_only=True):
    """A bridge that is there: its gateway address and subnet."""

    name: str
    index: int
    subnet: Subnet
    gateway: int


def ensure_bridge(name: str, gateway: int, subnet: Subnet, mtu: int) -> Bridge:
    """Make the bridge with its address, up; one that is there is brought to this state. Idempotent.

    Its hardware address is set, so that it does not change with the ports that come and go.
    """
    with Netlink(ROUTE) as netlink:
        index = _index(name)
        if index is None:
            mac = bytes.fromhex(mac_of(gateway).replace(":", ""))
            info = nested(_IFLA_LINKINFO, string(_INFO_KIND, "bridge"))
            body = (
                _LINK.pack(0, 0, 0, 0, 0) + string(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac) + info
            )
            netlink.request(Message(_NEWLINK, ACK | CREATE | EXCL, body, f"create bridge {name}"))
            index = socket.if_nametoindex(name)
        _settle(name)
        for old in _addresses_of(netlink, index):
            if old != (gateway, subnet.prefix):
                _change_address(netlink, _DELADDR, index, *old)
        _add_address(netlink, index, gateway, subnet.prefix)
        body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + u32(_IFLA_MTU, mtu)
        netlink.request(Message(_NEWLINK, ACK, body, f"set bridge {name} up"))
    return Bridge(name=name, index=index, subnet=subnet, gateway=gateway)


def find_bridge(name: str) -> Bridge | None:
    """The bridge as it is, None where it is missing or has no IPv4 address."""
    index = _index(name)
    if index is None:
        return None
    with Netlink(ROUTE) as netlink:
        for address, prefix in _addresses_of(netlink, index):
            return Bridge(name=name, index=index, subnet=Subnet.around(address, prefix), gateway=address)
    return None


def remove_bridge(name: str) -> None:
    """Remove the bridge; missing is no error."""
    index = _index(name)
    if index is None:
        return
    with Netlink(ROUTE) as netlink:
        try:
            netlink.request(Message(_DELLINK, ACK, _LINK.pack(0, 0, index, 0, 0), f"remove bridge {name}"))
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise


def allow_hairpin(interface: str) -> None:
    """Let the bridge send a frame back where it came from: a container that calls its own published port.

    Needed only where br_netfilter translates inside the bridge (dockerd loads it), and set only for
    containers that publish: their broadcasts come back to them, too. Raises OSError.
    """
    with Netlink(ROUTE) as netlink:
        index = socket.if_nametoindex(interface)
        mode = nested(_IFLA_PROTINFO, attribute(_BRPORT_MODE, b"\1"))
        body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + mode
        netlink.request(Message(_SETLINK, ACK, body, f"set hairpin of {interface}"))


def used_subnets() -> list[Subnet]:
    """IPv4 ranges that the host has addresses in or routes to, the default route left out."""
    with Netlink(ROUTE) as netlink:
        found = [Subnet.around(address, prefix) for _, address, prefix in _all_addresses(netlink)]
        body = _ROUTE_BODY.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for answer in netlink.dump(Message(_GETROUTE, DUMP, body, "list routes")):
            fields = _ROUTE_BODY.unpack_from(answer.payload)
            prefix, table = fields[1], fields[4]
            if table == _RT_TABLE_LOCAL or prefix == 0:
                continue
            for kind, value in attributes(answer.payload[_ROUTE_BODY.size :]):
                if kind == _RTA_DST and len(value) == 4:
                    found.append(Subnet.around(int.from_bytes(value, "big"), prefix))
    return found


def enable_forwarding() -> None:
    """Let the host forward IPv4; it never is switched off again, others may rely on it."""
    path = Path("/proc/sys/net/ipv4/ip_forward")
    if path.read_text(encoding="ascii").strip() != "1":
        path.write_text("1\n", encoding="ascii")


def _settle(name: str) -> None:
    """A bridge must not take routes from what a container advertises (CVE-2020-13401).

    It does route 127.0.0.0/8, for published ports on localhost; the firewall guards the way back.
    """
    for path, value in (
        (f"/proc/sys/net/ipv6/conf/{name}/accept_ra", b"0\n"),
        (f"/proc/sys/net/ipv4/conf/{name}/route_localnet", b"1\n"),
    ):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # no IPv6 in this kernel
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _all_addresses(netlink: Netlink) -> Iterator[tuple[int, int, int]]:
    """(interface index, address, prefix) of every IPv4 address."""
    body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
    for answer in netlink.dump(Message(_GETADDR, DUMP, body, "list addresses")):
        _, prefix, _, _, index = _ADDRESS.unpack_from(answer.payload)
        found = dict(attributes(answer.payload[_ADDRESS.size :]))
        value = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if value and len(value) == 4:
            yield index, int.from_bytes(value, "big"), prefix


def _addresses_of(netlink: Netlink, index: int) -> list[tuple[int, int]]:
    return [(address, prefix) for i, address, prefix in _all_addresses(netlink) if i == index]


def _add_address(netlink: Netlink, index: int, address: int, prefix: int) -> None:
    try:
        _change_address(netlink, _NEWADDR, index, address, prefix)
    except OSError as exc:
        if exc.errno != errno.EEXIST:
            raise


def _change_address(netlink: Netlink, kind: int, index: int, address: int, prefix: int) -> None:
    subnet = Subnet.around(address, prefix)
    value = address.to_bytes(4, "big")
    body = _ADDRESS.pack(socket.AF_INET, prefix, 0, 0, index)
    body += attribute(_IFA_LOCAL, value) + attribute(_IFA_ADDRESS, value)
    body += attribute(_IFA_BROADCAST, subnet.last.to_bytes(4, "big"))
    flags = ACK | CREATE | EXCL if kind == _NEWADDR else ACK
    netlink.request(Message(kind, flags, body, "set the bridge's address"))

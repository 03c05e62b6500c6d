"""The host's side of networks: bridge devices and parents, and which ranges the host uses already.

What proa makes carries its mark in the interface's alias (`proa:TABLE`), which tells it from what the host's
administrator has made, and from another instance's. Everything here blocks for the kernel; the caller runs
it in its executor.

Source: rtnetlink(7); linux/if_link.h, linux/if_addr.h; the kernel's networking/ip-sysctl.rst.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct

from proa.network.ipam import IPV4, IPV6, Subnet, mac_of
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

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_GETROUTE = 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC = 20, 26
_IFLA_PROTINFO, _BRPORT_MODE, _BRPORT_ISOLATED = 12, 4, 33
_INFO_KIND, _INFO_DATA = 1, 2
_LAST_VLAN = 4094
_VETH_PEER, _VLAN_ID = 1, 1
_ADDR_GEN_MODE, _GEN_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_NO_DETECTION = 2
_RTA_DST = 1
_IFF_UP = 1
_AF_BRIDGE = 7
_RT_TABLE_LOCAL = 255
_RTN_UNICAST = 1
_FAMILY = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}

_BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
"""There only where the kernel can let bridged frames pass the firewall."""

_BACKLOG = 10_000
"""Frames that wait for a processor to deliver them."""

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE_BODY = struct.Struct("=BBBBBBBBI")

Address = tuple[int, int, int]
"""(address, prefix, bits)."""


class Bridge(Struct, frozen=True, kw_only=True):
    """A bridge that is there: its gateway address and subnet."""

    name: str
    index: int
    subnet: Subnet
    gateway: int


def ensure_bridge(name: str, addresses: Sequence[Address], mtu: int, mark: str = "") -> int:
    """Make the bridge with these addresses, up; one that is there is brought to this state. Idempotent.

    Its hardware address is set, so that it does not change with the ports that come and go. Link-local
    addresses stay. Returns its index.
    """
    with Netlink(ROUTE) as netlink:
        index = _index(name)
        if index is None:
            index = _new_bridge(netlink, name, addresses, mark)
        _settle(name, ipv6=any(bits == IPV6 for _, _, bits in addresses))
        present = [a for a in _addresses_of(netlink, index) if not _link_local(a)]
        for old in present:
            if old not in addresses:
                _change_address(netlink, _DELADDR, index, old)
        for new in addresses:
            _add_address(netlink, index, new)
        body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + u32(_IFLA_MTU, mtu)
        netlink.request(Message(_NEWLINK, ACK, body, f"set bridge {name} up"))
    return index


def _new_bridge(netlink: Netlink, name: str, addresses: Sequence[Address], mark: str) -> int:
    body = _LINK.pack(0, 0, 0, 0, 0) + string(_IFLA_IFNAME, name)
    if addresses:
        body += attribute(_IFLA_ADDRESS, bytes.fromhex(mac_of(addresses[0][0]).replace(":", "")))
    body += nested(_IFLA_LINKINFO, string(_INFO_KIND, "bridge"))
    netlink.request(Message(_NEWLINK, ACK | CREATE | EXCL, body, f"create bridge {name}"))
    index = socket.if_nametoindex(name)
    if mark:
        _set_mark(netlink, index, name, mark)
    return index


def _set_mark(netlink: Netlink, index: int, name: str, mark: str) -> None:
    """An alias can be set only on a link that is there."""
    body = _LINK.pack(0, 0, index, 0, 0) + string(_IFLA_IFALIAS, mark)
    netlink.request(Message(_SETLINK, ACK, body, f"mark {name}"))


def join_bridges(hub: str, shard: str, *, isolated: bool, mtu: int) -> None:
    """A veth pair between two bridges, which makes one network of them; one that is there stays.

    Named after the shard. `isolated`: nothing passes it but to and from the hub device itself.
    """
    names = (f"{shard}h", f"{shard}s")
    with Netlink(ROUTE) as netlink, ExitStack() as undo:
        none = nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, attribute(_ADDR_GEN_MODE, bytes([_GEN_NONE]))))
        head = _LINK.pack(0, 0, 0, 0, 0)
        peer = attribute(_VETH_PEER, head + string(_IFLA_IFNAME, names[1]) + u32(_IFLA_MTU, mtu))
        info = nested(_IFLA_LINKINFO, string(_INFO_KIND, "veth"), nested(_INFO_DATA, peer))
        body = head + string(_IFLA_IFNAME, names[0]) + u32(_IFLA_MTU, mtu) + info
        if _index(names[0]) is None:
            netlink.request(Message(_NEWLINK, ACK | CREATE | EXCL, body, f"join bridges {hub} and {shard}"))
            undo.callback(remove_link, names[0])
        for name, bridge in zip(names, (hub, shard), strict=True):
            index = socket.if_nametoindex(name)
            body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + none
            body += u32(_IFLA_MASTER, socket.if_nametoindex(bridge))
            netlink.request(Message(_NEWLINK, ACK, body, f"put {name} on bridge {bridge}"))
        if isolated:
            _isolate(netlink, socket.if_nametoindex(names[0]), names[0])
        undo.pop_all()


def _isolate(netlink: Netlink, index: int, name: str) -> None:
    mode = nested(_IFLA_PROTINFO, attribute(_BRPORT_ISOLATED, b"\1"))
    body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + mode
    netlink.request(Message(_SETLINK, ACK, body, f"isolate {name}"))


def put_back(wanted: Mapping[str, tuple[str, bool]]) -> None:
    """Interfaces that are on no bridge any more, since that was deleted, come to be on the one made anew.

    `wanted` gives (bridge, isolated) for each. What is on a bridge, or is not there, is left. Raises OSError.
    """
    with Netlink(ROUTE) as netlink:
        for answer in netlink.dump(Message(_GETLINK, DUMP, _LINK.pack(0, 0, 0, 0, 0), "list interfaces")):
            fields = dict(attributes(answer.payload[_LINK.size :]))
            name = fields.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode()
            if name not in wanted or _IFLA_MASTER in fields:
                continue
            bridge, isolated = wanted[name]
            index = _LINK.unpack_from(answer.payload)[2]
            body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP)
            body += u32(_IFLA_MASTER, socket.if_nametoindex(bridge))
            netlink.request(Message(_NEWLINK, ACK, body, f"put {name} on bridge {bridge}"))
            if isolated:
                _isolate(netlink, index, name)


def find_bridge(name: str) -> Bridge | None:
    """The bridge as it is, None where it is missing or has no IPv4 address."""
    index = _index(name)
    if index is None:
        return None
    with Netlink(ROUTE) as netlink:
        for address, prefix, bits in _addresses_of(netlink, index):
            if bits == IPV4:
                return Bridge(name=name, index=index, subnet=Subnet.around(address, prefix), gateway=address)
    return None


def ensure_parent(name: str, mark: str) -> None:
    """The interface that macvlans or ipvlans sit on: a VLAN of another one where it is named `eth0.50`, a
    dummy where nobody named one (`dm-...`). One that is there is used as it is. Raises OSError; ValueError
    for a name that is neither.
    """
    index = _index(name)
    with Netlink(ROUTE) as netlink:
        if index is None:
            link, dot, vlan = name.rpartition(".")
            if dot:
                if not (vlan.isascii() and vlan.isdigit()):
                    raise ValueError(
                        f"unable to parse a valid vlan id from: {vlan} (ex. eth0.10 for vlan 10)"
                    )
                if not 1 <= int(vlan) <= _LAST_VLAN:
                    raise ValueError(f"vlan id must be between 1-{_LAST_VLAN}, received: {vlan}")
                if _index(link) is None:
                    raise ValueError(f"-o parent interface was not found on the host: {link}")
                info = nested(_INFO_DATA, attribute(_VLAN_ID, struct.pack("=H", int(vlan))))
                info = nested(_IFLA_LINKINFO, string(_INFO_KIND, "vlan"), info)
                info = u32(_IFLA_LINK, socket.if_nametoindex(link)) + info
            elif name.startswith("dm-"):
                info = nested(_IFLA_LINKINFO, string(_INFO_KIND, "dummy"))
            else:
                raise ValueError(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
            body = _LINK.pack(0, 0, 0, 0, 0) + string(_IFLA_IFNAME, name) + info
            netlink.request(Message(_NEWLINK, ACK | CREATE | EXCL, body, f"create interface {name}"))
            index = socket.if_nametoindex(name)
            _set_mark(netlink, index, name, mark)
        body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP)
        netlink.request(Message(_NEWLINK, ACK, body, f"set {name} up"))


def all_there(names: Iterable[str]) -> bool:
    """Whether there are interfaces of these names: a system call each."""
    return all(_index(name) is not None for name in names)


def remove_link(name: str) -> None:
    """Remove an interface; missing is no error."""
    index = _index(name)
    if index is None:
        return
    with Netlink(ROUTE) as netlink:
        _remove(netlink, index, name)


def remove_marked(mark: str) -> None:
    """Remove every interface that carries the mark."""
    for name, index, found in interfaces():
        if found == mark:
            with Netlink(ROUTE) as netlink:
                _remove(netlink, index, name)


def interfaces() -> list[tuple[str, int, str]]:
    """(name, index, mark) of every interface."""
    with Netlink(ROUTE) as netlink:
        answers = netlink.dump(Message(_GETLINK, DUMP, _LINK.pack(0, 0, 0, 0, 0), "list interfaces"))
    found = []
    for answer in answers:
        fields = dict(attributes(answer.payload[_LINK.size :]))
        name, alias = (fields.get(kind, b"").rstrip(b"\0").decode() for kind in (_IFLA_IFNAME, _IFLA_IFALIAS))
        found.append((name, _LINK.unpack_from(answer.payload)[2], alias))
    return found


def _remove(netlink: Netlink, index: int, name: str) -> None:
    try:
        netlink.request(Message(_DELLINK, ACK, _LINK.pack(0, 0, index, 0, 0), f"remove interface {name}"))
    except OSError as exc:
        if exc.errno != errno.ENODEV:
            raise


def allow_hairpin(interfaces: Iterable[str]) -> None:
    """Let the bridge send a frame back where it came from: a container that calls its own published port.

    Needed only where br_netfilter translates inside the bridge (dockerd loads it): then and only then it is
    set, for containers that publish, since their broadcasts come back to them, too. Raises OSError.
    """
    if not os.path.exists(_BRIDGE_NETFILTER):
        return
    with Netlink(ROUTE) as netlink:
        for interface in interfaces:
            index = socket.if_nametoindex(interface)
            mode = nested(_IFLA_PROTINFO, attribute(_BRPORT_MODE, b"\1"))
            body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + mode
            netlink.request(Message(_SETLINK, ACK, body, f"set hairpin of {interface}"))


def used_subnets() -> list[Subnet]:
    """Ranges that the host has addresses in or routes to; default routes and link-local ones left out."""
    with Netlink(ROUTE) as netlink:
        found = [
            Subnet.around(*address) for _, address in _all_addresses(netlink) if not _link_local(address)
        ]
        for bits, family in _FAMILY.items():
            body = _ROUTE_BODY.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for answer in netlink.dump(Message(_GETROUTE, DUMP, body, "list routes")):
                fields = _ROUTE_BODY.unpack_from(answer.payload)
                prefix, table, kind = fields[1], fields[4], fields[7]
                if fields[0] != family or table == _RT_TABLE_LOCAL or prefix == 0 or kind != _RTN_UNICAST:
                    continue
                for key, value in attributes(answer.payload[_ROUTE_BODY.size :]):
                    target = (int.from_bytes(value, "big"), prefix, bits)
                    if key == _RTA_DST and len(value) * 8 == bits and not _link_local(target):
                        found.append(Subnet.around(*target))
    return found


def enable_forwarding(*, ipv6: bool = False) -> None:
    """Let the host forward; it never is switched off again, others may rely on it.

    A host that forwards IPv6 ignores router advertisements, unless each interface is told to heed them all
    the same: those that have heeded them so far go on.
    """
    if not ipv6:
        _write_once(Path("/proc/sys/net/ipv4/ip_forward"))
        return
    conf = Path("/proc/sys/net/ipv6/conf")
    switch = conf / "all" / "forwarding"
    if switch.read_text(encoding="ascii").strip() == "1":
        return
    for interface in conf.iterdir():
        heeds = interface / "accept_ra"
        with suppress(FileNotFoundError):  # containers' interfaces come and go
            if interface.name not in ("all", "lo") and heeds.read_text(encoding="ascii").strip() == "1":
                heeds.write_text("2\n", encoding="ascii")
    _write_once(switch)


def make_room() -> None:
    """Make the host's limits fit many containers. Never lowered. Raises OSError.

    Neighbours: beyond the default of 1,024, which is one limit for all namespaces, containers lose sight of
    others and of their gateways; each has one or more of them. Backlog: a broadcast is a frame for each port,
    all of them queued on one processor at once, and beyond 1,000, of whatever networks, they are dropped.
    """
    backlog = Path("/proc/sys/net/core/netdev_max_backlog")
    if backlog.exists() and int(backlog.read_text(encoding="ascii")) < _BACKLOG:
        backlog.write_text(f"{_BACKLOG}\n", encoding="ascii")
    for family in ("ipv4", "ipv6"):
        for number, least in ((1, 4096), (2, 32768), (3, 65536)):
            limit = Path(f"/proc/sys/net/{family}/neigh/default/gc_thresh{number}")
            if limit.exists() and int(limit.read_text(encoding="ascii")) < least:
                limit.write_text(f"{least}\n", encoding="ascii")


def _write_once(switch: Path) -> None:
    if switch.read_text(encoding="ascii").strip() != "1":
        switch.write_text("1\n", encoding="ascii")


def _settle(name: str, *, ipv6: bool) -> None:
    """A bridge must not take routes from what a container advertises (CVE-2020-13401).

    It does route 127.0.0.0/8, for published ports on localhost; the firewall guards the way back.
    """
    for path, value in (
        (f"/proc/sys/net/ipv6/conf/{name}/accept_ra", b"0\n"),
        (f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", b"0\n" if ipv6 else b""),
        (f"/proc/sys/net/ipv4/conf/{name}/route_localnet", b"1\n"),
    ):
        if not value:
            continue
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


def _link_local(address: Address) -> bool:
    value, _, bits = address
    return bits == IPV6 and value >> 118 == 0xFE80 >> 6


def _all_addresses(netlink: Netlink) -> Iterator[tuple[int, Address]]:
    """(interface index, address) of every address."""
    for bits, family in _FAMILY.items():
        body = _ADDRESS.pack(family, 0, 0, 0, 0)
        for answer in netlink.dump(Message(_GETADDR, DUMP, body, "list addresses")):
            kind, prefix, _, _, index = _ADDRESS.unpack_from(answer.payload)
            found = dict(attributes(answer.payload[_ADDRESS.size :]))
            value = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
            if value and kind == family and len(value) * 8 == bits:
                yield index, (int.from_bytes(value, "big"), prefix, bits)


def _addresses_of(netlink: Netlink, index: int) -> list[Address]:
    return [address for i, address in _all_addresses(netlink) if i == index]


def _add_address(netlink: Netlink, index: int, address: Address) -> None:
    try:
        _change_address(netlink, _NEWADDR, index, address)
    except OSError as exc:
        if exc.errno != errno.EEXIST:
            raise


def _change_address(netlink: Netlink, kind: int, index: int, address: Address) -> None:
    number, prefix, bits = address
    value = number.to_bytes(bits // 8, "big")
    flags = _NO_DETECTION if bits == IPV6 else 0
    body = _ADDRESS.pack(_FAMILY[bits], prefix, flags, 0, index)
    body += attribute(_IFA_LOCAL, value) + attribute(_IFA_ADDRESS, value)
    if bits == IPV4:
        body += attribute(_IFA_BROADCAST, Subnet.around(*address).last.to_bytes(4, "big"))
    asked = ACK | CREATE | EXCL if kind == _NEWADDR else ACK
    netlink.request(Message(kind, asked, body, "set the bridge's address"))

"""What the options of a network's driver mean, and which interfaces its endpoints get.

Source: the Docker documentation on the bridge, macvlan and ipvlan drivers; moby libnetwork/drivers/*,
libnetwork/netlabel.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from proa.errors import InvalidParameter
from proa.network.records import NetworkRecord
from proa.schema.config import DaemonConfig
from proa.schema.keeper import KeeperEndpoint

DEFAULT_MTU = 1500
MTU = "com.docker.network.driver.mtu"
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
INTERFACE_NAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
_BRIDGE = "com.docker.network.bridge."
_TRUSTED = "trusted_host_interfaces"
_MODES = ("", "nat", "nat-unprotected", "routed", "isolated")
_MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")
_IPVLAN_MODES = ("l2", "l3", "l3s")
_IPVLAN_FLAGS = ("bridge", "private", "vepa")
_NAME_LIMIT = 15


class BridgeOptions(Struct, frozen=True, kw_only=True):
    """Of a bridge network."""

    name: str
    """Of the bridge device."""
    icc: bool = True
    masquerade: bool = True
    mtu: int = DEFAULT_MTU
    host_ipv4: str = ""
    """Where ports are published that do not say where."""
    host_ipv6: str = ""
    inhibit_ipv4: bool = False
    """The bridge gets no IPv4 address."""
    mode_ipv4: str = "nat"
    mode_ipv6: str = "nat"
    trusted: tuple[str, ...] = ()
    """Interfaces of the host from which all of a container's ports are reached at its own address."""

    def mode(self, *, six: bool) -> str:
        """The gateway's, of a family."""
        return self.mode_ipv6 if six else self.mode_ipv4


class ParentOptions(Struct, frozen=True, kw_only=True):
    """Of a macvlan or ipvlan network."""

    parent: str
    made: bool
    """The parent is proa's to make and to remove: a VLAN of another interface, or a dummy."""
    mode: str
    mtu: int = 0

    @property
    def routed(self) -> bool:
        """Layer 3: there is no gateway, all is on the link."""
        return self.mode.startswith("l3")


def bridge_options(record: NetworkRecord, config: DaemonConfig) -> BridgeOptions:
    """Of a record whose driver is bridge. Raises InvalidParameter."""
    if record.name == "bridge":
        return BridgeOptions(
            name=config.bridge_name,
            icc=config.icc,
            masquerade=config.ip_masq,
            mtu=config.mtu or DEFAULT_MTU,
            host_ipv4=config.ip,
        )
    options = record.options
    modes = [options.get(f"{_BRIDGE}gateway_mode_{family}", "") for family in ("ipv4", "ipv6")]
    for mode in modes:
        if mode not in _MODES:
            raise InvalidParameter(f"unknown gateway mode {mode}")
        if mode == "isolated" and not record.internal:
            raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")
    name = options.get(f"{_BRIDGE}name", "")
    return BridgeOptions(
        name=check_name(name) if name else f"br-{record.id[:12]}",
        icc=_flag(options, "enable_icc"),
        masquerade=_flag(options, "enable_ip_masquerade") and not record.internal,
        mtu=mtu(options) or DEFAULT_MTU,
        host_ipv4=options.get(f"{_BRIDGE}host_binding_ipv4", ""),
        host_ipv6=options.get(f"{_BRIDGE}host_binding_ipv6", ""),
        inhibit_ipv4=_flag(options, "inhibit_ipv4", default=False),
        mode_ipv4=modes[0] or "nat",
        mode_ipv6=modes[1] or "nat",
        trusted=tuple(map(check_name, filter(None, options.get(f"{_BRIDGE}{_TRUSTED}", "").split(":")))),
    )


def parent_options(record: NetworkRecord) -> ParentOptions:
    """Of a record whose driver is macvlan or ipvlan. Raises InvalidParameter."""
    options = {key.lower(): value for key, value in record.options.items()}
    parent = options.get("parent", "")
    made = not parent or "." in parent
    if record.driver == "macvlan":
        mode = _choice(options.get("macvlan_mode", "bridge"), _MACVLAN_MODES, "macvlan mode", "macvlan")
    else:
        mode = _choice(options.get("ipvlan_mode", "l2"), _IPVLAN_MODES, "ipvlan mode", "ipvlan")
        mode += "/" + _choice(options.get("ipvlan_flag", "bridge"), _IPVLAN_FLAGS, "ipvlan flag", "ipvlan")
    if parent == "lo":
        raise InvalidParameter(f"loopback interface is not a valid {record.driver} parent link")
    name = check_name(parent) if parent else f"dm-{record.id[:12]}"
    return ParentOptions(parent=name, made=made, mode=mode, mtu=mtu(record.options))


def on_host(
    common: KeeperEndpoint, record: NetworkRecord, config: DaemonConfig, *, bridge: str, hairpin: bool
) -> KeeperEndpoint:
    """The endpoint's interface, as the network's driver has it."""
    if record.driver == "bridge":
        options = bridge_options(record, config)
        return replace(
            common, bridge=bridge or options.name, mtu=options.mtu, isolated=not options.icc, hairpin=hairpin
        )
    parent = parent_options(record)
    return replace(common, bridge=parent.parent, kind=record.driver, mode=parent.mode, mtu=parent.mtu)


def interface_prefix(record: NetworkRecord) -> str:
    """What interfaces are called inside, before their number."""
    prefix = record.options.get(INTERFACE_PREFIX, "eth")
    if prefix != "eth" and (prefix == "lo" or not _usable(prefix) or len(prefix) > _NAME_LIMIT - 3):
        raise InvalidParameter(f"invalid interface prefix: {prefix}")
    return prefix


def endpoint_sysctls(options: Mapping[str, str], interface: str) -> tuple[tuple[str, str], ...]:
    """(path below /proc/sys/net, value) of an endpoint's own switches. Raises InvalidParameter.

    Only those of this very interface: `net.ipv4.conf.IFNAME.log_martians=1`.
    """
    found = []
    for text in filter(None, options.get(SYSCTLS, "").split(",")):
        key, separator, value = text.partition("=")
        parts = key.split(".")
        ours = len(parts) == 5 and parts[0] == "net" and parts[1] in ("ipv4", "ipv6", "mpls")
        if not separator or not ours or parts[3] != "IFNAME" or not all(map(_usable, parts)):
            raise InvalidParameter(f"invalid sysctl setting '{text}'")
        found.append((f"{parts[1]}/{parts[2]}/{interface}/{parts[4]}", value))
    return tuple(found)


def check_name(name: str) -> str:
    """An interface name; raises InvalidParameter."""
    if not _usable(name) or len(name) > _NAME_LIMIT or name in (".", "..", "lo"):
        raise InvalidParameter(f"invalid interface name: {name}")
    return name


def mtu(options: Mapping[str, str]) -> int:
    """The MTU asked for, 0 for none. Raises InvalidParameter."""
    text = options.get(MTU, "") or "0"
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise InvalidParameter(f"failed to parse {MTU} value: {text}")
    return int(text)


def _flag(options: Mapping[str, str], name: str, *, default: bool = True) -> bool:
    text = options.get(_BRIDGE + name, "").lower()
    if text in ("", "1", "t", "true"):
        return default if not text else True
    if text in ("0", "f", "false"):
        return False
    raise InvalidParameter(f"failed to parse {_BRIDGE}{name} value: {text}")


def _choice(text: str, known: tuple[str, ...], what: str, driver: str) -> str:
    if text not in known:
        kind = what.rpartition(" ")[2]
        default = f"'{known[0]}' {kind} is the {driver} driver default"
        raise InvalidParameter(f"requested {what} '{text}' is not valid, {default}")
    return text


def _usable(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and not set(text) & set("/: ")

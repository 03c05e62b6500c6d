"""What the options of a network's driver mean, and which interfaces its endpoints get.

Source: the Docker documentation on the bridge, macvlan and ipvlan drivers; moby libnetwork/drivers/*,
libnetwork/netlabel.
"""

import re
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from proa.errors import InvalidParameter
from proa.network.ipam import IPV4, IPV6, parse_any, to_text
from proa.network.records import NetworkRecord
from proa.schema.config import DaemonConfig
from proa.schema.keeper import KeeperEndpoint

DEFAULT_MTU = 1500
NETWORK_PREFIX = "com.docker.network."
MTU = f"{NETWORK_PREFIX}driver.mtu"
INTERFACE_PREFIX = f"{NETWORK_PREFIX}container_iface_prefix"
INTERFACE_NAME = f"{NETWORK_PREFIX}endpoint.ifname"
SYSCTLS = f"{NETWORK_PREFIX}endpoint.sysctls"
OTHER_GATEWAY = {IPV4: "DefaultGatewayIPv4", IPV6: "DefaultGatewayIPv6"}
"""Auxiliary addresses of a bridge network that are its containers' gateway in place of the bridge itself."""
_BRIDGE = f"{NETWORK_PREFIX}bridge."
_TRUSTED = "trusted_host_interfaces"
_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")
_IPVLAN_MODES = ("l2", "l3", "l3s")
_IPVLAN_FLAGS = ("bridge", "private", "vepa")
_NAME_LIMIT = 15
_LARGEST_MTU = 65535


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
    modes = [_gateway_mode(options, f"{_BRIDGE}gateway_mode_{family}") for family in ("ipv4", "ipv6")]
    if "isolated" in modes and not record.internal:
        raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")
    name = options.get(f"{_BRIDGE}name", "")
    return BridgeOptions(
        name=check_name(name) if name else f"br-{record.id[:12]}",
        icc=_flag(options, "enable_icc"),
        masquerade=_flag(options, "enable_ip_masquerade") and not record.internal,
        mtu=mtu(options) or DEFAULT_MTU,
        host_ipv4=_address(options, f"{_BRIDGE}host_binding_ipv4"),
        host_ipv6=_address(options, f"{_BRIDGE}host_binding_ipv6"),
        inhibit_ipv4=_flag(options, "inhibit_ipv4", default=False),
        mode_ipv4=modes[0],
        mode_ipv6=modes[1],
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
    if prefix != "eth" and (not _usable(prefix) or len(prefix) > _NAME_LIMIT - 3):
        raise InvalidParameter(f"invalid interface prefix: {prefix}")
    return prefix


def endpoint_sysctls(options: Mapping[str, str], interface: str) -> tuple[tuple[str, str], ...]:
    """(path below /proc/sys/net, value) of an endpoint's own switches. Raises InvalidParameter.

    Only those of this very interface: `net.ipv4.conf.IFNAME.log_martians=1`, which docker's command line
    makes small letters of.
    """
    found = []
    for text in options[SYSCTLS].split(",") if SYSCTLS in options else ():
        key, separator, value = text.partition("=")
        parts = key.split(".", 4)
        ours = len(parts) == 5 and parts[1] in ("ipv4", "ipv6", "mpls") and parts[3] in ("IFNAME", "ifname")
        if not ours:
            raise InvalidParameter(
                f"unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        if parts[0] != "net" or not separator or not all(map(_usable, parts)):
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
    text = options.get(MTU, "0")
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise _unparsed(MTU, text, f'strconv.Atoi: parsing "{text}": invalid syntax')
    if not 0 <= int(text) <= _LARGEST_MTU:
        raise InvalidParameter(f"invalid MTU number: {int(text)}")
    return int(text)


def parse_bool(text: str) -> bool:
    """As Go does. Raises ValueError."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(text)


def _flag(options: Mapping[str, str], name: str, *, default: bool = True) -> bool:
    text = options.get(_BRIDGE + name)
    if text is None:
        return default
    try:
        return parse_bool(text)
    except ValueError:
        reason = f'strconv.ParseBool: parsing "{text}": invalid syntax'
        raise _unparsed(_BRIDGE + name, text, reason) from None


def _gateway_mode(options: Mapping[str, str], label: str) -> str:
    mode = options.get(label, "nat")
    if mode not in _MODES:
        raise _unparsed(label, mode, f"unknown gateway mode {mode}")
    return mode


def _address(options: Mapping[str, str], label: str) -> str:
    text = options.get(label)
    if text is None:
        return ""
    try:
        return to_text(*parse_any(text))
    except InvalidParameter:
        raise _unparsed(label, text, "nil ip") from None


def _unparsed(label: str, text: str, reason: str) -> InvalidParameter:
    return InvalidParameter(f"failed to parse {label} value: {text} ({reason})")


def _choice(text: str, known: tuple[str, ...], what: str, driver: str) -> str:
    if text not in known:
        kind = what.rpartition(" ")[2]
        default = f"'{known[0]}' {kind} is the {driver} driver default"
        raise InvalidParameter(f"requested {what} '{text}' is not valid, {default}")
    return text


def _usable(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and not set(text) & set("/: ")

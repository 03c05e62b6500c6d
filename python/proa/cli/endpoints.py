"""The networks of a new container: --network and the flags that belong to the first one.

Source: the observed behaviour of docker 28.
"""

from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREDEFINED = ("bridge", "default", "host", "none", "")

_OLD_FLAGS = (
    ("network-alias", "Aliases", "--network-alias and per-network alias"),
    ("link", "Links", "--link and per-network links"),
    ("ip", "IPv4Address", "--ip and per-network IPv4 address"),
    ("ip6", "IPv6Address", "--ip6 and per-network IPv6 address"),
    ("mac-address", "MacAddress", "--mac-address and per-network MAC address"),
    ("link-local-ip", "LinkLocalIPs", "--link-local-ip and per-network link-local IP addresses"),
)


def is_user_defined(name: str) -> bool:
    """Whether it is a network that someone created (not a mode)."""
    return name not in _PREDEFINED and not name.startswith("container:")


def network_settings(values: "dict[str, Any]") -> "tuple[str, dict[str, Any]]":
    """(NetworkMode, EndpointsConfig). Raises Failure."""
    wanted = [*values.get("network", ()), *values.get("net", ())]
    named = bool(wanted)
    endpoints: dict[str, Any] = {}
    for index, network in enumerate(wanted or [{"Target": "default"}]):
        network = dict(network)
        if index == 0:
            _apply_old_flags(network, values)
        settings = _endpoint(network)
        if network["Target"] in endpoints:
            raise Failure(f'network "{network["Target"]}" is specified multiple times')
        if settings or len(wanted) > 1:
            endpoints[network["Target"]] = settings
    kinds = {is_user_defined(network["Target"]) for network in wanted}
    if len(kinds) > 1:
        raise Failure(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return (wanted[0]["Target"] if named else "default"), endpoints


def _apply_old_flags(network: "dict[str, Any]", values: "dict[str, Any]") -> None:
    given = dict(values)
    aliases = [*values.get("network-alias", ()), *values.get("net-alias", ())]
    if aliases:
        given["network-alias"] = aliases
    for flag, key, words in _OLD_FLAGS:
        if not given.get(flag):
            continue
        if network.get(key):
            raise Failure(f"conflicting options: cannot specify both {words}")
        if flag != "link" or is_user_defined(network["Target"]):
            network[key] = given[flag]


def _endpoint(network: "dict[str, Any]") -> "dict[str, Any]":
    target = network["Target"]
    if not target.strip():
        raise Failure("no name set for network")
    if not is_user_defined(target):
        if network.get("Aliases"):
            raise Failure("network-scoped aliases are only supported for user-defined networks")
        if network.get("Links"):
            raise Failure("links are only supported for user-defined networks")
    settings = {
        key: network[key] for key in ("Aliases", "Links", "DriverOpts", "GwPriority") if network.get(key)
    }
    ipam = {key: network[key] for key in ("IPv4Address", "IPv6Address", "LinkLocalIPs") if network.get(key)}
    if ipam:
        settings["IPAMConfig"] = ipam
    if network.get("MacAddress"):
        settings["MacAddress"] = _mac(network["MacAddress"])
    return settings


def _mac(text: str) -> str:
    separator = ":" if ":" in text else "-"
    octets = text.strip().lower().split(separator)
    digits = set("0123456789abcdef")
    if len(octets) not in (6, 8, 20) or any(len(octet) != 2 or not set(octet) <= digits for octet in octets):
        raise Failure(f"{text} is not a valid mac address")
    return text

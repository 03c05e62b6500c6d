"""The network part of a request: which mode, what it conflicts with, and the wish that start fulfils.

Source: moby's runconfig/hostconfig_unix.go (validateNetMode) and daemon/container_operations.go.
"""

import re
import socket
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from proa.engine.resolve.model import Context, Peer
from proa.engine.resolve.namespaces import container_of
from proa.engine.resolve.ports import resolve_ports
from proa.errors import InvalidParameter, NotFound
from proa.network import EndpointWish, NetworkWish, endpoint_sysctls, listed
from proa.schema.container import ContainerConfig, ContainerCreateRequest, HostConfig
from proa.schema.network import EndpointIPAMConfig, EndpointSettings

_PREDEFINED = frozenset({"bridge", "default", "host", "none"})
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def network_mode(request: ContainerCreateRequest, host_config: HostConfig) -> str:
    """The mode as inspect shows it; `default` and nothing are the bridge."""
    if request.network_disabled:
        return "none"
    mode = host_config.network_mode
    return "bridge" if mode in ("", "default") else mode


def resolve_network(
    request: ContainerCreateRequest, config: ContainerConfig, host_config: HostConfig, context: Context
) -> tuple[NetworkWish, Peer | None]:
    """The wish of a host configuration whose mode is filled in; the peer whose namespace is joined.

    `request` tells what was asked for, `config` has the hostname filled in.
    """
    mode = host_config.network_mode
    _check_conflicts(request, host_config)
    for host in host_config.extra_hosts or ():
        _check_extra_host(host)
    for server in host_config.dns or ():
        if not is_address(server):
            raise InvalidParameter(f"{server} is not an ip address")
    for what, words in (("dns-search", host_config.dns_search), ("dns-option", host_config.dns_options)):
        for word in words or ():
            if not word.isprintable():  # it becomes a word of a line of /etc/resolv.conf
                raise InvalidParameter(f"invalid {what}: {word!r}")
    if name := container_of(mode):
        peer = context.peer(name)
        return NetworkWish(mode="container", container=peer.id), peer
    if mode == "bridge":
        _check_links(host_config, context)
    wish = NetworkWish(
        mode="host" if mode == "host" else "none" if mode == "none" else "bridge",
        endpoints=_endpoints(request, host_config, context.endpoint_faults),
        dns=tuple(host_config.dns or ()),
        dns_options=tuple(host_config.dns_options or ()),
        dns_search=tuple(host_config.dns_search or ()),
        extra_hosts=tuple(host_config.extra_hosts or ()),
        hostname=config.hostname,
        domainname=config.domainname,
        ports=resolve_ports(config, host_config),
    )
    return wish, None


Faults = Callable[[EndpointWish], Sequence[str]]
"""What the network cannot give of a wish."""


def endpoint_wish(network: str, settings: EndpointSettings | None, faults: Faults) -> EndpointWish:
    """What a container asks of a network. Raises InvalidParameter with every fault there is."""
    if settings is None:
        return EndpointWish(network=network)
    asked = _asked(network, settings)
    found = [*_of_predefined(asked), *_malformed(asked), *faults(asked)]
    checked_mac(asked.mac)
    try:
        endpoint_sysctls(asked.driver_options, "")
    except InvalidParameter as exc:
        found.append(str(exc))
    if found:
        raise InvalidParameter("\n".join(("invalid endpoint settings:", listed(found))))
    return replace(asked, mac=checked_mac(asked.mac))


def _of_predefined(asked: EndpointWish) -> Sequence[str]:
    """What only users' own networks have."""
    if asked.network not in _PREDEFINED:
        return ()
    found = []
    if asked.ipv4 or asked.ipv6:
        found.append("user specified IP address is supported on user defined networks only")
    if asked.aliases:
        found.append("network-scoped alias is supported only for containers in user defined networks")
    return found


def _malformed(asked: EndpointWish) -> Sequence[str]:
    found = []
    for text, family, name in ((asked.ipv4, socket.AF_INET, "IPv4"), (asked.ipv6, socket.AF_INET6, "IPv6")):
        if text and (not _parses(family, text) or text in ("0.0.0.0", "::")):
            found.append(f"invalid {name} address: {text}")
    found += [f"invalid link-local IP address: {text}" for text in asked.link_local if not is_address(text)]
    for alias in asked.aliases:  # it becomes a word of the hosts file's kind
        if not alias.isprintable() or any(c.isspace() for c in alias):
            found.append(f"invalid alias: {alias!r}")
    return found


def _asked(network: str, settings: EndpointSettings) -> EndpointWish:
    addresses = settings.ipam_config or EndpointIPAMConfig()
    return EndpointWish(
        network=network,
        aliases=tuple(settings.aliases or ()),
        links=tuple(settings.links or ()),
        ipv4=addresses.i_pv4_address,
        ipv6=addresses.i_pv6_address,
        link_local=tuple(addresses.link_local_i_ps or ()),
        mac=settings.mac_address,
        driver_options=settings.driver_opts or {},
        priority=settings.gw_priority,
    )


def _endpoints(
    request: ContainerCreateRequest, host_config: HostConfig, faults: Faults
) -> tuple[EndpointWish, ...]:
    """The network that the mode names first, then the others that are named."""

    def wished(name: str, settings: EndpointSettings | None) -> EndpointWish:
        try:
            return endpoint_wish(name, settings, faults)
        except InvalidParameter as exc:
            raise InvalidParameter(f"invalid config for network {name}: {exc}") from None

    mode = host_config.network_mode
    given = dict((request.networking_config.endpoints_config if request.networking_config else None) or {})
    if "default" in given and mode == "bridge":
        given.setdefault("bridge", given.pop("default"))
    if mode in ("host", "none"):
        for name, settings in given.items():
            wished(name, settings)
            if name != mode:
                raise InvalidParameter(
                    f"Container cannot be connected to network endpoints: {', '.join(sorted({*given, mode}))}"
                )
        return ()
    first = wished(mode, given.pop(mode, None))
    if not first.mac and request.mac_address:
        first = replace(first, mac=checked_mac(request.mac_address))
    if mode != "bridge" and host_config.links:
        # On a network that has names a link is an alias of the container's own.
        first = replace(first, links=(*first.links, *host_config.links))
    return (first, *(wished(name, settings) for name, settings in given.items()))


def _check_conflicts(request: ContainerCreateRequest, host_config: HostConfig) -> None:
    mode = host_config.network_mode
    if mode.startswith("container:") and not container_of(mode):
        raise InvalidParameter("invalid container format container:<name|id>")
    if mode == "host" and host_config.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )
    if not mode.startswith("container:"):
        return
    for given, text in (
        (request.hostname, "conflicting options: hostname and the network mode"),
        (
            host_config.links,
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior",
        ),
        (host_config.dns, "conflicting options: dns and the network mode"),
        (host_config.extra_hosts, "conflicting options: custom host-to-IP mapping and the network mode"),
        (_mac(request), "conflicting options: mac-address and the network mode"),
        (
            host_config.port_bindings or host_config.publish_all_ports,
            "conflicting options: port publishing and the container type network mode",
        ),
        (request.exposed_ports, "conflicting options: port exposing and the container type network mode"),
    ):
        if given:
            raise InvalidParameter(text)


def _check_links(host_config: HostConfig, context: Context) -> None:
    """Whom a container links to on the default network is there already."""
    for link in host_config.links or ():
        name = link.partition(":")[0]
        try:
            context.peer(name)
        except NotFound as exc:
            raise InvalidParameter(f"could not get container for {name}: {exc}") from exc


def _mac(request: ContainerCreateRequest) -> str:
    """Any hardware address asked for, by either of the two places that can name one."""
    named = [request.mac_address or ""]
    if request.networking_config:
        named += [e.mac_address for e in (request.networking_config.endpoints_config or {}).values() if e]
    return next((checked_mac(mac) for mac in named if mac), "")


def checked_mac(mac: str) -> str:
    """A hardware address as the kernel has it; empty stays empty. Raises InvalidParameter."""
    if mac and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
        raise InvalidParameter(f"invalid MAC address: {mac}")
    return mac.lower().replace("-", ":")


def _check_extra_host(entry: str) -> None:
    name, separator, address = entry.partition(":")
    if not separator or not name or any(c.isspace() for c in entry):
        raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if address == "host-gateway":
        return
    if not is_address(address.strip("[]")):
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"')


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address, as the kernel's own parser has it."""
    return _parses(socket.AF_INET, text) or _parses(socket.AF_INET6, text)


def _parses(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True

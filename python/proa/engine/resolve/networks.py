"""The network part of a request: which mode, what it conflicts with, and the wish that start fulfils.

Source: moby's runconfig/hostconfig_unix.go (validateNetMode) and daemon/container_operations.go.
"""

import re
import socket

from proa.engine.resolve.model import Context, Peer
from proa.engine.resolve.namespaces import container_of
from proa.engine.resolve.ports import resolve_ports
from proa.errors import InvalidParameter, NotFound, NotImplemented_
from proa.network import NetworkWish
from proa.schema.container import ContainerConfig, ContainerCreateRequest, HostConfig

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
    _refuse_not_yet(request, host_config)
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
    kind = mode if mode in ("host", "none") else "bridge"
    if kind == "bridge" and mode != "bridge":
        raise NotFound(f"network {mode} not found")
    ports = resolve_ports(config, host_config)
    wish = NetworkWish(
        mode="host" if kind == "host" else "none" if kind == "none" else "bridge",
        networks=("bridge",) if kind == "bridge" else (),
        mac=_mac(request),
        dns=tuple(host_config.dns or ()),
        dns_options=tuple(host_config.dns_options or ()),
        dns_search=tuple(host_config.dns_search or ()),
        extra_hosts=tuple(host_config.extra_hosts or ()),
        hostname=config.hostname,
        domainname=config.domainname,
        ports=ports,
    )
    return wish, None


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


def _refuse_not_yet(request: ContainerCreateRequest, host_config: HostConfig) -> None:
    if host_config.links:
        raise NotImplemented_("links are not supported yet")
    endpoints = request.networking_config.endpoints_config if request.networking_config else None
    for name, endpoint in (endpoints or {}).items():
        if name not in ("default", "bridge", "host", "none", host_config.network_mode):
            raise NotFound(f"network {name} not found")
        if endpoint is None:
            continue
        if endpoint.ipam_config and (
            endpoint.ipam_config.i_pv4_address or endpoint.ipam_config.i_pv6_address
        ):
            raise InvalidParameter("user specified IP address is supported on user defined networks only")
        if endpoint.aliases:
            raise InvalidParameter(
                "network-scoped alias is supported only for containers in user defined networks"
            )
        if endpoint.links:
            raise NotImplemented_("links are not supported yet")


def _mac(request: ContainerCreateRequest) -> str:
    """The hardware address asked for, by either of the two places that can name one."""
    named = [request.mac_address or ""]
    if request.networking_config:
        named += [e.mac_address for e in (request.networking_config.endpoints_config or {}).values() if e]
    mac = next((m for m in named if m), "")
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
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False

"""A container's sandbox: its network namespace, the endpoints in it, and what is asked for at create.

wish (at create)  --Networking.connect-->  Sandbox (while it runs)  --disconnect-->  gone
"""

from collections.abc import Iterable
from typing import Literal, Protocol

from msgspec import Struct

from proa.schema.keeper import DefaultRoute, DnsSandbox, HeldPort, KeeperEndpoint
from proa.schema.network import EndpointIPAMConfig, EndpointSettings, NetworkSettings, PortBinding
from proa.schema.plan import Network as PlanNetwork


class Keeper(Protocol):
    """What the room needs of the keeper."""

    async def prepare(self, key: int, endpoint: KeeperEndpoint, *more: KeeperEndpoint) -> str:
        """Make a namespace ready under `key`; returns the host's interface. Raises ProaError."""
        ...

    async def release(self, key: int) -> None:
        """Drop a namespace that no start has taken; an unknown key is no error."""
        ...

    async def attach_network(
        self, id_: str, endpoint: KeeperEndpoint, routes: tuple[DefaultRoute, ...]
    ) -> str:
        """One more interface for a running container; returns the host's interface. Raises ProaError."""
        ...

    async def detach_network(self, id_: str, interface: str, routes: tuple[DefaultRoute, ...]) -> None:
        """Take an interface, by its name inside, from a running container. Raises ProaError."""
        ...

    async def hold_ports(self, id_: str, ports: tuple[HeldPort, ...]) -> None:
        """From now on a container holds these ports of the host, and no others.

        Raises PortTaken where a program of the host has one; then it holds what it held.
        """
        ...

    async def serve_names(self, sandbox: DnsSandbox) -> None:
        """See `proa.network.resolver`."""
        ...

    async def forget_names(self, id_: str) -> None:
        """See `proa.network.resolver`."""
        ...


Mode = Literal["bridge", "host", "none", "container"]


class PortWish(Struct, frozen=True, kw_only=True):
    """A container's port to be published; host ports `first` to `last`, zeros for any free one."""

    protocol: str
    container_port: int
    host_address: str = ""
    """One address of the host; `0.0.0.0` or `::` for all of a family, empty for all of both."""
    first: int = 0
    last: int = 0


class PublishedPort(Struct, frozen=True, kw_only=True):
    """A port that is published."""

    protocol: str
    container_port: int
    host_address: str
    host_port: int
    """0 where the container is reached at its own address (gateway mode routed)."""


class EndpointWish(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a container asks of one network."""

    network: str
    """Its name or id, as it was asked for."""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    """`container:alias`."""
    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    mac: str = ""
    driver_options: dict[str, str] = {}
    priority: int = 0
    """The highest one gives the default route."""

    @property
    def plain(self) -> bool:
        """Any endpoint of the network will do."""
        return not (self.ipv4 or self.ipv6 or self.link_local or self.mac or self.driver_options)

    def settings(self, network_id: str = "") -> EndpointSettings:
        """As inspect shows it while the container does not run."""
        return EndpointSettings(
            ipam_config=self.ipam_config(),
            links=list(self.links) or None,
            mac_address=self.mac,
            aliases=list(self.aliases) or None,
            driver_opts=self.driver_options or None,
            gw_priority=self.priority,
            network_id=network_id,
        )

    def ipam_config(self) -> EndpointIPAMConfig | None:
        """The addresses that were asked for."""
        if not (self.ipv4 or self.ipv6 or self.link_local):
            return None
        return EndpointIPAMConfig(
            i_pv4_address=self.ipv4, i_pv6_address=self.ipv6, link_local_i_ps=list(self.link_local) or None
        )


class NetworkWish(Struct, frozen=True, kw_only=True):
    """What a container asks of the network, settled at create, changed by connect and disconnect."""

    mode: Mode
    container: str = ""
    """Id of the container whose namespace is joined (mode container)."""
    endpoints: tuple[EndpointWish, ...] = ()
    """The networks to connect to (mode bridge)."""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    ports: tuple[PortWish, ...] = ()


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interface of a sandbox on one network. Addresses in text, without prefix; empty on host."""

    id: str
    network_id: str
    network_name: str
    interface: str = ""
    """Its name inside."""
    mac: str = ""
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    ipv6: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""
    host_interface: str = ""
    bridge: str = ""
    """The bridge it is on; empty for the network's first."""
    wish: EndpointWish = EndpointWish(network="")
    names: tuple[str, ...] = ()
    """What it is called on its network; none where that has no names."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those it has."""
        return tuple(address for address in (self.address, self.ipv6) if address)

    def settings(self) -> EndpointSettings:
        """As inspect shows it."""
        wish = self.wish
        return EndpointSettings(
            ipam_config=wish.ipam_config(),
            links=list(wish.links) or None,
            aliases=list(wish.aliases) or None,
            driver_opts=wish.driver_options or None,
            gw_priority=wish.priority,
            network_id=self.network_id,
            endpoint_id=self.id,
            mac_address=self.mac,
            ip_address=self.address,
            ip_prefix_len=self.prefix,
            gateway=self.gateway,
            global_i_pv6_address=self.ipv6,
            global_i_pv6_prefix_len=self.ipv6_prefix,
            i_pv6_gateway=self.ipv6_gateway,
            dns_names=list(self.names) or None,
        )


class Sandbox(Struct, frozen=True, kw_only=True):
    """What a container that starts or runs has of the network; the engine stores it with its state."""

    id: str
    mode: Mode
    plan_network: PlanNetwork
    """What goes into plan.namespaces.net."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    key: int = 0
    """The keeper's key of the prepared namespace; 0 without one."""

    @property
    def address(self) -> str:
        """The first endpoint's, empty where there is none."""
        return self.endpoints[0].address if self.endpoints else ""

    def gateway_endpoint(self, *, ipv6: bool = False) -> Endpoint | None:
        """The endpoint with the default route of a family: the highest priority, then the first name."""
        able = [e for e in self.endpoints if (e.ipv6_gateway if ipv6 else e.gateway)]
        return min(able, key=lambda e: (-e.wish.priority, e.network_name), default=None)

    def routes(self) -> tuple[DefaultRoute, ...]:
        """The default routes."""
        four, six = self.gateway_endpoint(), self.gateway_endpoint(ipv6=True)
        return (
            *(((four.gateway, four.interface),) if four else ()),
            *(((six.ipv6_gateway, six.interface),) if six else ()),
        )

    def settings(self, exposed_ports: Iterable[str] = ()) -> NetworkSettings:
        """As inspect shows it; the top-level address is the default bridge's."""
        on_bridge = next((e for e in self.endpoints if e.network_name == "bridge"), None)
        shown = on_bridge or Endpoint(id="", network_id="", network_name="")
        return NetworkSettings(
            sandbox_id=self.id,
            ports=self._shown_ports(exposed_ports) if self.mode == "bridge" else {},
            endpoint_id=shown.id,
            gateway=shown.gateway,
            ip_address=shown.address,
            ip_prefix_len=shown.prefix,
            global_i_pv6_address=shown.ipv6,
            global_i_pv6_prefix_len=shown.ipv6_prefix,
            i_pv6_gateway=shown.ipv6_gateway,
            mac_address=shown.mac,
            networks=self.networks(),
        )

    def _shown_ports(self, exposed: Iterable[str]) -> dict[str, list[PortBinding] | None]:
        shown: dict[str, list[PortBinding] | None] = {_with_protocol(port): None for port in exposed}
        for port in self.ports:
            name = f"{port.container_port}/{port.protocol}"
            binding = PortBinding(host_ip=port.host_address, host_port=str(port.host_port or ""))
            shown[name] = [*(shown.get(name) or ()), binding]
        return shown

    def networks(self) -> dict[str, EndpointSettings | None]:
        """Its endpoints by network name."""
        return {endpoint.network_name: endpoint.settings() for endpoint in self.endpoints}


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"

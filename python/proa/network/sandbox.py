"""A container's sandbox: its network namespace, the endpoints in it, and what is asked for at create.

wish (at create)  --Networking.connect-->  Sandbox (while it runs)  --disconnect-->  gone
"""

from collections.abc import Iterable
from typing import Literal, Protocol

from msgspec import Struct

from proa.schema.keeper import KeeperEndpoint
from proa.schema.network import EndpointSettings, NetworkSettings, PortBinding
from proa.schema.plan import Network as PlanNetwork


class Keeper(Protocol):
    """What the pool needs of the keeper."""

    async def prepare(self, key: int, endpoint: KeeperEndpoint) -> str:
        """Make a namespace ready under `key`; returns the host's interface. Raises ProaError."""
        ...

    async def release(self, key: int) -> None:
        """Drop a namespace that no start has taken; an unknown key is no error."""
        ...


Mode = Literal["bridge", "host", "none", "container"]


class PortWish(Struct, frozen=True, kw_only=True):
    """A container's port to be published; host ports `first` to `last`, zeros for any free one."""

    protocol: str
    container_port: int
    host_address: str = ""
    """One IPv4 address of the host; empty for all of them."""
    first: int = 0
    last: int = 0


class PublishedPort(Struct, frozen=True, kw_only=True):
    """A port that is published."""

    protocol: str
    container_port: int
    host_address: str
    host_port: int


class NetworkWish(Struct, frozen=True, kw_only=True):
    """What a container asks of the network, settled at create."""

    mode: Mode
    container: str = ""
    """Id of the container whose namespace is joined (mode container)."""
    networks: tuple[str, ...] = ()
    """Names of the networks to connect to (mode bridge)."""
    mac: str = ""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    ports: tuple[PortWish, ...] = ()


class Endpoint(Struct, frozen=True, kw_only=True):
    """One interface of a sandbox on one network. Addresses in text, without prefix; empty on host."""

    id: str
    network_id: str
    network_name: str
    mac: str = ""
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    key: int = 0
    """The keeper's key of the prepared namespace."""
    host_interface: str = ""

    def settings(self) -> EndpointSettings:
        """As inspect shows it."""
        return EndpointSettings(
            mac_address=self.mac,
            network_id=self.network_id,
            endpoint_id=self.id,
            gateway=self.gateway,
            ip_address=self.address,
            ip_prefix_len=self.prefix,
        )


class Sandbox(Struct, frozen=True, kw_only=True):
    """A running container's network; the engine stores it with the container's state."""

    id: str
    mode: Mode
    plan_network: PlanNetwork
    """What goes into plan.namespaces.net."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()

    @property
    def address(self) -> str:
        """The first endpoint's, empty where there is none."""
        return self.endpoints[0].address if self.endpoints else ""

    def settings(self, exposed_ports: Iterable[str] = ()) -> NetworkSettings:
        """As inspect shows it; the top-level address is the default bridge's."""
        first = self.endpoints[0] if self.endpoints else None
        on_bridge = first if first is not None and first.network_name == "bridge" else None
        return NetworkSettings(
            sandbox_id=self.id,
            ports=self._shown_ports(exposed_ports) if self.mode == "bridge" else {},
            endpoint_id=on_bridge.id if on_bridge else "",
            gateway=on_bridge.gateway if on_bridge else "",
            ip_address=on_bridge.address if on_bridge else "",
            ip_prefix_len=on_bridge.prefix if on_bridge else 0,
            mac_address=on_bridge.mac if on_bridge else "",
            networks=self.networks(),
        )

    def _shown_ports(self, exposed: Iterable[str]) -> dict[str, list[PortBinding] | None]:
        shown: dict[str, list[PortBinding] | None] = {_with_protocol(port): None for port in exposed}
        for port in self.ports:
            name = f"{port.container_port}/{port.protocol}"
            binding = PortBinding(host_ip=port.host_address, host_port=str(port.host_port))
            shown[name] = [*(shown.get(name) or ()), binding]
        return shown

    def networks(self) -> dict[str, EndpointSettings | None]:
        """Its endpoints by network name."""
        return {endpoint.network_name: endpoint.settings() for endpoint in self.endpoints}


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"

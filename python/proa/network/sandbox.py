"""A container's sandbox: its network namespace, the endpoints in it, and what is asked for at create.

wish (at create)  --Networking.connect-->  Sandbox (while it runs)  --disconnect-->  gone
"""

from typing import Literal, Protocol

from msgspec import Struct

from proa.schema.keeper import KeeperEndpoint
from proa.schema.network import EndpointSettings, NetworkSettings
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


class Endpoint(Struct, frozen=True, kw_only=True):
    """One interface of a sandbox on one network. Addresses in text, without prefix."""

    id: str
    network_id: str
    network_name: str
    mac: str
    address: str
    prefix: int
    gateway: str
    key: int
    """The keeper's key of the prepared namespace."""
    host_interface: str = ""


class Sandbox(Struct, frozen=True, kw_only=True):
    """A running container's network; the engine stores it with the container's state."""

    id: str
    mode: Mode
    plan_network: PlanNetwork
    """What goes into plan.namespaces.net."""
    endpoints: tuple[Endpoint, ...] = ()

    def settings(self) -> NetworkSettings:
        """As inspect shows it."""
        raise NotImplementedError

    def networks(self) -> dict[str, EndpointSettings | None]:
        """Its endpoints by network name."""
        raise NotImplementedError

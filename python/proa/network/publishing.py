"""Published ports of containers: held on the host, and translated to wherever the container's gateway is.

A port belongs to the endpoint that has the default route of its family, since what comes in must go back that
way. When networks come and go, it moves.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proa.errors import System, Unavailable
from proa.network.ipam import IPV4, IPV6, parse_any
from proa.network.network import Network
from proa.network.ports import EVERY, Ports, is_ipv6
from proa.network.sandbox import Endpoint, NetworkWish, PortWish, PublishedPort, Sandbox
from proa.network.wall import Blocking, Wall

if TYPE_CHECKING:
    from proa.network.firewall import Rule


class Publishing:
    """Publishes ports."""

    def __init__(self, wall: Wall, blocking: Blocking, network: Callable[[str], Network | None]) -> None:
        """`network` gives a network by id."""
        self._wall = wall
        self._blocking = blocking
        self._network = network
        self._ports = Ports()

    def adopt(self, sandbox: Sandbox) -> None:
        """A container that runs since before this daemon."""
        self._ports.hold(sandbox.ports)
        self._wall.remember(self._rules(sandbox))

    async def publish(self, wish: NetworkWish, sandbox: Sandbox) -> Sandbox:
        """The sandbox with the wished ports held and translated, or none of it. Raises System."""
        endpoint = self._way_in(sandbox)
        if not wish.ports or endpoint is None:
            return sandbox
        failed = (
            f"driver failed programming external connectivity on endpoint {wish.hostname} ({endpoint.id}): "
        )
        if not self._wall.enabled:
            raise System(failed + "the firewall is switched off")
        try:
            six = sandbox.gateway_endpoint(ipv6=True) is not None
            ports = self._ports.take(self._bound(wish.ports, endpoint), ipv6=six)
        except System as exc:
            raise System(f"{failed}{exc}") from exc
        published = replace(sandbox, ports=ports)
        try:
            await self._translate(published, ())
        except BaseException as exc:
            self._ports.give_back(ports)
            if isinstance(exc, OSError):
                raise System(f"{failed}{exc}") from exc
            raise
        return published

    async def unpublish(self, sandbox: Sandbox) -> str:
        """Give its ports back; returns why they stay translated, empty if they do not."""
        try:
            await self._wall.take_back(self._rules(sandbox))
        except (OSError, Unavailable) as exc:
            return str(exc)
        finally:
            self._ports.give_back(sandbox.ports)
        return ""

    async def moved(self, wish: NetworkWish, old: Sandbox, new: Sandbox) -> Sandbox:
        """A container's networks have changed: its ports go with its default route. Raises System."""
        if not new.ports:
            return await self.publish(wish, new)
        if self._way_in(new) is None:
            await self.unpublish(old)
            return replace(new, ports=())
        try:
            await self._translate(new, self._rules(old))
        except OSError as exc:
            raise System(f"published ports: {exc}") from exc
        return new

    async def _translate(self, sandbox: Sandbox, instead_of: Sequence["Rule"]) -> None:
        from proa.network import link

        ours = [e.host_interface for e in sandbox.endpoints if e.host_interface]
        if ours:
            await self._blocking(link.allow_hairpin, ours)
        rules = self._rules(sandbox)
        old = [rule for rule in instead_of if rule not in rules]
        await self._wall.change([rule for rule in rules if rule not in instead_of], old)

    def _way_in(self, sandbox: Sandbox) -> Endpoint | None:
        """The endpoint that ports lead to; IPv4's where there are both."""
        for endpoint in (sandbox.gateway_endpoint(), sandbox.gateway_endpoint(ipv6=True)):
            if endpoint is not None and self._bridge_of(endpoint) is not None:
                return endpoint
        return None

    def _bridge_of(self, endpoint: Endpoint | None) -> Network | None:
        network = self._network(endpoint.network_id) if endpoint is not None else None
        return network if network is not None and network.is_bridge else None

    def _bound(self, wishes: Sequence[PortWish], endpoint: Endpoint) -> list[PortWish]:
        """Ports that say nothing of the host's address get the network's own, if it has one."""
        network = self._bridge_of(endpoint)
        default = network.bridge.host_ipv4 or network.bridge.host_ipv6 if network else ""
        if not default or default in ("0.0.0.0", "::"):
            return list(wishes)
        return [w if w.host_address else replace(w, host_address=default) for w in wishes]

    def _rules(self, sandbox: Sandbox) -> "list[Rule]":
        return [rule for port in sandbox.ports for rule in self._rules_of(sandbox, port)]

    def _rules_of(self, sandbox: Sandbox, port: PublishedPort) -> "list[Rule]":
        from proa.network import firewall

        six = is_ipv6(port.host_address)
        endpoint = sandbox.gateway_endpoint(ipv6=six)
        network = self._bridge_of(endpoint)
        if endpoint is None or network is None:
            return []
        address, bits = parse_any(endpoint.ipv6 if six else endpoint.address)
        mode = network.bridge.mode_ipv6 if six else network.bridge.mode_ipv4
        if mode == "routed":
            opening = firewall.Opening(
                protocol=port.protocol, address=address, port=port.container_port, bits=bits
            )
            return [opening]
        host = None if port.host_address in EVERY else parse_any(port.host_address)[0]
        return [
            firewall.Translation(
                protocol=port.protocol,
                host_address=host,
                host_port=port.host_port,
                address=address,
                port=port.container_port,
                bits=IPV6 if six else IPV4,
            )
        ]

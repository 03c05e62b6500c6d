"""Published ports of containers: held on the host, and translated to wherever the container's gateway is.

A port belongs to the endpoint that has the default route of its family, since what comes in must go back that
way. When networks come and go, it moves. On a routed network nothing of the host is held: the firewall opens
the container's port at its own address.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proa.errors import PortTaken, ProaError, System, Unavailable
from proa.network.ipam import IPV4, IPV6, parse_any
from proa.network.network import Network
from proa.network.ports import EVERY, Ports, is_ipv6, socket_name
from proa.network.sandbox import Endpoint, Keeper, NetworkWish, PortWish, PublishedPort, Sandbox
from proa.network.wall import Blocking, Wall
from proa.schema.keeper import HeldPort

if TYPE_CHECKING:
    from proa.network.firewall import Rule


_log = logging.getLogger(__name__)

Families = frozenset[bool]
"""Of addresses: whether it is IPv6."""
Reserved = list[tuple[PortWish, tuple[PublishedPort, ...]]]


class Publishing:
    """Publishes ports."""

    def __init__(
        self, wall: Wall, keeper: Keeper, blocking: Blocking, network: Callable[[str], Network | None]
    ) -> None:
        """`network` gives a network by id."""
        self._wall = wall
        self._keeper = keeper
        self._blocking = blocking
        self._network = network
        self._ports = Ports()
        self._leaving: set[asyncio.Future[None]] = set()
        """Those being given back: their containers have ended, and whoever saw that may want the ports."""

    def adopt(self, sandbox: Sandbox) -> None:
        """A container that runs since before this daemon; the keeper has held its ports meanwhile."""
        self._ports.hold(sandbox.ports)
        self._wall.remember(self._rules(sandbox))

    async def publish(
        self, container_id: str, wish: NetworkWish, sandbox: Sandbox, name: str = ""
    ) -> Sandbox:
        """The sandbox with the wished ports held and translated, or none of it. Raises System.

        `name` is the container's, for the error.
        """
        endpoint = self._way_in(sandbox)
        if not wish.ports or endpoint is None:
            return sandbox
        async with AsyncExitStack() as undo:
            try:
                published = await self._hold(container_id, wish, sandbox, endpoint)
                undo.push_async_callback(self._let_go, container_id, published)
                await self._translate(published, ())
            except (OSError, System) as exc:
                reason = exc.strerror or exc if isinstance(exc, OSError) else exc
                raise System(
                    f"driver failed programming external connectivity on endpoint {name or wish.hostname} "
                    f"({endpoint.id}): {reason}"
                ) from exc
            undo.pop_all()
        return published

    async def unpublish(self, container_id: str, sandbox: Sandbox) -> str:
        """Give its ports back; returns why they stay translated, empty if they do not."""
        gone = asyncio.get_running_loop().create_future()
        self._leaving.add(gone)
        try:
            await self._wall.take_back(self._rules(sandbox))
        except (OSError, Unavailable) as exc:
            return str(exc)
        finally:
            try:
                await self._let_go(container_id, sandbox)
            finally:
                self._leaving.discard(gone)
                gone.set_result(None)
        return ""

    async def moved(self, container_id: str, wish: NetworkWish, old: Sandbox, new: Sandbox) -> Sandbox:
        """A container's networks have changed: its ports go with its default route. Raises ProaError."""
        if not new.ports:
            return await self.publish(container_id, wish, new)
        if self._way_in(new) is None:
            await self.unpublish(container_id, old)
            return replace(new, ports=())
        if self._routed(old) != self._routed(new):
            await self.unpublish(container_id, old)
            return await self.publish(container_id, wish, replace(new, ports=()))
        try:
            await self._translate(new, self._rules(old))
        except OSError as exc:
            raise System(f"published ports: {exc}") from exc
        await self._keeper.hold_ports(container_id, self._wires(new, new.ports))
        return new

    async def _hold(
        self, container_id: str, wish: NetworkWish, sandbox: Sandbox, endpoint: Endpoint
    ) -> Sandbox:
        """The sandbox with its ports, which the keeper holds; those of a range give way to the host's."""
        reserved: Reserved = []
        busy: dict[str, set[int]] = {"tcp": set(), "udp": set(), "sctp": set()}
        routed = self._routed(sandbox)
        try:
            for asked in self._bound(wish.ports, endpoint):
                reserved.append((asked, await self._take(asked, routed)))
            while True:
                ports = tuple(port for _, some in reserved for port in some if _is_there(sandbox, port))
                try:
                    await self._keeper.hold_ports(container_id, self._wires(sandbox, ports))
                except PortTaken as exc:
                    self._give_way(reserved, busy, routed, self._told(exc, sandbox, ports))
                else:
                    return replace(sandbox, ports=ports)
        except BaseException:
            self._ports.give_back(port for _, some in reserved for port in some)
            raise

    async def _take(self, wish: PortWish, routed: Families) -> tuple[PublishedPort, ...]:
        """Ports for a wish; what is about to be free is waited for. Raises System."""
        leaving = tuple(self._leaving)
        try:
            return self._ports.take(wish, (), routed)
        except System:
            if not leaving:
                raise
        await asyncio.wait(leaving)
        return self._ports.take(wish, (), routed)

    def _give_way(
        self, reserved: Reserved, busy: dict[str, set[int]], routed: Families, taken: PortTaken
    ) -> None:
        """Another number for the port that a program of the host has. Raises System where there is none."""
        found = [i for i, (_, ports) in enumerate(reserved) if taken.port in map(socket_name, ports)]
        if not found:
            raise taken
        index = found[0]
        wish, ports = reserved[index]
        if wish.first and wish.first == wish.last:
            raise taken
        self._ports.give_back(ports)
        reserved[index] = (wish, ())
        busy[wish.protocol].add(ports[0].host_port)
        reserved[index] = (wish, self._ports.take(wish, busy[wish.protocol], routed))

    def _told(self, taken: PortTaken, sandbox: Sandbox, ports: Sequence[PublishedPort]) -> PortTaken:
        """In Docker's words, which name the container's end, too."""
        for port in ports:
            if socket_name(port) == taken.port:
                (wire,) = self._wires(sandbox, (port,))
                name = socket_name(port, wire.target)
                return PortTaken(str(taken).replace(taken.port, name, 1), taken.port)
        return taken

    async def _let_go(self, container_id: str, sandbox: Sandbox) -> None:
        self._ports.give_back(sandbox.ports)
        try:
            await self._keeper.hold_ports(container_id, ())
        except ProaError as exc:
            _log.debug("ports of %s: %s", container_id, exc)

    def _wires(self, sandbox: Sandbox, ports: Sequence[PublishedPort]) -> tuple[HeldPort, ...]:
        """What the keeper holds, and where it passes on what the firewall does not translate."""
        four, six = sandbox.gateway_endpoint(), sandbox.gateway_endpoint(ipv6=True)
        targets = {False: four.address if four else "", True: f"[{six.ipv6}]" if six else ""}
        return tuple(
            HeldPort(
                protocol=port.protocol,
                address=port.host_address,
                port=port.host_port,
                target=f"{target}:{port.container_port}" if target else "",
            )
            for port in ports
            if port.host_port
            for target in (targets[is_ipv6(port.host_address)] or targets[not is_ipv6(port.host_address)],)
        )

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

    def _routed(self, sandbox: Sandbox) -> Families:
        """The families in which ports are the container's own: both, where its only one, IPv4, is such."""
        found = set()
        for six in (False, True):
            endpoint = sandbox.gateway_endpoint(ipv6=six)
            network = self._bridge_of(endpoint)
            if network is not None and network.bridge.mode(six=six) == "routed":
                found.add(six)
        if False in found and sandbox.gateway_endpoint(ipv6=True) is None:
            found.add(True)
        return frozenset(found)

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
        if network.bridge.mode(six=six) == "routed":
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


def _is_there(sandbox: Sandbox, port: PublishedPort) -> bool:
    """A port of the host's, or of an address that the container has."""
    return bool(port.host_port or sandbox.gateway_endpoint(ipv6=is_ipv6(port.host_address)))

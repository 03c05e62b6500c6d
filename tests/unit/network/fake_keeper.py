"""A keeper that prepares namespaces in memory, at the pace the test sets."""

import asyncio
import socket

from proa.errors import PortTaken, Unavailable
from proa.schema.keeper import DefaultRoute, DnsSandbox, HeldPort, KeeperEndpoint


class FakeKeeper:
    """Knows what was prepared; `hold` makes preparations wait, `down` makes them fail."""

    def __init__(self) -> None:
        self.prepared: dict[int, KeeperEndpoint] = {}
        self.more: dict[int, tuple[KeeperEndpoint, ...]] = {}
        self.released: list[int] = []
        self.attached: dict[tuple[str, str], KeeperEndpoint] = {}
        self.routes: dict[str, tuple[DefaultRoute, ...]] = {}
        self.ports: dict[str, dict[HeldPort, socket.socket]] = {}
        self.names: dict[str, DnsSandbox] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.down = False

    async def prepare(self, key: int, endpoint: KeeperEndpoint, *more: KeeperEndpoint) -> str:
        await self.open.wait()
        if self.down:
            raise Unavailable("the keeper is not there")
        assert key not in self.prepared, "a key is used once at a time"
        self.prepared[key] = endpoint
        self.more[key] = more
        return f"veth{len(self.prepared)}"

    async def release(self, key: int) -> None:
        if self.down:
            raise Unavailable("the keeper is not there")
        self.released.append(key)
        self.prepared.pop(key, None)

    async def attach_network(
        self, id_: str, endpoint: KeeperEndpoint, routes: tuple[DefaultRoute, ...]
    ) -> str:
        if self.down:
            raise Unavailable("the keeper is not there")
        self.attached[id_, endpoint.interface] = endpoint
        self.routes[id_] = routes
        return f"veth-{endpoint.interface}"

    async def detach_network(self, id_: str, interface: str, routes: tuple[DefaultRoute, ...]) -> None:
        if self.down:
            raise Unavailable("the keeper is not there")
        self.attached.pop((id_, interface), None)
        self.routes[id_] = routes

    async def hold_ports(self, id_: str, ports: tuple[HeldPort, ...]) -> None:
        """Really bound, so that a program of the host is noticed."""
        before = self.ports.pop(id_, {})
        bound: dict[HeldPort, socket.socket] = {}
        try:
            for port in ports:
                same = next(
                    (old for old in before if old.port == port.port and old.address == port.address), None
                )
                bound[port] = before.pop(same) if same else self._bind(port)
        except OSError as exc:
            for made in bound.values():
                made.close()
            host = f"[{port.address}]" if ":" in port.address else port.address
            name = f"{host}:{port.port}/{port.protocol}"
            raise PortTaken(f"failed to bind host port for {name}: address already in use", name) from exc
        finally:
            for made in before.values():
                made.close()
        if bound:
            self.ports[id_] = bound

    def _bind(self, port: HeldPort) -> socket.socket:
        family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((port.address, port.port))
            if port.protocol == "tcp":
                made.listen()
        except OSError:
            made.close()
            raise
        return made

    async def serve_names(self, sandbox: DnsSandbox) -> None:
        self.names[sandbox.id] = sandbox

    async def forget_names(self, id_: str) -> None:
        self.names.pop(id_, None)

    def start(self, key: int) -> None:
        """A start takes the namespace: it is the container's now."""
        del self.prepared[key]

    def die(self) -> None:
        """A new keeper holds nothing."""
        self.prepared.clear()

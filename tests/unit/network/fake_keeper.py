"""A keeper that prepares namespaces in memory, at the pace the test sets."""

import asyncio

from proa.errors import Unavailable
from proa.schema.keeper import DefaultRoute, DnsSandbox, KeeperEndpoint


class FakeKeeper:
    """Knows what was prepared; `hold` makes preparations wait, `down` makes them fail."""

    def __init__(self) -> None:
        self.prepared: dict[int, KeeperEndpoint] = {}
        self.more: dict[int, tuple[KeeperEndpoint, ...]] = {}
        self.released: list[int] = []
        self.attached: dict[tuple[str, str], KeeperEndpoint] = {}
        self.routes: dict[str, tuple[DefaultRoute, ...]] = {}
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

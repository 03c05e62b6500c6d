"""A keeper that prepares namespaces in memory, at the pace the test sets."""

import asyncio

from proa.errors import Unavailable
from proa.schema.keeper import KeeperEndpoint


class FakeKeeper:
    """Knows what was prepared; `hold` makes preparations wait, `down` makes them fail."""

    def __init__(self) -> None:
        self.prepared: dict[int, KeeperEndpoint] = {}
        self.released: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.down = False

    async def prepare(self, key: int, endpoint: KeeperEndpoint) -> str:
        await self.open.wait()
        if self.down:
            raise Unavailable("the keeper is not there")
        assert key not in self.prepared, "a key is used once at a time"
        self.prepared[key] = endpoint
        return f"veth{len(self.prepared)}"

    async def release(self, key: int) -> None:
        if self.down:
            raise Unavailable("the keeper is not there")
        self.released.append(key)
        self.prepared.pop(key, None)

    def start(self, key: int) -> None:
        """A start takes the namespace: it is the container's now."""
        del self.prepared[key]

    def die(self) -> None:
        """A new keeper holds nothing."""
        self.prepared.clear()

"""A client of registries beside one that does what a test says, and the faults that tests say."""

import base64
from collections.abc import AsyncIterator
from typing import Any

from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor

from proa.registry import Registry, RegistrySettings
from proa.schema.reference import Digest, Reference, parse_reference
from proa.schema.registry import Credentials

ME = Credentials(username="me", password="secret")
BASIC = "Basic " + base64.b64encode(b"me:secret").decode()
LAYER = bytes(range(256)) * 1000
WRONG = Digest("sha256:" + "0" * 64)


class Rig:
    """A client and its registry; `pauses` are what lay between attempts."""

    def __init__(self, server: ScriptedRegistry) -> None:
        self.server = server
        self.pauses: list[float] = []
        self.client = self.with_settings()

    def with_settings(self, **settings: Any) -> Registry:
        self.client = Registry(RegistrySettings(certs_dirs=(), **settings), self._pause)
        return self.client

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def ref(self, name: str = "a/b:1", server: ScriptedRegistry | None = None) -> Reference:
        return parse_reference(f"{(server or self.server).host}/{name}")

    async def collect(self, got: bytearray, data: bytes) -> None:
        async with self.client.blob(self.ref(), descriptor(data)) as chunks:
            async for chunk in chunks:
                got += chunk

    async def blob(self, data: bytes, offset: int = 0, **more: Any) -> bytes:
        async with self.client.blob(self.ref(), descriptor(data, **more), offset=offset) as chunks:
            return b"".join([chunk async for chunk in chunks])


def source(data: bytes, piece: int = 10_000) -> Any:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), piece):
            yield data[start : start + piece]

    return read


def once(match: str, reply: Reply) -> Any:
    """A fault for the first request whose line begins so."""
    left = [reply]
    return lambda seen: left.pop() if left and seen.line.startswith(match) else None


def every(match: str, reply: Reply) -> Any:
    return lambda seen: reply if seen.line.startswith(match) else None


def guard(realm: str = "", scheme: str = "Basic") -> Any:
    """Nothing for who does not say who they are."""
    challenge = f'{scheme} realm="{realm}",service="svc"'

    def fault(seen: Seen) -> Reply | None:
        shown = seen.headers.get("authorization", "")
        right = shown == BASIC if scheme == "Basic" else shown.startswith("Bearer token-")
        return None if right else Reply(401, b"", {"WWW-Authenticate": challenge})

    return fault

"""Images in clients' directories of OCI's layout, as named contexts: in the store while a build lasts.

Source: moby/buildkit frontend/dockerui/namedcontext.go.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from secrets import token_hex
from typing import Final, Protocol

import msgspec

from proa.buildkit.content import ClientStore, archive
from proa.buildkit.grpc import UNKNOWN, CallFailed
from proa.buildkit.sessions import Session
from proa.buildkit.wishes import Layout
from proa.errors import ProaError

_LOADED: Final = "Loaded image ID: "
_REPOSITORY: Final = "oci-layout.localhost/context"
"""Names that nobody has pulled or built."""


class Images(Protocol):
    """The images' verbs that this needs."""

    def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[bytes]: ...

    async def tag(self, ref: str, repo: str, tag: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, prune: bool, platform: str = "") -> object: ...


class Layouts:
    """Loads them."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def loaded(
        self, session: Session, layouts: Sequence[Layout], stack: AsyncExitStack
    ) -> dict[str, str]:
        """Named contexts that are images of the store, for as long as the stack. Raises CallFailed."""
        found = {}
        for layout in layouts:
            id_ = await self._load(ClientStore(session, layout.store, layout.digest))
            repository, tag = _REPOSITORY, token_hex(8)
            await self._images.tag(id_, repository, tag)
            stack.push_async_callback(self._remove, f"{repository}:{tag}")
            found[layout.name] = f"docker-image://{repository}:{tag}"
        return found

    async def _load(self, store: ClientStore) -> str:
        loaded = ""
        async for line in self._images.load(archive(store), quiet=True):
            for event in map(msgspec.json.decode, line.splitlines()):
                if error := event.get("error"):
                    raise CallFailed(UNKNOWN, error)
                told = event.get("stream", "")
                if told.startswith(_LOADED):
                    loaded = told.removeprefix(_LOADED).strip()
        if not loaded:
            raise CallFailed(UNKNOWN, f"{store.digest}: has no image for this host")
        return loaded

    async def _remove(self, name: str) -> None:
        # What somebody uses, or has named otherwise, stays.
        with suppress(ProaError):
            await asyncio.shield(asyncio.ensure_future(self._images.remove(name, force=False, prune=False)))

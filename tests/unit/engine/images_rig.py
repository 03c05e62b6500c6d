"""Images over a real database and real directories, with fakes for events and containers."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fake_registry import FakeRegistry

from proa import content, snapshots
from proa.engine import images
from proa.engine.images import Images
from proa.engine.images.syncing import Syncing
from proa.metadata import Metadata
from proa.schema.config import DaemonConfig


class FakeEvents:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def emit(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        assert type_ == "image"
        self.told.append((action, attributes.get("name", "")))


class FakeContainers:
    def __init__(self) -> None:
        self.users: list[tuple[str, bool]] = []
        """Of every image."""
        self.by_image: dict[str, list[tuple[str, bool]]] = {}

    def using_image(self, image_id: str) -> Sequence[tuple[str, bool]]:
        return [*self.users, *self.by_image.get(image_id, ())]


class Rig:
    """One store in a directory; `again()` is the next daemon on it, under the same boot or another.

    Its disk is as fast as memory: a sync is over at once, unless `synced` says that none ever ends well.
    """

    def __init__(
        self,
        root: Path,
        registry: FakeRegistry | None = None,
        *,
        boot: str = "first",
        synced: bool = True,
        config: DaemonConfig | None = None,
    ) -> None:
        self.root = root
        self.boot = boot
        self.registry = registry or FakeRegistry()
        schemas = {"content": content.SCHEMA, "snapshots": snapshots.SCHEMA, "images": images.SCHEMA}
        self.database = Metadata(root / "db", schemas)
        self.events = FakeEvents()
        self.containers = FakeContainers()
        self.content = content.Content(root / "content", self.database, boot=boot)
        self.snapshots = snapshots.Snapshots(root / "snapshots", self.database, boot=boot)
        self.syncing = Syncing((self.content, self.snapshots), sync=_sync if synced else _no_sync)
        self.images = Images(
            database=self.database,
            content=self.content,
            snapshots=self.snapshots,
            events=self.events,
            containers=self.containers,
            registry=self.registry,
            config=config or DaemonConfig(),
            syncing=self.syncing,
        )

    async def again(self, *, boot: str = "") -> "Rig":
        await self.settle()
        await self.database.close()
        rig = Rig(self.root, self.registry, boot=boot or self.boot)
        await rig.images.start()
        await rig.settle()
        return rig

    async def settle(self) -> None:
        """Wait for what goes on in the background: removals and syncs."""
        await self.snapshots.settle()
        await self.syncing.settle()
        self.images.disposal.settle()

    def files(self) -> set[str]:
        """What is on disk besides the database: blobs, snapshots, leftovers; removals are waited for."""
        self.images.disposal.settle()
        found = {f"blobs/{path.name}" for path in (self.root / "content/blobs/sha256").iterdir()}
        found |= {f"ingest/{path.name}" for path in (self.root / "content/ingest").iterdir()}
        found |= {f"partial/{path.name}" for path in (self.root / "content/partial").iterdir()}
        snapshots = {path.name for path in (self.root / "snapshots").iterdir()} - {"base"}
        return found | {f"snapshots/{name}" for name in snapshots}

    async def load(self, body: AsyncIterator[bytes], *, quiet: bool = True, platform: str = "") -> list[Any]:
        return await lines(self.images.load(body, quiet=quiet, platform=platform))

    async def pull(self, name: str, tag: str = "", platform: str = "") -> list[Any]:
        return await told(await self.images.pull(name, tag, platform, None))

    async def push(self, name: str, tag: str = "", platform: str = "") -> list[Any]:
        return await told(await self.images.push(name, tag, platform, None))

    async def save(self, *refs: str) -> bytes:
        return b"".join([chunk async for chunk in await self.images.save(refs)])

    async def names(self, **filters: list[str]) -> list[str]:
        listed = await self.images.list(all=False, filters=filters, digests=False, shared_size=False)
        return sorted(name for image in listed for name in image.repo_tags or ["<none>"])


def _sync(directory: str) -> None:
    assert directory


def _no_sync(directory: str) -> None:
    raise OSError(5, "Input/output error", directory)


async def lines(stream: AsyncIterator[bytes]) -> list[Any]:
    """A JSON stream, decoded; text of `stream` and `status` alone."""
    found = [json.loads(line) async for chunk in stream for line in chunk.splitlines()]
    return [line.get("stream", line.get("status", line)) for line in found]


async def told(stream: AsyncIterator[bytes]) -> list[Any]:
    """The same of a pull or push, with the ids and without counts of bytes."""
    found = [json.loads(line) async for chunk in stream for line in chunk.splitlines()]
    return [
        f"{line['id']}: {line['status']}" if "id" in line else line.get("status", line)
        for line in found
        if "progress" not in line
    ]

"""Images that builds stand on: from the store, or pulled first. Implements proa.build.planning.Bases."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from proa.build.planning import Base
from proa.build.platforms import host_platform, shown
from proa.engine.images import Images
from proa.engine.images.records import ImageRecord
from proa.engine.platforms import suits
from proa.errors import NotFound
from proa.schema.oci import Platform
from proa.schema.reference import Reference, parse_reference
from proa.schema.registry import Credentials


class BuildBases:
    """For one build: its credentials, and whether it wants to look for newer ones."""

    def __init__(
        self,
        images: Images,
        credentials: Callable[[str], Credentials | None],
        *,
        always_pull: bool,
        progress: Callable[[str, bytes], None],
        task: Callable[[str, str], AbstractContextManager[object]],
    ) -> None:
        """`credentials` by registry domain; `progress(reference, line)` of a pull."""
        self._images = images
        self._credentials = credentials
        self._always_pull = always_pull
        self._progress = progress
        self._task = task

    async def resolve(self, reference: str, platform: Platform) -> Base:
        """Raises NotFound and what a pull raises."""
        with self._task(f"metadata {reference}", f"[internal] load metadata for {reference}"):
            record = self._here(reference, platform)
        if record is None or self._always_pull:
            record = await self._pull(reference, platform)
        return Base(reference=reference, id=record.id, file=record.file)

    def _here(self, reference: str, platform: Platform) -> ImageRecord | None:
        try:
            record = self._images.resolve(reference)
        except NotFound:
            return None
        self._images.store.usage.touch(record.id)
        there = suits(record, platform.os, platform.architecture, platform.variant)
        return record if there else None

    async def _pull(self, reference: str, platform: Platform) -> ImageRecord:
        name = parse_reference(reference)
        credentials = self._credentials(name.domain)
        before = self._images.store.named(name)
        async for lines in await self._images.pull(reference, "", shown(platform), credentials):
            for line in lines.splitlines():
                self._progress(reference, line)
        return self._kept(name, before, platform)

    def _kept(self, name: Reference, before: ImageRecord | None, platform: Platform) -> ImageRecord:
        """What was pulled; the name goes on meaning the image of this host's platform that it meant."""
        record = self._images.resolve(name.canonical)
        foreign = shown(platform) != shown(host_platform())
        if before is not None and before.id != record.id and foreign:
            self._images.store.tag(name, before.id)
        return record

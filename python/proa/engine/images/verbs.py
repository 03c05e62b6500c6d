"""The verbs of /images: api.ports.Images and the engine's own ImageSource.

Composes the store with loading, saving, importing, removal, pulling and pushing; holds no state of its own.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from proa.content import Content
from proa.engine.images import filters as image_filters
from proa.engine.images import importing, pulling, pushing, transfer
from proa.engine.images.builtin import install_hello
from proa.engine.images.committing import Packing
from proa.engine.images.disposal import Disposal
from proa.engine.images.eviction import Evictor
from proa.engine.images.importing import Import, Importer
from proa.engine.images.lineage import places
from proa.engine.images.loading import Loader
from proa.engine.images.manifests import Manifests
from proa.engine.images.records import ImageRecord, parse_time
from proa.engine.images.removal import Remover
from proa.engine.images.restoring import Restorer
from proa.engine.images.saving import Saver
from proa.engine.images.store import ImageStore
from proa.engine.images.syncing import Syncing
from proa.engine.platforms import check_platform
from proa.engine.ports import ContainersOfImages, Database, EventSink
from proa.errors import InvalidParameter
from proa.hello import HELLO_NAME
from proa.schema.config import DaemonConfig
from proa.schema.container_state import DriverData
from proa.schema.image import (
    ImageDeleteResponseItem,
    ImageHistoryResponseItem,
    ImageInspect,
    ImageSummary,
)
from proa.schema.oci import History
from proa.schema.prune import ImagesPruneReport
from proa.schema.reference import Reference, parse_digest, parse_reference, parse_tag
from proa.schema.registry import Credentials
from proa.snapshots import Snapshots

log = logging.getLogger(__name__)

_NO_CREATED = "0001-01-01T00:00:00Z"


class Registry(transfer.Registry, pushing.Registry, importing.Web, Protocol):
    """What images ask of registries."""


class Images:
    """Images of this daemon."""

    def __init__(
        self,
        *,
        database: Database,
        content: Content,
        snapshots: Snapshots,
        events: EventSink,
        containers: ContainersOfImages,
        registry: Registry,
        config: DaemonConfig,
        executor: Executor | None = None,
        syncing: Syncing | None = None,
    ) -> None:
        syncing = syncing or Syncing((content, snapshots), executor)
        self.store = ImageStore(database, content, snapshots, syncing)
        self.disposal = Disposal()
        self.registry = registry
        """For builds' caches, which are kept where images are."""
        self._events = events
        self._containers = containers
        self._remover = Remover(self.store, events, containers, self.disposal)
        self._evictor = Evictor(self.store, self._remover, containers, config)
        self.store.grown = self._evictor.wake
        self._loader = Loader(self.store, events, executor)
        self._importer = Importer(self.store, events, executor, registry)
        self._saver = Saver(self.store, executor)
        self._puller = pulling.Puller(
            self.store,
            registry,
            events,
            executor,
            self.collect,
            downloads=config.max_concurrent_downloads,
            attempts=config.max_download_attempts,
        )
        self._pusher = pushing.Pusher(
            self.store,
            registry,
            events,
            executor,
            self.collect,
            uploads=config.max_concurrent_uploads,
        )
        self.packing = Packing(self.store, events, executor)
        """For commits, which are the containers' as well."""
        self._restorer = Restorer(self.store, executor)
        self._manifests = Manifests(self.store, containers)

    async def close(self) -> None:
        """Wait for nothing that the disk takes its time for: the next start goes on with it."""
        self._evictor.close()
        self._puller.close()
        self.store.receiving.shutdown(wait=False, cancel_futures=True)
        self.disposal.close()
        self.store.syncing.close()

    async def start(self) -> None:
        """Put away what a crash left, before the first request; it goes in its own time."""
        garbage = self.store.content.sweep()
        self.store.snapshots.sweep_committed()
        garbage += await self._restorer.restore()
        self._remover.collect(garbage)
        self._evictor.wake()

    def reload(self, config: DaemonConfig) -> None:
        """Take over a configuration that was read again. Raises InvalidParameter."""
        self._evictor.reload(config)

    async def settle(self) -> None:
        """Wait until images are below their marks, or as near as may be."""
        await self._evictor.settle()

    def collect(self) -> None:
        """Remove what nothing needs any more, in the background."""
        self._remover.collect()

    # ---- for the engine -------------------------------------------------------------------------

    def resolve(self, ref: str) -> ImageRecord:
        """By name, name:tag, digest, id or unique prefix of one. Raises NotFound `No such image: x:latest`.

        proa/hello is there on demand: it comes out of the package, not from a registry.
        """
        record = self.store.find(ref)
        if record is None and _is_hello(ref):
            return install_hello(self.store)
        return record or self.store.resolve(ref)

    def by_id(self, image_id: str) -> ImageRecord | None:
        """By full id."""
        return self.store.by_id(image_id)

    def made_from(self, image_id: str) -> set[str]:
        """Ids of the images that are known to be made from it, in any number of steps."""
        return self.store.lineage.descendants(image_id)

    def count(self) -> int:
        """How many images there are."""
        return len(self.store.all())

    def hold(self, image_id: str, container_id: str) -> None:
        """A container stands on the image's layers until `release`. Idempotent. Raises NotFound."""
        self.store.hold(image_id, container_id)

    def release(self, container_id: str) -> None:
        """The container is gone. Unknown: nothing to do.

        The last container of a deleted image takes the image's layers with it.
        """
        if self.store.release(container_id):
            self.collect()
        self._evictor.released()

    def lent(self, image_ids: Iterable[str]) -> AbstractContextManager[None]:
        """Somebody relies on these between two looks: they are not evicted meanwhile."""
        return self.store.usage.lent(image_ids)

    def usage(self) -> tuple[int, list[ImageSummary]]:
        """(bytes of all layers, every image with what it shares and how many containers it has), for df."""
        summaries = []
        for record in self.store.all():
            names = self.store.references(record.id)
            summaries.append(self._summary(record, names, self._shared_size(record)))
        return self.store.snapshots.size(), summaries

    # ---- reads ----------------------------------------------------------------------------------

    async def list(
        self,
        *,
        all: bool,
        filters: Mapping[str, Sequence[str]],
        digests: bool,
        shared_size: bool,
        manifests: bool = False,
    ) -> Sequence[ImageSummary]:
        """Newest first; without `all` no intermediate ones, nor those that are there as part of an index.

        With `manifests` a size is of all its manifests, blobs included, as it is in Docker's store of them.
        """
        image_filters.check_keys(filters, image_filters.LIST_FILTERS)
        dangling = image_filters.boolean(filters, "dangling")
        tests = image_filters.tests(self.store, filters)
        patterns = filters.get("reference") or ()
        parts = set[str]() if all or patterns else self.store.indexes.names()
        summaries = []
        for record in self.store.all():
            names = self.store.references(record.id)
            if names and all_parts(names, parts):
                continue
            if dangling is not None and dangling == bool(names):
                continue
            hidden = dangling or not all
            if hidden and not names and self.store.lineage.children(record.id):
                continue
            if patterns:
                names = [name for name in names if image_filters.matches_reference(name, patterns)]
                if not names:
                    continue
            if all_pass(tests, record, names):
                shared = self._shared_size(record) if shared_size else -1
                summary = self._summary(record, names, shared)
                summaries.append(self._with_manifests(summary, record, names) if manifests else summary)
        return summaries

    def _with_manifests(
        self, summary: ImageSummary, record: ImageRecord, names: Sequence[Reference]
    ) -> ImageSummary:
        descriptor, found = self._manifests.of(record, names)
        size = sum(each.size.total for each in found)
        return msgspec.structs.replace(summary, size=size, descriptor=descriptor, manifests=found)

    async def inspect(self, ref: str, *, platform: str = "", manifests: bool = False) -> ImageInspect:
        """Raises NotFound, also where it is not what `platform` says."""
        record = self._of_platform(ref, platform)
        names = self.store.references(record.id)
        file = record.file
        layers = list(record.layers)
        data = {"LowerDir": ":".join(layers[1:]), "UpperDir": layers[0]} if layers else {}
        descriptor, found = self._manifests.of(record, names) if manifests else (None, None)
        return ImageInspect(
            id=record.id,
            descriptor=descriptor,
            manifests=found,
            repo_tags=[name.familiar for name in names if name.tag],
            repo_digests=[name.familiar for name in names if name.digest],
            parent=self.store.lineage.parent(record.id),
            comment=file.comment or _top_comment(file.history),
            created=file.created or _NO_CREATED,
            docker_version=file.docker_version,
            author=file.author,
            config=record.config,
            architecture=record.architecture,
            variant=record.variant or None,
            os=record.os,
            os_version=file.os_version or None,
            size=record.size,
            graph_driver=DriverData(
                name="overlay2", data={key: value for key, value in data.items() if value}
            ),
            root_fs={"Type": "layers", "Layers": [layer.diff_id for layer in record.content]},
            metadata={"LastTagTime": rfc3339(self.store.tagged_ns(record.id))},
        )

    async def history(self, ref: str, *, platform: str = "") -> Sequence[ImageHistoryResponseItem]:
        """Steps of the build, the last one first, with the images that are known to end there.

        Raises NotFound.
        """
        record = self._of_platform(ref, platform)
        sizes = list(record.sizes)
        steps = record.file.history or [History() for _ in sizes]
        items = []
        for step in steps:
            size = 0 if step.empty_layer or not sizes else sizes.pop(0)
            items.append(
                ImageHistoryResponseItem(
                    id="<missing>",
                    created=_seconds(step.created),
                    created_by=step.created_by,
                    size=size,
                    comment=step.comment,
                )
            )
        items.reverse()
        ancestors = self.store.ancestors(record.id)
        below = places(len(items), [len(image.file.history or ()) for image in ancestors])
        for place, image in zip([0, *below] if items else (), (record, *ancestors), strict=False):
            tags = [name.familiar for name in self.store.references(image.id) if name.tag]
            items[place] = msgspec.structs.replace(items[place], id=image.id, tags=tags or None)
        return items

    # ---- changes --------------------------------------------------------------------------------

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Give an image one more name. Raises NotFound, InvalidParameter."""
        record = self.resolve(ref)
        name = parse_reference(repo)
        if name.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        if tag:
            name = Reference(name.domain, name.path, parse_tag(tag))
        if name.familiar_name == "sha256":
            raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
        name = name.with_default_tag()
        self.store.tag(name, record.id)
        self._events.emit("image", "tag", record.id, {"name": name.familiar})

    async def remove(
        self, ref: str, *, force: bool, prune: bool, platform: str = ""
    ) -> Sequence[ImageDeleteResponseItem]:
        """`prune`: and the images it was made from that have no name.

        Raises NotFound, Conflict, InvalidParameter.
        """
        if not ref.strip():
            raise InvalidParameter("image name cannot be blank")
        self._of_platform(ref, platform)
        return await self._remover.remove(ref, force=force, prune=prune)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> ImagesPruneReport:
        """Raises InvalidParameter."""
        return await self._remover.prune(filters)

    async def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; of the archive's images those that are for `platform`.

        Raises InvalidParameter, NotFound, System, after some of it as well.
        """
        async for line in self._loader.load(body, quiet=quiet, platform=platform):
            yield line
        self._remover.collect()

    async def import_(
        self,
        body: AsyncIterator[bytes],
        *,
        url: str = "",
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[bytes]:
        """Of `url`, where there is one, else of the body: progress as Docker's JSON stream, the id last.

        Raises classes of proa.errors, after some of it as well.
        """
        wanted = Import.of(repo, tag, message, changes, platform)
        source = self._importer.import_url(url, wanted) if url else self._importer.import_(body, wanted)
        async for line in source:
            yield line
        self._remover.collect()

    async def save(self, refs: Sequence[str], *, platform: str = "") -> AsyncIterator[bytes]:
        """A docker archive (with an OCI layout inside). Raises NotFound before the first byte."""
        for ref in refs:
            self.resolve(ref) if _is_hello(ref) else None
        return await self._saver.save(refs, platform)

    async def pull(
        self, repo: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; all tags where neither name nor `tag` (or digest) says which.

        proa/hello is in the package. Raises classes of proa.errors.
        """
        reference = _wanted(repo, tag)
        if _is_hello(reference.familiar):
            return _pulled(self.resolve(reference.familiar), reference.with_default_tag())
        return self._puller.pull(reference, platform, credentials)

    async def push(
        self, name: str, tag: str, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; all tags where neither name nor `tag` says which.

        Raises classes of proa.errors, after the first line as well.
        """
        return self._pusher.push(_wanted(name, tag), platform, credentials)

    # ---- inside ---------------------------------------------------------------------------------

    def _summary(self, record: ImageRecord, names: Sequence[Reference], shared: int) -> ImageSummary:
        return ImageSummary(
            id=record.id,
            parent_id=self.store.lineage.parent(record.id),
            repo_tags=[name.familiar for name in names if name.tag],
            repo_digests=[name.familiar for name in names if name.digest],
            created=record.created_ns // 10**9,
            size=record.size,
            shared_size=shared,
            labels=record.config.labels,
            containers=len(self._containers.using_image(record.id)),
        )

    def _of_platform(self, ref: str, platform: str) -> ImageRecord:
        record = self.store.resolve(ref)
        if platform:
            check_platform(record, ref, platform)
        return record

    def _shared_size(self, record: ImageRecord) -> int:
        """Bytes of layers that other images stand on, too."""
        others = {
            layer.chain_id for other in self.store.all() if other.id != record.id for layer in other.content
        }
        pairs = zip(record.content, record.sizes, strict=True)
        return sum(size for layer, size in pairs if layer.chain_id in others)


async def _pulled(record: ImageRecord, reference: Reference) -> AsyncIterator[bytes]:
    for status in (
        f"Digest: {record.id}",
        f"Status: Image is up to date for {reference.familiar}",
    ):
        yield msgspec.json.encode({"status": status}) + b"\n"


def _wanted(name: str, tag: str) -> Reference:
    """A name and the tag or digest that comes beside it."""
    reference = parse_reference(name)
    if not tag:
        return reference
    if ":" in tag:
        return Reference(reference.domain, reference.path, "", parse_digest(tag))
    return Reference(reference.domain, reference.path, parse_tag(tag))


def all_pass(tests: Sequence[image_filters.Test], record: ImageRecord, names: Sequence[Reference]) -> bool:
    """Whether an image passes every test."""
    return all(test(record, names) for test in tests)


def all_parts(names: Sequence[Reference], parts: AbstractSet[str]) -> bool:
    """Whether an image has no names but those that it has as part of an index."""
    return all(name.canonical in parts for name in names)


def _is_hello(ref: str) -> bool:
    try:
        return parse_reference(ref).with_default_tag().canonical == HELLO_NAME
    except InvalidParameter:
        return False


def _top_comment(history: Sequence[History] | None) -> str:
    return history[-1].comment if history else ""


def _seconds(created: str | None) -> int:
    return parse_time(created) // 10**9


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as Docker writes times; the zero time for 0."""
    if not ns:
        return _NO_CREATED
    whole = datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{ns % 10**9:09d}Z"

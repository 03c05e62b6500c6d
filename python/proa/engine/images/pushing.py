"""docker push: what a registry lacks of an image goes there, under every tag asked for.

    layers, some at a time: there already? -> mount from a repository that has it -> upload
    config -> manifest under the tag

An image that was pulled is pushed as it came: the same manifest, the same compressed blobs, the same
digests. One that was made here gets a manifest in Docker's format; layers that are not compressed yet are,
once (compression), and stay so.

Source: moby distribution/push.go and push_v2.go (the flow and the words).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Protocol

import msgspec

from proa.content import digest_of
from proa.engine.images.blobs import Blobs
from proa.engine.images.compression import Compressor
from proa.engine.images.indexes import descriptors
from proa.engine.images.progress import Progress, streamed
from proa.engine.images.records import ImageRecord, StoredManifest
from proa.engine.images.store import ImageStore
from proa.engine.images.transfer import all_of, shown, stop
from proa.engine.platforms import check_platform
from proa.engine.ports import EventSink
from proa.errors import InvalidParameter, NotFound, System
from proa.schema.oci import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
    Manifest,
    layer_media_type,
)
from proa.schema.reference import Digest, Reference
from proa.schema.registry import Credentials

_MOUNTS_TRIED: Final = 3
_STEP: Final = 1 << 20

_manifest = msgspec.json.Decoder(Manifest)

BlobSource = Callable[[int], AsyncIterator[bytes]]


class Registry(Protocol):
    """What a push asks of registries."""

    async def has_blob(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
    ) -> bool: ...
    async def mount_blob(
        self, ref: Reference, digest: Digest, source: Reference, credentials: Credentials | None = None
    ) -> bool: ...
    async def upload_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        source: BlobSource,
        credentials: Credentials | None = None,
    ) -> None: ...
    async def put_manifest(
        self, ref: Reference, media_type: str, data: bytes, credentials: Credentials | None = None
    ) -> Digest: ...


class Pusher:
    """Pushes images out of the store."""

    def __init__(
        self,
        store: ImageStore,
        registry: Registry,
        events: EventSink,
        executor: Executor | None,
        collect: Callable[[], None],
        *,
        uploads: int,
    ) -> None:
        """`collect` has what no image needs removed: blobs that compressed ones took the place of.

        `uploads`: layers of one push that are in work at a time.
        """
        self._uploads = uploads
        self._collect = collect
        self._store = store
        self._registry = registry
        self._events = events
        self._executor = executor
        self._compressor = Compressor(store, executor)
        self._blobs = Blobs(store, executor)

    def push(
        self, reference: Reference, platform: str, credentials: Credentials | None
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; without a tag, every tag of the repository."""
        return streamed(partial(self._push, reference, platform, credentials))

    async def _push(
        self, reference: Reference, platform: str, credentials: Credentials | None, progress: Progress
    ) -> None:
        progress.message(f"The push refers to repository [{reference.name}]")
        try:
            await self._every(reference, platform, credentials, progress)
        finally:
            self._collect()

    async def _every(
        self, reference: Reference, platform: str, credentials: Credentials | None, progress: Progress
    ) -> None:
        for name, record in self._images(reference):
            if platform:
                check_platform(record, name.familiar, platform)
            index = None if platform else self._store.indexes.find(name)
            children = self._store.children(name) if index is not None else []
            if index is None or len(children) < len(descriptors(index)):
                digest, size = await self._one(name, record, credentials, progress)
                if index is not None:
                    progress.aux(_instead_of(index, digest, size))
            else:
                for child, image in children:
                    await self._one(child, image, credentials, progress)
                digest = await self._registry.put_manifest(name, INDEX, index, credentials)
                size = len(index)
            self._store.tag(Reference(name.domain, name.path, "", digest), record.id)
            progress.message(f"{name.tag}: digest: {digest} size: {size}")
            progress.aux({"Tag": name.tag, "Digest": digest, "Size": size})
            self._events.emit("image", "push", name.familiar, {"name": name.familiar_name})

    async def _one(
        self, name: Reference, record: ImageRecord, credentials: Credentials | None, progress: Progress
    ) -> tuple[Digest, int]:
        """(digest, size) of one image's manifest, which is under the name now, or under its own digest."""
        record = self._store.by_id(record.id) or record  # as the push of another tag has left it
        with self._store.usage.lent([record.id]), self._store.lease() as lease:
            lease.blobs.update(layer.digest for layer in record.content)
            upload = _Upload(
                self._registry,
                self._store,
                self._executor,
                name,
                credentials,
                progress,
                asyncio.Semaphore(self._uploads),
            )
            manifest = await self._described(record, progress)
            return await upload.run(record, manifest), len(manifest.data)

    def _images(self, reference: Reference) -> list[tuple[Reference, ImageRecord]]:
        """What to push. Raises NotFound, InvalidParameter."""
        names = [name for name, _ in self._store.names_of_repository(reference.name)]
        if not names:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference")
        if reference.tag:
            record = self._store.named(reference)
            if record is None:
                raise NotFound(f"tag does not exist: {reference.familiar}")
            return [(reference, record)]
        tagged = [(name, self._store.named(name)) for name in names if name.tag]
        found = [(name, record) for name, record in tagged if record is not None]
        if not found:
            raise NotFound(f"no tags to push for {reference.familiar_name}")
        return found

    async def _described(self, record: ImageRecord, progress: Progress) -> StoredManifest:
        """The manifest that an image was pulled by, or one made of its layers, compressed first."""
        for layer in reversed(record.content):
            progress.layer("Preparing", shown(layer.diff_id))
        kept = self._store.manifest(record.id)
        if kept is not None:
            return kept
        await self._blobs.ensure(record)
        layers = []
        for layer in record.content:
            digest = await self._compressor.compressed(layer.digest)
            size = self._store.content.size(digest)
            layers.append(Descriptor(media_type=self._media_type(digest), digest=digest, size=size))
        return described(record, layers)

    def _media_type(self, digest: Digest) -> str:
        with self._store.content.path(digest).open("rb", buffering=0) as blob:
            return layer_media_type(blob.read(8))


def described(record: ImageRecord, layers: Sequence[Descriptor]) -> StoredManifest:
    """A manifest in Docker's format; in OCI's where Docker's has no word for a layer's compression."""
    docker = all(layer.media_type.endswith("+gzip") for layer in layers)
    config = Descriptor(
        media_type=DOCKER_CONFIG if docker else CONFIG, digest=record.id, size=len(record.config_blob)
    )
    if docker:
        layers = [msgspec.structs.replace(layer, media_type=DOCKER_LAYER) for layer in layers]
    media_type = DOCKER_MANIFEST if docker else MANIFEST
    document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}
    return StoredManifest(media_type, msgspec.json.encode(document))


def _instead_of(index: bytes, digest: Digest, size: int) -> dict[str, object]:
    """What tells a client that one image went out and not its index, of which some is not here.

    Source: moby api/types/auxprogress/push.go.
    """
    return {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": Descriptor(media_type=INDEX, digest=digest_of(index), size=len(index)),
        "selectedManifest": Descriptor(media_type=MANIFEST, digest=digest, size=size),
    }


class _Upload:
    """One image under one name."""

    def __init__(
        self,
        registry: Registry,
        store: ImageStore,
        executor: Executor | None,
        name: Reference,
        credentials: Credentials | None,
        progress: Progress,
        slots: asyncio.Semaphore,
    ) -> None:
        self._slots = slots
        self._registry = registry
        self._store = store
        self._executor = executor
        self._name = name
        self._credentials = credentials
        self._progress = progress

    async def run(self, record: ImageRecord, kept: StoredManifest) -> Digest:
        """Everything that the registry lacks, the manifest last."""
        manifest = _manifest.decode(kept.data)
        layers: dict[str, tuple[Descriptor, Digest]] = {}
        for descriptor, layer in zip(manifest.layers, record.content, strict=True):
            layers.setdefault(descriptor.digest, (descriptor, layer.diff_id))
        async with AsyncExitStack() as stack:
            tasks = []
            for descriptor, diff_id in reversed(layers.values()):
                task = asyncio.ensure_future(self._layer(descriptor, shown(diff_id)))
                stack.push_async_callback(stop, task)
                tasks.append(task)
            if tasks:
                await all_of(tasks)
        await self._config(manifest.config, record)
        return await self._registry.put_manifest(self._name, kept.media_type, kept.data, self._credentials)

    async def _layer(self, layer: Descriptor, id_: str) -> None:
        if self._slots.locked():
            self._progress.layer("Waiting", id_)
        async with self._slots:
            digest = Digest(layer.digest)
            if await self._registry.has_blob(self._name, digest, self._credentials):
                self._progress.layer("Layer already exists", id_)
                return
            for source in self._elsewhere(digest):
                if await self._registry.mount_blob(self._name, digest, source, self._credentials):
                    self._progress.layer(f"Mounted from {source.path}", id_)
                    return

            def count(done: int) -> None:
                self._progress.count("Pushing", id_, done, layer.size)

            read = partial(self._read, digest, layer.size, count)
            await self._registry.upload_blob(self._name, layer, read, self._credentials)
            self._progress.layer("Pushed", id_)

    def _elsewhere(self, digest: Digest) -> list[Reference]:
        """Repositories of the same registry that have had a blob."""
        found = self._store.repositories_of(digest)
        own = self._name.domain, self._name.path
        return [
            source
            for source in found
            if source.domain == self._name.domain and (source.domain, source.path) != own
        ][:_MOUNTS_TRIED]

    async def _config(self, config: Descriptor, record: ImageRecord) -> None:
        if await self._registry.has_blob(self._name, record.id, self._credentials):
            return

        async def read(offset: int) -> AsyncIterator[bytes]:
            yield record.config_blob[offset:]

        await self._registry.upload_blob(self._name, config, read, self._credentials)

    async def _read(
        self, digest: Digest, size: int, count: Callable[[int], None], offset: int
    ) -> AsyncIterator[bytes]:
        """A blob from an offset on."""
        loop = asyncio.get_running_loop()
        with self._store.content.path(digest).open("rb", buffering=0) as blob:
            while offset < size:
                chunk = await loop.run_in_executor(self._executor, os.pread, blob.fileno(), _STEP, offset)
                if not chunk:
                    raise System(f"content {digest}: the blob is shorter than it was")
                offset += len(chunk)
                count(offset)
                yield chunk

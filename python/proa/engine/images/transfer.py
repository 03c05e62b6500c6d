"""One image on its way from a registry, its manifest chosen: what is missing comes, then all is known.

Layers whose chain is here already are not asked for. The others are held in `Fetches` until the image is
committed or the pull has failed. What is found here is leased, so that nobody collects it meanwhile.

Source: moby distribution/pull_v2.go and distribution/xfer (the flow and the words).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from proa.engine.images.fetching import Fetch, Fetches, Source
from proa.engine.images.intake import Intake, Unpacked
from proa.engine.images.progress import LayerProgress, Progress
from proa.engine.images.records import ImageRecord, Layer, StoredManifest, chain_ids, decode_image_file
from proa.engine.images.store import ImageStore, Lease
from proa.errors import InvalidParameter
from proa.registry import Manifest as Found
from proa.schema.oci import CONFIG, DOCKER_CONFIG, Descriptor, ImageFile, Manifest
from proa.schema.reference import Digest, Reference, digest_hex, parse_digest
from proa.schema.registry import Credentials

_CONFIGS: Final = frozenset((CONFIG, DOCKER_CONFIG, "application/octet-stream"))
"""What a config may call itself; the octets are those of registries older than the type."""
_CLASSES: Final = {"application/vnd.docker.plugin.v1+json": "plugin"}


class Registry(Protocol):
    """What a pull asks of registries."""

    async def resolve(self, ref: Reference, credentials: Credentials | None = None) -> Found: ...
    async def head(self, ref: Reference, credentials: Credentials | None = None) -> Descriptor | None: ...
    async def manifest(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
    ) -> Found: ...
    def blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        offset: int = 0,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...
    async def small_blob(
        self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None = None
    ) -> bytes: ...
    async def tags(self, ref: Reference, credentials: Credentials | None = None) -> list[str]: ...


class Request(Struct, frozen=True):
    """One image to pull."""

    reference: Reference
    platform: str
    """As the client wrote it; empty for the host's."""
    credentials: Credentials | None

    @property
    def shown(self) -> str:
        """What the first line says is pulled."""
        return self.reference.canonical if self.reference.digest else self.reference.tag


class Transfer:
    """What one pull needs to get one image."""

    def __init__(
        self,
        store: ImageStore,
        registry: Registry,
        fetches: Fetches,
        executor: Executor | None,
        request: Request,
        progress: Progress,
    ) -> None:
        self._store = store
        self._registry = registry
        self._fetches = fetches
        self._executor = executor
        self._request = request
        self._progress = progress

    async def run(self, found: Found, names: Sequence[Reference]) -> ImageRecord:
        """The image of a manifest, here and named; nothing has changed where it raises."""
        manifest = image_manifest(found)
        kept = StoredManifest(found.descriptor.media_type, found.data)
        record = self._store.by_id(parse_digest(manifest.config.digest))
        if record is not None:
            return self._named(record, names, manifest, kept)
        with self._store.lease() as lease:
            async with AsyncExitStack() as stack:
                intake = await stack.enter_async_context(Intake(self._store, self._executor, leased=True))
                fetches, blob = await self._receive(manifest, lease, stack)
                file = decode_image_file(blob)
                if file.os not in ("", "linux"):
                    raise InvalidParameter(
                        f'image operating system "{file.os}" cannot be used on this platform'
                    )
                layers = await self._layers(intake, manifest, file, fetches, lease)
                record, _ = await intake.commit(blob, file, layers, names, kept)
        return record

    def _named(
        self, record: ImageRecord, names: Sequence[Reference], manifest: Manifest, kept: StoredManifest
    ) -> ImageRecord:
        """The image is here; its names may not be, and the manifest if it was loaded."""
        with self._store.database.transaction():
            if [layer.digest for layer in manifest.layers] == [layer.digest for layer in record.content]:
                self._store.keep_manifest(record.id, kept)
            for name in names:
                self._store.write_name(name, record.id)
        for name in names:
            self._store.publish_name(name, record.id)
        return record

    async def _receive(
        self, manifest: Manifest, lease: Lease, stack: AsyncExitStack
    ) -> tuple[Mapping[Digest, Fetch], bytes]:
        """The missing layers, fetched and held on `stack`, and the config."""
        digests = [parse_digest(layer.digest) for layer in manifest.layers]
        lease.blobs.update(digests)
        there = self._chain_here(digests)
        lease.chain_ids.update(there[-1:])
        for digest in digests[: len(there)]:
            self._progress.layer("Already exists", shown(digest))
        config = asyncio.ensure_future(
            self._registry.small_blob(self._request.reference, manifest.config, self._request.credentials)
        )
        stack.push_async_callback(stop, config)
        fetches: dict[Digest, Fetch] = {}
        for digest, layer in list(zip(digests, manifest.layers, strict=True))[len(there) :]:
            if digest not in fetches and self._store.content.find(digest) is None:
                watcher = LayerProgress(self._progress, shown(digest))
                holding = self._fetches.hold(
                    digest, layer.size, self._source(layer), watcher, self._request.reference.domain
                )
                fetches[digest] = await stack.enter_async_context(holding)
        await all_of([config, *(fetch.task for fetch in fetches.values())])
        return fetches, config.result()

    def _chain_here(self, digests: Sequence[Digest]) -> list[Digest]:
        """Chain ids of the lowest layers that are here, unpacked in this order: base first."""
        diff_ids = []
        for digest in digests:
            found = self._store.content.find(digest)
            if found is None:
                break
            diff_ids.append(found[1])
        chain = chain_ids(diff_ids)
        while chain and self._store.snapshots.find(chain[-1]) is None:
            chain.pop()
        return chain

    def _source(self, layer: Descriptor) -> Source:
        request = self._request

        def source(offset: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
            return self._registry.blob(request.reference, layer, request.credentials, offset=offset)

        return source

    # ---- what was received ----------------------------------------------------------------------

    async def _layers(
        self,
        intake: Intake,
        manifest: Manifest,
        file: ImageFile,
        fetches: Mapping[Digest, Fetch],
        lease: Lease,
    ) -> list[Unpacked | Layer]:
        """Every layer as it can be committed, base first; what the config says of them holds."""
        diff_ids = [parse_digest(text) for text in (file.rootfs.diff_ids if file.rootfs else None) or ()]
        if len(diff_ids) != len(manifest.layers):
            raise InvalidParameter("layers from manifest don't match image configuration")
        chain = chain_ids(diff_ids)
        lease.chain_ids.update(chain)
        layers: list[Unpacked | Layer] = []
        for descriptor, diff_id, chain_id in zip(manifest.layers, diff_ids, chain, strict=True):
            digest = parse_digest(descriptor.digest)
            layer = await self._layer(intake, digest, chain_id, fetches.get(digest))
            if layer.diff_id != diff_id:
                raise InvalidParameter("layers from manifest don't match image configuration")
            layers.append(layer)
        return layers

    async def _layer(
        self, intake: Intake, digest: Digest, chain_id: Digest, fetch: Fetch | None
    ) -> Unpacked | Layer:
        known = self._store.content.find(digest)
        if known is not None and self._store.snapshots.find(chain_id) is not None:
            return Layer(digest, Digest(known[1]), chain_id)
        if fetch is None:
            return await intake.unpack(self._store.content.path(digest))
        if fetch.claim(chain_id):
            return fetch.task.result()
        # The same layer above others: a draft has one place only.
        again = await intake.unpack(fetch.task.result().blob)
        return msgspec.structs.replace(again, partial=True)


async def all_of(futures: Sequence["asyncio.Future[Any]"]) -> None:
    """Wait until all are done, or raise the first failure; others wait for them too, so none is cancelled."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        future.result()


async def stop(future: "asyncio.Future[Any]") -> None:
    """Cancel what may still run, and wait for it."""
    future.cancel()
    await asyncio.wait({future})
    if not future.cancelled():
        future.exception()


def image_manifest(found: Found) -> Manifest:
    """An image's; artifacts have manifests, too. Raises InvalidParameter in Docker's words."""
    manifest = found.content
    if not isinstance(manifest, Manifest):
        raise InvalidParameter("an index of indexes has no image for a platform")
    kind = manifest.config.media_type
    if kind not in _CONFIGS:
        raise InvalidParameter(f'Encountered remote "{kind}"({_CLASSES.get(kind, "unknown")}) when fetching')
    return manifest


def shown(digest: Digest) -> str:
    """A layer's digest as Docker shows it."""
    return digest_hex(digest)[:12]

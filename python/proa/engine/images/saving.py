"""docker save: a docker archive with an OCI layout inside, as Docker 25 and later write it.

    blobs/sha256/<hex>      configs, layers (in the compression they came with), OCI manifests
    index.json oci-layout   the OCI view
    manifest.json repositories   the Docker view, of the same blobs

What is saved is deterministic: the same images give the same bytes.

Source: moby image/tarexport/save.go; OCI image specification, image-layout.md.
"""

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, BinaryIO, Final

import msgspec

from proa.content import Content, digest_of
from proa.engine.images.blobs import Blobs
from proa.engine.images.records import ImageRecord, is_id_of
from proa.engine.images.store import ImageStore
from proa.engine.platforms import is_for
from proa.errors import InvalidParameter, NotFound, System
from proa.schema import oci
from proa.schema.reference import Digest, Reference, digest_hex, parse_reference

_STEP: Final = 1 << 18
"""Bytes of a piece: what the daemon holds of each archive that its client does not read."""

_decode_manifest = msgspec.json.Decoder(oci.Manifest).decode


class Selected:
    """One image to save and the names it is saved under."""

    def __init__(self, record: ImageRecord) -> None:
        self.record = record
        self.names: list[Reference] = []
        self.indexes: dict[Reference, bytes] = {}
        """Of names that stand for several platforms, what they mean."""
        self.listed = True
        """Not only as one of an index."""


def select(store: ImageStore, refs: Sequence[str]) -> list[Selected]:
    """Images by what was asked for: an id without names, a bare repository with all its tags.

    Raises NotFound, InvalidParameter.
    """
    if not refs:
        raise InvalidParameter("no images to save")
    selected: dict[str, Selected] = {}

    def add(record: ImageRecord, name: Reference | None) -> None:
        image = selected.setdefault(record.id, Selected(record))
        image.listed = True
        if name is not None and name.tag and name not in image.names:
            image.names.append(name)
            if (index := store.indexes.find(name)) is not None:
                image.indexes[name] = index
                for _, child in store.children(name):
                    if child.id not in selected:
                        selected[child.id] = Selected(child)
                        selected[child.id].listed = False

    for ref in refs:
        record = store.find(ref)
        if record is not None and is_id_of(record, ref) and not _is_name(store, ref):
            add(record, None)
            continue
        name = parse_reference(ref)
        tagged = store.names_of_repository(name.name) if not name.tag and not name.digest else []
        for reference, image_id in tagged:
            found = store.by_id(image_id)
            if found is not None:
                add(found, reference)
        if not tagged:
            add(store.resolve(ref), name)
    return list(selected.values())


def _of_platform(store: ImageStore, image: Selected, platform: str) -> Selected:
    """The one of an image's platforms that is asked for, under the same names. Raises NotFound."""
    children = [child for name in image.names for _, child in store.children(name)]
    for record in (image.record, *children):
        if is_for(record.file, platform):
            found = Selected(record)
            found.names = image.names
            return found
    raise NotFound(f"no suitable export target found for platform {platform}")


def _is_name(store: ImageStore, ref: str) -> bool:
    try:
        return store.named(parse_reference(ref)) is not None
    except InvalidParameter:
        return False


class Saver:
    """Writes archives."""

    def __init__(self, store: ImageStore, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._blobs = Blobs(store, executor)

    async def save(self, refs: Sequence[str], platform: str = "") -> AsyncIterator[bytes]:
        """The archive's bytes; every error that can be known comes before the first of them."""
        images = select(self._store, refs)
        if platform:
            images = [_of_platform(self._store, image, platform) for image in images if image.listed]
        for image in images:
            await self._blobs.ensure(image.record)
        return self._archive(images)

    async def _archive(self, images: Sequence[Selected]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        documents, layers = _blobs(self._store, images)
        with self._store.busy():
            yield _directory("blobs/") + _directory("blobs/sha256/")
            for digest in sorted({*documents, *layers}):
                path = f"blobs/sha256/{digest_hex(digest)}"
                if digest in documents:
                    yield _member(path, documents[digest])
                    continue
                yield _header(path, layers[digest])
                with self._store.content.path(digest).open("rb", buffering=0) as blob:
                    left = layers[digest]
                    while left:
                        chunk = await loop.run_in_executor(self._executor, _read, blob, min(_STEP, left))
                        left -= len(chunk)
                        yield chunk
                yield bytes(-layers[digest] % tarfile.BLOCKSIZE)
            for name, data in _indexes(self._store, images):
                yield _member(name, data)
            yield bytes(2 * tarfile.BLOCKSIZE)


def _read(blob: BinaryIO, count: int) -> bytes:
    data = blob.read(count)
    if not data:
        raise System("a layer's blob is shorter than it was")
    return data


def _blobs(store: ImageStore, images: Sequence[Selected]) -> tuple[dict[Digest, bytes], dict[Digest, int]]:
    """Configs and manifests with their content, layers with their size."""
    documents: dict[Digest, bytes] = {}
    layers: dict[Digest, int] = {}
    for image in images:
        documents[image.record.id] = image.record.config_blob
        manifest = manifest_of(store, image.record)
        for document in (manifest, *image.indexes.values()):
            documents[digest_of(document)] = document
        for layer in image.record.content:
            layers[layer.digest] = store.content.size(layer.digest)
    return documents, layers


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _layer_descriptor(content: Content, digest: Digest) -> dict[str, Any]:
    with content.path(digest).open("rb", buffering=0) as blob:
        media_type = oci.layer_media_type(blob.read(8))
    return _descriptor(media_type, digest, content.size(digest))


def manifest_of(store: ImageStore, record: ImageRecord) -> bytes:
    """The OCI manifest of an image; the one it has, where that is one, annotations and all."""
    content = store.content
    kept = store.manifest(record.id)
    if kept is not None and kept.media_type == oci.MANIFEST:
        layers = [layer.digest for layer in _decode_manifest(kept.data).layers]
        if layers == [layer.digest for layer in record.content]:
            return kept.data
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": _descriptor(oci.CONFIG, record.id, len(record.config_blob)),
            "layers": [_layer_descriptor(content, layer.digest) for layer in record.content],
        }
    )


def _indexes(store: ImageStore, images: Sequence[Selected]) -> Iterator[tuple[str, bytes]]:
    """The members that say what the blobs are."""
    descriptors = []
    docker = []
    repositories: dict[str, dict[str, str]] = {}
    saved = {image.record.id for image in images if image.listed}
    for image in images:
        record = image.record
        if not image.listed:
            continue
        manifest = manifest_of(store, record)
        descriptor = _descriptor(oci.MANIFEST, digest_of(manifest), len(manifest))
        for name in image.names:
            annotations = {oci.ANNOTATION_NAME: name.canonical, oci.ANNOTATION_REF: name.tag}
            meant = descriptor
            if (index := image.indexes.get(name)) is not None:
                meant = _descriptor(oci.INDEX, digest_of(index), len(index))
            descriptors.append({**meant, "annotations": annotations})
            top = digest_hex(record.content[-1].diff_id) if record.content else ""
            repositories.setdefault(name.familiar_name, {})[name.tag] = top
        if not image.names:
            descriptors.append(descriptor)
        parent = store.lineage.parent(record.id)
        docker.append(
            {
                "Config": f"blobs/sha256/{digest_hex(record.id)}",
                **({"Parent": parent} if parent in saved else {}),
                "RepoTags": [name.familiar for name in image.names] or None,
                "Layers": [f"blobs/sha256/{digest_hex(layer.digest)}" for layer in record.content],
                "LayerSources": {
                    layer.diff_id: _layer_descriptor(store.content, layer.digest) for layer in record.content
                },
            }
        )
    whole = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": descriptors}
    yield "index.json", msgspec.json.encode(whole)
    yield "manifest.json", msgspec.json.encode(docker)
    yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
    if repositories:
        yield "repositories", msgspec.json.encode(repositories)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _directory(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)

"""docker load: Docker archives and OCI layouts, from a stream.

The outer archive is split into numbered files as it arrives. Each that begins as a layer does is unpacked in
the same pass, byte for byte as it comes, before it is known what image it belongs to; manifests usually come
last. What turns out to belong to nothing is dropped. Nothing is believed because of its name: blobs are
hashed, configs and manifests read from disk are checked against the digests that lead to them.

A layer that comes uncompressed is kept as its files and a recipe (native layer/recipe), not as a blob too.
That is made when somebody wants it (blobs.py): half the bytes are written, and half the disk is taken.

Forms: manifest.json (Docker 1.10 and later, podman, skopeo, kaniko), with or without an OCI layout around it
(Docker 25 and later); a bare OCI layout (buildx, skopeo's oci-archive); Docker's before 1.10 (legacy.py).

Source: moby image/tarexport/load.go; OCI image specification, image-layout.md.
"""

import contextlib
import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import proa_native
from msgspec import Struct

from proa.content import digest_of
from proa.engine.images import legacy
from proa.engine.images.blobs import pack
from proa.engine.images.indexes import child_name
from proa.engine.images.intake import Intake, Unpacked, translated, unpacked
from proa.engine.images.records import Layer, StoredManifest, chain_ids, decode_image_file, host_architecture
from proa.engine.images.store import ImageStore
from proa.engine.platforms import is_for
from proa.engine.ports import EventSink
from proa.errors import InvalidParameter, NotFound
from proa.schema.oci import (
    ANNOTATION_NAME,
    ANNOTATION_REF,
    INDEXES,
    MANIFESTS,
    ArchiveImage,
    Descriptor,
    ImageFile,
    Index,
    Manifest,
)
from proa.schema.reference import Digest, Reference, digest_hex, parse_digest, parse_reference

DOCUMENT_SIZE_MAX: Final = 8 << 20
MEMBERS_MAX: Final = 100_000
LINKS_MAX: Final = 32

_Document = TypeVar("_Document")

_archive_images = msgspec.json.Decoder(list[ArchiveImage])
_index = msgspec.json.Decoder(Index)
_manifest = msgspec.json.Decoder(Manifest)


class Found(Struct, frozen=True):
    """A member of the outer archive, as the native core reports it."""

    path: str
    kind: str
    link: str
    file: Path


class Wanted(Struct, frozen=True, kw_only=True):
    """An image that the archive says it has; layers by member path, base first."""

    config: bytes
    layers: list[str]
    digests: list[Digest]
    """What each layer's blob must be, where an OCI manifest said so; else empty."""
    names: list[Reference]
    parent: str = ""
    """The id of an image of this archive that it was made from."""
    index: bytes = b""
    """What its names mean, where that is several platforms."""
    manifest: StoredManifest | None = None
    """Where it is one of an index."""
    others: "tuple[Wanted, ...]" = ()
    """The index's other images that the archive has."""


class Archive:
    """The members of one outer archive, by cleaned path."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._members: dict[str, Found] = {}
        self._count = 0
        self._drafts: dict[str, Path] = {}
        self._unpacked: dict[Path, Unpacked | Exception] = {}
        self._claimed: set[Path] = set()

    def begin(self, path: bytes) -> str | None:
        """Where to unpack a member that may be a layer, if it is not there. In the core's thread."""
        text = clean(path.decode(errors="surrogateescape"))
        digest = _blob_digest(text)
        if digest and self._intake.store.content.path(digest).exists():
            return None
        self._drafts[text] = draft = self._intake.draft()
        return str(draft)

    def take(self, found: Found, layer: "proa_native.UnpackedLayer | Exception | None") -> None:
        """A member is complete on disk, and unpacked where it was to be. In the core's thread."""
        self._count += 1  # one path may come many times
        if self._count > MEMBERS_MAX:
            raise InvalidParameter(f"malformed archive: more than {MEMBERS_MAX} members")
        path = clean(found.path)
        self._members[path] = found
        if isinstance(layer, Exception):
            self._unpacked[found.file] = layer
        elif layer is not None:
            self._unpacked[found.file] = unpacked(layer, found.file, self._drafts[path])

    def file(self, path: str) -> Path | None:
        """The file behind a path, links followed within the archive."""
        path = clean(path)
        for _ in range(LINKS_MAX):
            found = self._members.get(path)
            if found is None or found.kind == "file":
                return found.file if found else None
            base = posixpath.dirname(path) if found.kind == "symlink" else ""
            path = clean(posixpath.join(base, found.link))
        return None

    def document(self, path: str) -> bytes | None:
        """A small member's content; None where there is none."""
        file = self.file(path)
        if file is None or not file.exists():
            return None
        if file.stat().st_size > DOCUMENT_SIZE_MAX:
            raise InvalidParameter(f"malformed archive: {path} is too large")
        return file.read_bytes()

    def blob(self, descriptor: Descriptor) -> bytes | None:
        """A manifest or config of an OCI layout, verified."""
        digest = parse_digest(descriptor.digest)
        data = self.document(f"blobs/sha256/{digest_hex(digest)}")
        if data is not None and digest_of(data) != digest:
            raise InvalidParameter(f"malformed archive: content of {digest} has another digest")
        return data

    async def layer(self, path: str, chain_id: Digest) -> "Unpacked | Layer":
        """A layer as it can be committed under `chain_id`: unpacked, or there already."""
        store = self._intake.store
        known = self._blob_known(clean(path))
        file = self.file(path)
        if known is not None:
            if store.snapshots.find(chain_id) is not None:
                return Layer(known, Digest((store.content.find(known) or (0, ""))[1]), chain_id)
            return await self._intake.unpack(store.content.path(known))
        if file is None:
            raise InvalidParameter(f"invalid archive: layer {path} is missing")
        outcome = self._unpacked.get(file) or await self._intake.unpack(file)
        if isinstance(outcome, Exception):
            with translated():
                raise outcome
        if outcome.draft in self._claimed:
            if store.snapshots.find(chain_id) is not None:
                return Layer(outcome.digest, outcome.diff_id, chain_id)
            outcome = await self._again(outcome)
        self._unpacked[file] = outcome
        self._claimed.add(outcome.draft)
        return outcome

    def directories(self, name: str) -> list[str]:
        """Those at the top that have a member of this name."""
        paths = (path.split("/") for path in self._members)
        return [parts[0] for parts in paths if len(parts) == 2 and parts[1] == name]

    async def diff_id(self, path: str) -> Digest:
        """Of a layer, which is unpacked for that where it is not yet. Raises InvalidParameter."""
        file = self.file(path)
        if file is None:
            raise InvalidParameter(f"invalid archive: layer {path} is missing")
        outcome = self._unpacked.get(file) or await self._intake.unpack(file)
        if isinstance(outcome, Exception):
            with translated():
                raise outcome
        self._unpacked[file] = outcome
        return outcome.diff_id

    async def _again(self, layer: Unpacked) -> Unpacked:
        """The same layer a second time, in this stack or another: a draft has one place only."""
        blob = layer.blob if layer.blob.exists() else self._intake.store.content.path(layer.digest)
        if layer.recipe:
            blob = self._intake.scratch / layer.draft.parent.name
            await self._intake.run(pack, str(layer.draft), blob, layer.digest)
        return await self._intake.unpack(blob)

    def _blob_known(self, path: str) -> Digest | None:
        """The digest that an OCI layout's path claims, where the content store has that blob."""
        digest = _blob_digest(path)
        return digest if digest and self._intake.store.content.find(digest) else None


class Loader:
    """Loads archives into the store."""

    def __init__(self, store: ImageStore, events: EventSink, executor: Executor | None) -> None:
        self._store = store
        self._events = events
        self._executor = executor

    async def load(
        self, body: AsyncIterator[bytes], *, quiet: bool, platform: str = ""
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream; only images of `platform`, where one is asked for.

        Raises InvalidParameter, NotFound, System.
        """
        async with Intake(self._store, self._executor) as intake:
            archive = Archive(intake)
            await self._split(intake, archive, body)
            wanted = await read_archive(archive)
            if platform:
                wanted = _of_platform(wanted, platform)
                if not wanted:
                    raise NotFound(
                        f"requested platform ({platform}) not found: the archive has no such image"
                    )
            for image in wanted:
                async for line in self._image(intake, archive, image, quiet=quiet):
                    yield line
                for other in image.others:
                    async for line in self._image(intake, archive, other, quiet=quiet):
                        yield line
                if image.others:
                    self._name_index(image)
            self._link(wanted)

    def _name_index(self, image: Wanted) -> None:
        """Every platform is here: the names mean all of them."""
        with self._store.database.transaction():
            for name in image.names:
                if not name.digest:
                    self._store.indexes.record(name, digest_of(image.config), image.index)

    def _link(self, wanted: Sequence[Wanted]) -> None:
        """Let images know their parents, where both came. Raises InvalidParameter for one that is none."""
        loaded = {digest_of(image.config): image for image in wanted}
        for id_, image in loaded.items():
            parent = loaded.get(Digest(image.parent))
            if parent is None or parent is image:
                continue
            child_steps, steps = (decode_image_file(one.config).history or [] for one in (image, parent))
            if (child_steps or steps) and child_steps[:-1] != steps:
                raise InvalidParameter(f"image {image.parent} is not a valid parent for {id_}")
            self._store.lineage.record(id_, image.parent)

    async def _split(self, intake: Intake, archive: Archive, body: AsyncIterator[bytes]) -> None:
        """Receive the whole archive; members are taken while it comes."""

        def found(
            path: bytes,
            kind: str,
            link: bytes,
            number: int,
            _size: int,
            layer: "proa_native.UnpackedLayer | Exception | None",
        ) -> None:
            text = path.decode(errors="surrogateescape"), kind, link.decode(errors="surrogateescape")
            archive.take(Found(*text, intake.scratch / str(number)), layer)

        def split(feed: proa_native.ByteFeed) -> None:
            with translated():
                proa_native.split_archive(feed, str(intake.scratch), archive.begin, found)

        await intake.receive(body, split)

    async def _image(
        self, intake: Intake, archive: Archive, wanted: Wanted, *, quiet: bool
    ) -> AsyncIterator[bytes]:
        file = decode_image_file(wanted.config)
        check_platform(file)
        diff_ids = [parse_digest(text) for text in (file.rootfs.diff_ids if file.rootfs else None) or ()]
        if len(diff_ids) != len(wanted.layers):
            raise InvalidParameter(
                "invalid manifest, layers length mismatch: "
                f"expected {len(diff_ids)}, got {len(wanted.layers)}"
            )
        layers: list[Unpacked | Layer] = []
        for number, (path, chain_id) in enumerate(zip(wanted.layers, chain_ids(diff_ids), strict=True)):
            layer = await archive.layer(path, chain_id)
            if layer.diff_id != diff_ids[number]:
                raise InvalidParameter(
                    f'invalid diffID for layer {number}: expected "{diff_ids[number]}", got "{layer.diff_id}"'
                )
            if wanted.digests and layer.digest != wanted.digests[number]:
                raise InvalidParameter(
                    f"layer {number}: expected {wanted.digests[number]}, got {layer.digest}"
                )
            layers.append(layer)
            if not quiet and isinstance(layer, Unpacked):
                yield progress("Loading layer", digest_hex(chain_id)[:12], layer.blob_size)
        record, moved = await intake.commit(wanted.config, file, layers, wanted.names, wanted.manifest)
        for name, lost in moved:
            yield stream(
                f"The image {name.familiar} already exists, "
                f"renaming the old one with ID {lost} to empty string"
            )
        for name in wanted.names:
            if not name.digest:
                yield stream(f"Loaded image: {name.familiar}")
        if not wanted.names:
            yield stream(f"Loaded image ID: {record.id}")
        self._events.emit("image", "load", record.id, {"name": record.id})


def clean(path: str) -> str:
    """A member's path without `.`, `..` and leading slashes; it is a key, never a path on disk."""
    return posixpath.normpath("/" + path).lstrip("/")


def _blob_digest(path: str) -> Digest | None:
    """The digest that a path in an OCI layout claims."""
    directory, _, name = path.rpartition("/")
    if directory != "blobs/sha256":
        return None
    try:
        return parse_digest(f"sha256:{name}")
    except InvalidParameter:
        return None


def stream(text: str) -> bytes:
    """A line of output."""
    return msgspec.json.encode({"stream": text + "\n"}) + b"\n"


def progress(status: str, id_: str, size: int) -> bytes:
    """A layer is done."""
    detail = {"current": size, "total": size}
    return msgspec.json.encode({"status": status, "progressDetail": detail, "id": id_}) + b"\n"


def check_platform(file: ImageFile) -> None:
    """Only Linux images can be stored. Another architecture's are: they can be saved and pushed."""
    if file.os not in ("", "linux"):
        raise InvalidParameter(f"cannot load {file.os} image on linux")


async def read_archive(archive: Archive) -> list[Wanted]:
    """What images an archive has, by manifest.json, else by index.json, else by `repositories`."""
    data = archive.document("manifest.json")
    if data is not None:
        images = [_of_docker(archive, image) for image in decode(_archive_images, data, "manifest.json")]
        indexes = _named_indexes(archive)
        return [_with_others(image, indexes) for image in images]
    data = archive.document("index.json")
    if data is None:
        if archive.document(legacy.REPOSITORIES) is None:
            raise InvalidParameter("invalid archive: does not contain a manifest.json")
        return [
            Wanted(config=image.config, layers=image.layers, digests=[], names=image.names)
            for image in await legacy.read_legacy(archive)
        ]
    return [
        wanted
        for descriptor in decode(_index, data, "index.json").manifests
        if (wanted := _of_oci(archive, descriptor)) is not None
    ]


def decode(decoder: msgspec.json.Decoder[_Document], data: bytes, name: str) -> _Document:
    """A JSON document of the archive. Raises InvalidParameter."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid archive: {name}: {exc}") from exc


def _of_docker(archive: Archive, image: ArchiveImage) -> Wanted:
    config = archive.document(image.config)
    if config is None:
        raise InvalidParameter(f"invalid archive: config {image.config} is missing")
    names = [parse_reference(name).with_default_tag() for name in image.repo_tags or ()]
    return Wanted(config=config, layers=image.layers or [], digests=[], names=names, parent=image.parent)


def _of_oci(archive: Archive, descriptor: Descriptor) -> Wanted | None:
    names = _names(descriptor.annotations or {})
    data = archive.blob(descriptor)
    if data is None:
        raise InvalidParameter(f"invalid archive: {descriptor.digest} is missing")
    top = data
    for _ in range(LINKS_MAX):
        if descriptor.media_type not in INDEXES:
            return _of_manifest(archive, descriptor, data, names)
        there = _there(archive, decode(_index, data, descriptor.digest))
        if not there:
            return None
        if data is top and len(there) > 1 and all(each.media_type in MANIFESTS for each, _ in there):
            return _of_index(archive, there, top, names)
        descriptor, data = there[0]
    raise InvalidParameter(f"invalid archive: {descriptor.digest} is an index of indexes")


def _of_manifest(archive: Archive, descriptor: Descriptor, data: bytes, names: list[Reference]) -> Wanted:
    manifest = decode(_manifest, data, descriptor.digest)
    config = archive.blob(manifest.config)
    if config is None:
        raise InvalidParameter(f"invalid archive: config {manifest.config.digest} is missing")
    digests = [parse_digest(layer.digest) for layer in manifest.layers]
    paths = [f"blobs/sha256/{digest_hex(digest)}" for digest in digests]
    return Wanted(config=config, layers=paths, digests=digests, names=names)


def _of_index(
    archive: Archive, there: Sequence[tuple[Descriptor, bytes]], index: bytes, names: list[Reference]
) -> Wanted:
    """The image that is this host's, with the others; each is named by its digest, too."""

    def one(descriptor: Descriptor, data: bytes, names: list[Reference]) -> Wanted:
        named = [child_name(name, descriptor) for name in tags]
        wanted = _of_manifest(archive, descriptor, data, [*names, *named])
        return msgspec.structs.replace(wanted, manifest=StoredManifest(descriptor.media_type, data))

    tags = list(names)
    main, *others = there
    return msgspec.structs.replace(
        one(*main, names), index=index, others=tuple(one(*other, []) for other in others) if tags else ()
    )


def _named_indexes(archive: Archive) -> dict[Reference, Wanted]:
    """What names of a Docker archive mean to the OCI layout around it, where that is several platforms."""
    data = archive.document("index.json")
    if data is None:
        return {}
    found = {}
    # The layout is the better for whoever can read it; the images are there without it.
    with contextlib.suppress(InvalidParameter):
        for descriptor in decode(_index, data, "index.json").manifests:
            names = _names(descriptor.annotations or {})
            if names and descriptor.media_type in INDEXES:
                wanted = _of_oci(archive, descriptor)
                if wanted is not None and wanted.others:
                    found[names[0]] = wanted
    return found


def _with_others(image: Wanted, indexes: Mapping[Reference, Wanted]) -> Wanted:
    """An image of a Docker archive, and what else its name means."""
    whole = next((indexes[name] for name in image.names if name in indexes), None)
    if whole is None or whole.config != image.config:
        return image
    names = [*image.names, *(name for name in whole.names if name.digest)]
    return msgspec.structs.replace(whole, names=names, parent=image.parent)


def _of_platform(wanted: Sequence[Wanted], platform: str) -> list[Wanted]:
    """Of every image the one for a platform, alone."""
    return [
        msgspec.structs.replace(
            one, names=[name for name in image.names if not name.digest], index=b"", others=()
        )
        for image in wanted
        for one in (image, *image.others)
        if is_for(decode_image_file(one.config), platform)
    ]


def _there(archive: Archive, index: Index) -> list[tuple[Descriptor, bytes]]:
    """The images of an index whose manifest is there, this host's first; attestations are none."""
    architecture, variant = host_architecture()

    def rank(descriptor: Descriptor) -> int:
        platform = descriptor.platform
        if platform is None or platform.architecture != architecture:
            return 2
        return 0 if platform.variant in ("", variant) else 1

    images = [
        descriptor
        for descriptor in sorted(index.manifests, key=rank)
        if descriptor.platform is None or descriptor.platform.architecture != "unknown"
    ]
    return [(each, data) for each in images if (data := archive.blob(each)) is not None]


def _names(annotations: Mapping[str, str]) -> list[Reference]:
    """containerd's full name, else a ref.name that is a name and not just a tag."""
    name = annotations.get(ANNOTATION_NAME) or annotations.get(ANNOTATION_REF, "")
    if "/" not in name and ":" not in name:
        return []
    return [parse_reference(name).with_default_tag()]

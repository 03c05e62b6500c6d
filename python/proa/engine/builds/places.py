"""Where caches of builds are kept: repositories of a registry, and directories of this host in OCI's layout.

Source: OCI image specification, image-layout.md; BuildKit cache/remotecache.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from proa.content import digest_of
from proa.errors import InvalidParameter, NotFound, System
from proa.registry import Manifest as Found
from proa.schema.oci import ANNOTATION_REF, INDEXES, Descriptor, Index, Manifest
from proa.schema.reference import Digest, Reference, digest_hex, parse_digest
from proa.schema.registry import Credentials

_STEP: Final = 1 << 20
_SMALL: Final = 32 << 20
"""Bytes of a manifest or a config."""

_index = msgspec.json.Decoder(Index)
_manifest = msgspec.json.Decoder(Manifest)

BlobSource = Callable[[int], AsyncIterator[bytes]]
"""The bytes of a blob from an offset on."""


class Registry(Protocol):
    """What caches ask of registries."""

    async def resolve(self, ref: Reference, credentials: Credentials | None = None) -> Found: ...
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
    async def has_blob(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
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


class Place(Protocol):
    """A cache's place; what is read is checked against its digest, but for `open`."""

    async def top(self) -> Index | Manifest:
        """What the place's name leads to. Raises NotFound."""
        ...

    async def manifest(self, descriptor: Descriptor) -> Index | Manifest: ...
    async def small(self, descriptor: Descriptor) -> bytes: ...
    def open(self, descriptor: Descriptor) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...

    async def put(self, descriptor: Descriptor, source: BlobSource) -> None:
        """Store a blob unless it is there."""
        ...

    async def name(self, media_type: str, data: bytes) -> None:
        """Store a manifest; the place's name leads to it from now on."""
        ...


class Repository:
    """A tag of a registry's repository."""

    def __init__(self, registry: Registry, reference: Reference, credentials: Credentials | None) -> None:
        self._registry = registry
        self._reference = reference
        self._credentials = credentials

    async def top(self) -> Index | Manifest:
        return (await self._registry.resolve(self._reference, self._credentials)).content

    async def manifest(self, descriptor: Descriptor) -> Index | Manifest:
        digest = parse_digest(descriptor.digest)
        return (await self._registry.manifest(self._reference, digest, self._credentials)).content

    async def small(self, descriptor: Descriptor) -> bytes:
        return await self._registry.small_blob(self._reference, descriptor, self._credentials)

    def open(self, descriptor: Descriptor) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._registry.blob(self._reference, descriptor, self._credentials)

    async def put(self, descriptor: Descriptor, source: BlobSource) -> None:
        digest = parse_digest(descriptor.digest)
        if not await self._registry.has_blob(self._reference, digest, self._credentials):
            await self._registry.upload_blob(self._reference, descriptor, source, self._credentials)

    async def name(self, media_type: str, data: bytes) -> None:
        await self._registry.put_manifest(self._reference, media_type, data, self._credentials)


class Directory:
    """An OCI layout; `tag` names one of its manifests. What is written belongs to the directory's owner."""

    def __init__(self, path: str, tag: str, digest: str, run: Callable[..., Any]) -> None:
        """`run(call, *arguments)` does a blocking call; awaitable."""
        self._path = Path(path)
        self._tag = tag or "latest"
        self._digest = digest
        self._run = run

    async def top(self) -> Index | Manifest:
        try:
            index = _decoded(_index, await self._run(self._read, self._path / "index.json"))
        except NotFound as exc:
            raise NotFound(f"could not read {self._path}/index.json: no such file or directory") from exc
        for descriptor in index.manifests:
            tag = (descriptor.annotations or {}).get(ANNOTATION_REF, "")
            if self._digest == descriptor.digest if self._digest else tag == self._tag:
                return await self.manifest(descriptor)
        raise NotFound(f"{self._path}: {self._digest or self._tag}: not found")

    async def manifest(self, descriptor: Descriptor) -> Index | Manifest:
        data = await self.small(descriptor)
        decoder: Any = _index if descriptor.media_type in INDEXES else _manifest
        content: Index | Manifest = _decoded(decoder, data)
        return content

    async def small(self, descriptor: Descriptor) -> bytes:
        data: bytes = await self._run(self._read, self._blob(descriptor))
        if digest_of(data) != descriptor.digest:
            raise InvalidParameter(f"{self._path}: {descriptor.digest}: has another digest")
        return data

    @asynccontextmanager
    async def open(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            file = self._blob(descriptor).open("rb", buffering=0)
        except OSError as exc:
            raise NotFound(f"{self._path}: {descriptor.digest}: not found") from exc

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := await self._run(file.read, _STEP):
                yield chunk

        with file:
            yield chunks()

    async def put(self, descriptor: Descriptor, source: BlobSource) -> None:
        target = self._blob(descriptor)
        if target.exists():
            return
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        with _Written(draft, self._path) as write:
            async for chunk in source(0):
                await self._run(write, chunk)
        draft.rename(target)

    async def name(self, media_type: str, data: bytes) -> None:
        async def whole(offset: int) -> AsyncIterator[bytes]:
            yield data[offset:]

        descriptor = Descriptor(
            media_type=media_type,
            digest=digest_of(data),
            size=len(data),
            annotations={ANNOTATION_REF: self._tag},
        )
        await self.put(descriptor, whole)
        await self._run(self._enter, descriptor)

    def _enter(self, descriptor: Descriptor) -> None:
        """Put the manifest into the index in place of the tag's last one; blocks."""
        try:
            kept = [
                known
                for known in _decoded(_index, self._read(self._path / "index.json")).manifests
                if (known.annotations or {}).get(ANNOTATION_REF) != self._tag
            ]
        except NotFound:
            kept = []
        for name, data in (
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", msgspec.json.encode(Index(manifests=[*kept, descriptor]))),
        ):
            draft = self._path / f".{name}.{os.getpid()}"
            with _Written(draft, self._path) as write:
                write(data)
            draft.rename(self._path / name)

    def _blob(self, descriptor: Descriptor) -> Path:
        return self._path / "blobs" / "sha256" / digest_hex(parse_digest(descriptor.digest))

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(_SMALL + 1)
        except OSError as exc:
            raise NotFound(f"{path}: {(exc.strerror or '').lower()}") from exc
        if len(data) > _SMALL:
            raise InvalidParameter(f"{path}: is too large")
        return data


class _Written:
    """A file below a directory, with the directory's owner; gone again where writing it fails."""

    def __init__(self, path: Path, top: Path) -> None:
        self._path = path
        self._top = top

    def __enter__(self) -> Callable[[bytes], Any]:
        owner = self._top.stat()
        try:
            for directory in (self._top / "blobs", self._top / "blobs" / "sha256"):
                if not directory.is_dir():
                    directory.mkdir()
                    os.chown(directory, owner.st_uid, owner.st_gid)
            self._file = self._path.open("wb", buffering=0)
            os.fchown(self._file.fileno(), owner.st_uid, owner.st_gid)
        except OSError as exc:
            raise System(f"{exc.filename}: {(exc.strerror or '').lower()}") from exc
        return self._write

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as exc:
            raise System(f"write {self._path}: {(exc.strerror or '').lower()}") from exc

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)


def _decoded(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidParameter(f"malformed manifest: {exc}") from exc

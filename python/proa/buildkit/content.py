"""Blobs on the client's side: its directories in OCI's layout, as caches of builds and as images to build on.

Source: containerd api/services/content/v1/content.proto; moby/buildkit session/content,
cache/remotecache/local.
"""

import json
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, Final

import msgspec

from proa.buildkit import messages
from proa.buildkit.grpc import INTERNAL, UNKNOWN, CallFailed, Calling
from proa.buildkit.sessions import Session
from proa.content import digest_of
from proa.schema.oci import INDEX, INDEXES, MANIFEST, MANIFESTS, Descriptor, Index, Manifest

_SERVICE: Final = "/containerd.services.content.v1.Content/"
_STORE: Final = "buildkit-attachable-store-id"
_PIECE: Final = 1 << 20
_SMALL: Final = 32 << 20
"""Bytes of a manifest or a config."""
_ALREADY_EXISTS: Final = 6
_STAT, _WRITE, _COMMIT = range(3)

_index = msgspec.json.Decoder(Index)
_manifest = msgspec.json.Decoder(Manifest)

BlobSource = Callable[[int], AsyncIterator[bytes]]


class ClientStore:
    """One store of a client's; a place for caches, as the engine's builds know them."""

    def __init__(self, session: Session, store: str, digest: str = "") -> None:
        """`digest` of what is read from it: a manifest, or an index."""
        self._session = session
        self._metadata = [(_STORE, store)]
        self.digest = digest
        self.named = ""
        """A Descriptor, as JSON, of what was written to it last: the client enters it into its index."""

    async def top(self) -> Index | Manifest:
        """What its digest leads to. Raises CallFailed."""
        data = await self.small(Descriptor(digest=self.digest))
        content: Index | Manifest
        content = _decoded(_index if "manifests" in _decoded_object(data) else _manifest, data)
        return content

    async def manifest(self, descriptor: Descriptor) -> Index | Manifest:
        """Raises CallFailed."""
        data = await self.small(descriptor)
        content: Index | Manifest = _decoded(_index if descriptor.media_type in INDEXES else _manifest, data)
        return content

    async def small(self, descriptor: Descriptor) -> bytes:
        """A blob that is what its digest says. Raises CallFailed."""
        collected = bytearray()
        async with self.open(descriptor) as chunks:
            async for chunk in chunks:
                collected += chunk
                if len(collected) > _SMALL:
                    raise CallFailed(UNKNOWN, f"{descriptor.digest}: is too large")
        data = bytes(collected)
        if digest_of(data) != descriptor.digest:
            raise CallFailed(UNKNOWN, f"{descriptor.digest}: has another digest")
        return data

    @asynccontextmanager
    async def open(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        """A blob's bytes, which nobody has looked at yet."""
        async with Calling(self._session.connection, f"{_SERVICE}Read", self._metadata) as calling:
            await calling.send(messages.ReadContentRequest(digest=descriptor.digest).SerializeToString())
            calling.end()

            async def chunks() -> AsyncIterator[bytes]:
                async for message in calling.messages():
                    yield messages.parsed(messages.ReadContentResponse, message).data

            yield chunks()

    async def put(self, descriptor: Descriptor, source: BlobSource) -> None:
        """Store a blob unless it is there. Raises CallFailed."""
        wish = {"ref": f"proa-{token_hex(8)}", "total": descriptor.size, "expected": descriptor.digest}
        try:
            async with Calling(self._session.connection, f"{_SERVICE}Write", self._metadata) as calling:
                answers = calling.messages()

                async def ask(action: int, **fields: Any) -> None:
                    asked = messages.WriteContentRequest(action=action, **fields)
                    await calling.send(asked.SerializeToString())
                    if await anext(answers, None) is None:
                        raise CallFailed(INTERNAL, f"{descriptor.digest}: the client has not taken it")

                await ask(_STAT, **wish)
                offset = 0
                async for chunk in source(0):
                    for start in range(0, len(chunk), _PIECE):
                        piece = chunk[start : start + _PIECE]
                        await ask(_WRITE, ref=wish["ref"], offset=offset, data=piece)
                        offset += len(piece)
                await ask(_COMMIT, **wish, offset=offset)
        except CallFailed as exc:
            if exc.code != _ALREADY_EXISTS:
                raise

    async def name(self, media_type: str, data: bytes) -> None:
        """Store a manifest, and say that it is what the store is about."""

        async def whole(offset: int) -> AsyncIterator[bytes]:
            yield data[offset:]

        descriptor = Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))
        await self.put(descriptor, whole)
        self.named = msgspec.json.encode(descriptor).decode()


async def archive(store: ClientStore) -> AsyncIterator[bytes]:
    """The image of a store, all of its platforms, as a tar of OCI's layout. Raises as ClientStore."""
    data = await store.small(Descriptor(digest=store.digest))
    found = _decoded_object(data)
    media_type = found.get("mediaType") or (INDEX if "manifests" in found else MANIFEST)
    top = Descriptor(media_type=str(media_type), digest=store.digest, size=len(data))
    yield _member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield _member("index.json", msgspec.json.encode(Index(manifests=[top])))
    pending, seen = [top], set()
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        name = "blobs/" + descriptor.digest.replace(":", "/")
        yield _header(name, descriptor.size)
        count = 0
        async with store.open(descriptor) as chunks:
            async for chunk in chunks:
                count += len(chunk)
                yield chunk
        if count != descriptor.size:
            raise CallFailed(UNKNOWN, f"{descriptor.digest}: has another size")
        yield bytes(-count % tarfile.BLOCKSIZE)
        pending += await _children(store, descriptor)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _children(store: ClientStore, descriptor: Descriptor) -> list[Descriptor]:
    """What a manifest or an index leads to."""
    if descriptor.media_type not in INDEXES | MANIFESTS:
        return []
    content = await store.manifest(descriptor)
    if isinstance(content, Index):
        return content.manifests
    return [content.config, *content.layers]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _decoded_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CallFailed(UNKNOWN, "malformed manifest")
    return found


def _decoded(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise CallFailed(UNKNOWN, f"malformed manifest: {exc}") from exc

"""A registry in memory, as the engine sees one: what is asked of it is counted, and it breaks on demand.

Implements the reading and writing half of proa.registry.Registry.
"""

import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from image_archives import config, digest

from proa.errors import NotFound
from proa.registry import Interrupted, Manifest, Remote
from proa.registry.manifests import read_manifest
from proa.schema.oci import INDEX, MANIFEST, Descriptor
from proa.schema.reference import Digest, Reference
from proa.schema.registry import Credentials

OCI = "application/vnd.oci.image"
BlobSource = Callable[[int], AsyncIterator[bytes]]


class FakeRegistry:
    """Repositories by name; blobs are shared by all of them, manifests are not."""

    def __init__(self, step: int = 500) -> None:
        self.step = step
        """Bytes of a chunk."""
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.asked: Counter[str] = Counter()
        """How often each blob, manifest and tag was asked for; uploads and mounts as `PUT <digest>`."""
        self.offsets: list[tuple[str, int]] = []
        self.break_at: dict[str, list[int]] = {}
        """Offsets at which a blob's body ends early, used up one by one."""
        self.instead: dict[str, bytes] = {}
        """Other bytes than those of the digest."""
        self.gate: Callable[[str, int], Any] | None = None
        """Awaited before each chunk: (digest, offset)."""
        self.credentials: list[Credentials | None] = []
        self.web: dict[str, bytes] = {}
        """What URLs have that are no registry's; their bodies break as `break_at` says."""

    # ---- filling --------------------------------------------------------------------------------

    def put_blob(self, repository: str, data: bytes) -> str:
        self.blobs.setdefault(repository, {})[digest(data)] = data
        return digest(data)

    def put_image(
        self,
        name: str,
        layers: Sequence[bytes],
        *,
        packed: bool = True,
        config_type: str = "",
        **extra: Any,
    ) -> str:
        """An OCI image of these plain layers, at docker.io/library/<name>; its manifest's digest."""
        repository, _, tag = name.partition(":")
        repository = f"docker.io/library/{repository}"
        blobs = [gzip.compress(layer, mtime=0) if packed else layer for layer in layers]
        blob = config(layers, **extra)
        suffix = "+gzip" if packed else ""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": config_type or f"{OCI}.config.v1+json",
                "digest": self.put_blob(repository, blob),
                "size": len(blob),
            },
            "layers": [
                {
                    "mediaType": f"{OCI}.layer.v1.tar{suffix}",
                    "digest": self.put_blob(repository, data),
                    "size": len(data),
                }
                for data in blobs
            ],
        }
        return self.put(repository, tag, MANIFEST, json.dumps(manifest).encode())

    def move(self, repository: str, target: str) -> None:
        """Let another repository have all that one has."""
        self.blobs[target] = self.blobs.pop(repository)
        for name, key in [key for key in self.manifests if key[0] == repository]:
            self.manifests[target, key] = self.manifests.pop((name, key))

    def put_index(self, name: str, **platforms: str) -> str:
        """An index of manifests that are there, by `os_architecture[_variant]`."""
        repository, _, tag = name.partition(":")
        repository = f"docker.io/library/{repository}"
        manifests = []
        for key, child in platforms.items():
            platform = dict(zip(("os", "architecture", "variant"), key.split("_"), strict=False))
            size = len(self.manifests[repository, child][1])
            manifests.append({"mediaType": MANIFEST, "digest": child, "size": size, "platform": platform})
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
        return self.put(repository, tag, INDEX, data)

    def put(self, repository: str, tag: str, media_type: str, data: bytes) -> str:
        found = digest(data)
        self.manifests[repository, found] = media_type, data
        if tag:
            self.manifests[repository, tag] = media_type, data
        return found

    # ---- reading --------------------------------------------------------------------------------

    async def resolve(self, ref: Reference, credentials: Credentials | None = None) -> Manifest:
        self.credentials.append(credentials)
        return self._manifest(ref, ref.digest or ref.tag)

    async def head(self, ref: Reference, credentials: Credentials | None = None) -> Descriptor | None:
        self.asked[f"HEAD {ref.tag}"] += 1
        found = self.manifests.get((ref.name, ref.digest or ref.tag))
        if found is None:
            return None
        return Descriptor(media_type=found[0], digest=digest(found[1]), size=len(found[1]))

    async def manifest(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
    ) -> Manifest:
        return self._manifest(ref, digest)

    @asynccontextmanager
    async def blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        offset: int = 0,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked[descriptor.digest] += 1
        self.offsets.append((descriptor.digest, offset))
        yield self._chunks(ref, descriptor, offset)

    async def small_blob(
        self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None = None
    ) -> bytes:
        self.asked[descriptor.digest] += 1
        if self.gate is not None:
            await self.gate(descriptor.digest, 0)
        return self._blob(ref, descriptor.digest)

    async def tags(self, ref: Reference, credentials: Credentials | None = None) -> list[str]:
        return sorted(tag for name, tag in self.manifests if name == ref.name and ":" not in tag)

    @asynccontextmanager
    async def open_url(self, url: str) -> AsyncIterator[Remote]:
        if url not in self.web:
            raise NotFound(f"failed to GET {url} with status 404 Not Found: ")
        yield Remote(len(self.web[url]), self._pieces(self.web[url], url, 0))

    # ---- writing --------------------------------------------------------------------------------

    async def has_blob(self, ref: Reference, digest: Digest, credentials: Credentials | None = None) -> bool:
        self.credentials.append(credentials)
        return digest in self.blobs.get(ref.name, {})

    async def mount_blob(
        self, ref: Reference, digest: Digest, source: Reference, credentials: Credentials | None = None
    ) -> bool:
        data = self.blobs.get(source.name, {}).get(digest)
        if data is None:
            return False
        self.asked[f"MOUNT {digest}"] += 1
        self.put_blob(ref.name, data)
        return True

    async def upload_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        source: BlobSource,
        credentials: Credentials | None = None,
    ) -> None:
        self.asked[f"PUT {descriptor.digest}"] += 1
        data = b"".join([chunk async for chunk in source(0)])
        assert (digest(data), len(data)) == (descriptor.digest, descriptor.size)
        self.put_blob(ref.name, data)

    async def put_manifest(
        self, ref: Reference, media_type: str, data: bytes, credentials: Credentials | None = None
    ) -> Digest:
        document = json.loads(data)
        assert document["mediaType"] == media_type
        for part in document.get("manifests", ()):
            assert (ref.name, part["digest"]) in self.manifests
        parts = (document["config"], *document["layers"]) if "config" in document else ()
        for descriptor in parts:
            assert len(self.blobs[ref.name][descriptor["digest"]]) == descriptor["size"]
        return Digest(self.put(ref.name, ref.tag, media_type, data))

    # ---- inside ---------------------------------------------------------------------------------

    def _manifest(self, ref: Reference, key: str) -> Manifest:
        self.asked[key] += 1
        found = self.manifests.get((ref.name, key))
        if found is None:
            raise NotFound(f"manifest for {ref.familiar} not found: manifest unknown: manifest unknown")
        descriptor = Descriptor(media_type=found[0], digest=digest(found[1]), size=len(found[1]))
        content = read_manifest(found[1], found[0], ref)[1]
        return Manifest(descriptor=descriptor, data=found[1], content=content, host="fake")

    def _blob(self, ref: Reference, digest: str) -> bytes:
        found = self.blobs.get(ref.name, {}).get(digest)
        if found is None:
            raise NotFound("blob unknown to registry")
        return self.instead.get(digest, found)

    async def _chunks(self, ref: Reference, descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        async for chunk in self._pieces(self._blob(ref, descriptor.digest), descriptor.digest, offset):
            yield chunk

    async def _pieces(self, data: bytes, key: str, offset: int) -> AsyncIterator[bytes]:
        breaks = self.break_at.get(key) or [len(data) + 1]
        end = breaks.pop(0)
        while offset < len(data):
            if self.gate is not None:
                await self.gate(key, offset)
            if offset >= end:
                raise Interrupted("connection reset")
            chunk = data[offset : min(offset + self.step, end)]
            offset += len(chunk)
            yield chunk
        if end <= len(data):
            raise Interrupted("connection reset")

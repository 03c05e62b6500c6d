"""The verbs that ask a registry and touch no image here: login, search, what is behind a name.

Implements api.ports.Registries.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from proa.errors import InvalidParameter, System
from proa.registry import Manifest, RegistrySettings
from proa.schema import oci
from proa.schema.config import DaemonConfig
from proa.schema.oci import CONFIG, DOCKER_CONFIG, Descriptor, Index, Platform
from proa.schema.reference import Digest, Reference, parse_digest, parse_reference
from proa.schema.registry import AuthResponse, Credentials, DistributionInspect, SearchResult

_decode_platform = msgspec.json.Decoder(Platform).decode
_decode_manifest = msgspec.json.Decoder(oci.Manifest).decode
_FOREIGN: Final = ("rootfs.foreign", "layer.nondistributable")
"""Media types of layers that are not in the registry."""


class Client(Protocol):
    """The client of registries, as these verbs use it."""

    def reload(self, settings: RegistrySettings) -> None: ...
    async def resolve(
        self, ref: Reference, credentials: Credentials | None = None, *, insecure: bool = False
    ) -> Manifest: ...
    async def small_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bytes: ...
    async def has_blob(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool: ...
    async def mount_blob(
        self,
        ref: Reference,
        digest: Digest,
        source: Reference,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool: ...
    async def put_manifest(
        self,
        ref: Reference,
        media_type: str,
        data: bytes,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> Digest: ...
    async def check(self, credentials: Credentials) -> AuthResponse: ...
    async def search(
        self,
        term: str,
        limit: int,
        filters: Mapping[str, list[str]],
        credentials: Credentials | None = None,
    ) -> list[SearchResult]: ...


class Registries:
    """Docker's verbs of /auth, /images/search and /distribution."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def reload(self, config: DaemonConfig) -> None:
        """Mirrors, insecure registries, certificates and proxies as they are now. Raises InvalidParameter."""
        self._client.reload(RegistrySettings.of(config))

    async def login(self, credentials: Credentials) -> AuthResponse:
        """Whether the registry takes them. Raises Unauthorized in its words."""
        return await self._client.check(credentials)

    async def search(
        self, term: str, limit: int, filters: Mapping[str, list[str]], credentials: Credentials | None
    ) -> list[SearchResult]:
        """Repositories whose name or description has the term; limit 0 is Docker's 25."""
        return await self._client.search(term, limit, filters, credentials)

    async def inspect(
        self, name: str, credentials: Credentials | None, *, insecure: bool = False
    ) -> DistributionInspect:
        """The descriptor behind a name and the platforms that it runs on."""
        ref = _reference(name)
        found = await self._client.resolve(ref, credentials, insecure=insecure)
        if isinstance(found.content, Index):
            platforms = [one.platform for one in found.content.manifests if one.platform is not None]
        else:
            platforms = await self._platform_of(ref, found.content.config, credentials, insecure=insecure)
        return DistributionInspect(descriptor=found.descriptor, platforms=platforms)

    async def manifest(
        self, name: str, credentials: Credentials | None, *, insecure: bool
    ) -> tuple[str, Digest, bytes]:
        """(media type, digest, the manifest or index as the registry has it)."""
        found = await self._client.resolve(_reference(name), credentials, insecure=insecure)
        return found.descriptor.media_type, found.digest, found.data

    async def put_manifest(
        self,
        name: str,
        media_type: str,
        data: bytes,
        credentials: Credentials | None,
        *,
        source: str,
        insecure: bool,
    ) -> Digest:
        """Store a manifest or index under a name. `source` is a repository of the same registry, or empty.

        What a manifest names is mounted from there first, but for what a registry may not hand on. Raises
        InvalidParameter, and what the registry refuses.
        """
        ref = _reference(name)
        if source:
            await self._mount(ref, parse_reference(source), data, credentials, insecure=insecure)
        return await self._client.put_manifest(ref, media_type, data, credentials, insecure=insecure)

    async def _mount(
        self,
        ref: Reference,
        source: Reference,
        data: bytes,
        credentials: Credentials | None,
        *,
        insecure: bool,
    ) -> None:
        if source.domain != ref.domain:
            raise InvalidParameter(
                "cannot use source images from a different registry than the target image: "
                f"{source.domain} != {ref.domain}"
            )
        try:
            manifest = _decode_manifest(data)
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise InvalidParameter(f"invalid manifest: {exc}") from exc
        for blob in (manifest.config, *manifest.layers):
            digest = parse_digest(blob.digest)
            if any(word in blob.media_type for word in _FOREIGN):
                continue
            mounted = await self._client.mount_blob(ref, digest, source, credentials, insecure=insecure)
            if not mounted and not await self._client.has_blob(ref, digest, credentials, insecure=insecure):
                raise System(f"error mounting {source.path}@{digest} to {ref.canonical}")

    async def _platform_of(
        self, ref: Reference, config: Descriptor, credentials: Credentials | None, *, insecure: bool
    ) -> list[Platform]:
        if config.media_type not in (CONFIG, DOCKER_CONFIG):
            return []
        try:
            blob = await self._client.small_blob(ref, config, credentials, insecure=insecure)
            return [_decode_platform(blob)]
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise InvalidParameter(f"invalid configuration of {ref.familiar}: {exc}") from exc


def _reference(name: str) -> Reference:
    return parse_reference(name).with_default_tag()

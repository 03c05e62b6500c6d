"""The client of registries: what a pull, a push, a login and a search ask for.

What does the work is made at the first call, with its imports.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from proa.registry.settings import RegistrySettings
from proa.schema.oci import Descriptor
from proa.schema.reference import DEFAULT_TAG, Digest, Reference
from proa.schema.registry import AuthResponse, Credentials, SearchResult

if TYPE_CHECKING:
    from proa.registry.hosts import Host
    from proa.registry.model import BlobSource, Manifest, Remote


class Registry:
    """Every registry there is, one client a daemon.

    `credentials` are what the API's client sent for the reference's domain; None is anonymous. A method that
    reads tries the mirrors in order, then the registry itself; one that writes goes to the registry.
    Temporary failures (429, 5xx, lost connections) are tried again inside, a bounded number of times.

    All raise classes of proa.errors: NotFound (no such manifest, pull access denied), Forbidden, Unavailable
    (unreachable, timed out, Interrupted), InvalidParameter (a malformed or ambiguous manifest, schema 1),
    System (credentials missing or refused, a digest that is not the one asked for); `check` Unauthorized.
    """

    def __init__(
        self, settings: RegistrySettings, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """`pause(seconds)` is what lies between two attempts."""
        self._settings = settings
        self._pause = pause
        self._clients: _Clients | None = None

    def reload(self, settings: RegistrySettings) -> None:
        """Take over settings that were read again; calls under way end with the old ones."""
        self._settings = settings
        self._drop()

    async def close(self) -> None:
        """Close every idle connection. Idempotent."""
        self._drop()

    # ---- reading ---------------------------------------------------------------------------------

    async def resolve(
        self, ref: Reference, credentials: Credentials | None = None, *, insecure: bool = False
    ) -> "Manifest":
        """The manifest or index of a tag, or of a digest where the reference has one; verified.

        A reference with both is taken by its digest. One round trip where the host is known. `insecure`
        treats the registry as one of insecure-registries for this call.
        """
        return await self._made.download.manifest(ref, _wanted(ref), credentials, insecure=insecure)

    async def head(self, ref: Reference, credentials: Credentials | None = None) -> Descriptor | None:
        """What is there by tag or digest, None for nothing; one round trip, no body."""
        return await self._made.download.head(ref, _wanted(ref), credentials)

    async def manifest(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> "Manifest":
        """A manifest of the reference's repository by digest (a child of an index), verified."""
        return await self._made.download.manifest(ref, digest, credentials, insecure=insecure)

    def blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        offset: int = 0,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of a blob from `offset` on, in chunks of up to 1 MiB; not verified: the caller digests.

        Never yields beyond the descriptor's size. Raises Interrupted in the middle of the body.
        """
        return self._made.download.blob(ref, descriptor, credentials, offset)

    async def small_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bytes:
        """A whole blob, verified: an image's configuration. Raises InvalidParameter past 8 MiB."""
        return await self._made.download.small_blob(ref, descriptor, credentials, insecure=insecure)

    async def tags(self, ref: Reference, credentials: Credentials | None = None) -> list[str]:
        """Every tag of the reference's repository."""
        return await self._made.download.tags(ref, credentials)

    async def referrers(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        artifact_type: str = "",
    ) -> list[Descriptor]:
        """What refers to a manifest (signatures, SBOMs), by the API or the tag schema; empty for nothing."""
        return await self._made.download.referrers(ref, digest, credentials, artifact_type)

    # ---- writing ---------------------------------------------------------------------------------

    async def has_blob(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool:
        """Whether the reference's repository has the blob; one round trip."""
        return await self._made.upload.has_blob(ref, digest, credentials, insecure=insecure)

    async def mount_blob(
        self,
        ref: Reference,
        digest: Digest,
        source: Reference,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool:
        """Let the repository share a blob of `source`, one of the same registry; False where it refuses."""
        return await self._made.upload.mount(ref, digest, source, credentials, insecure=insecure)

    async def upload_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        source: "BlobSource",
        credentials: Credentials | None = None,
    ) -> None:
        """Send a blob; an upload that breaks goes on from the offset that the registry has."""
        await self._made.upload.blob(ref, descriptor, source, credentials)

    async def put_manifest(
        self,
        ref: Reference,
        media_type: str,
        data: bytes,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> Digest:
        """Store a manifest under the reference's tag, or under its digest where it has no tag."""
        return await self._made.upload.manifest(ref, media_type, data, credentials, insecure=insecure)

    # ---- beside images ---------------------------------------------------------------------------

    async def check(self, credentials: Credentials) -> AuthResponse:
        """`docker login`: whether the registry at `credentials.server_address` takes them.

        Raises Unauthorized in the registry's words.
        """
        return await self._made.account.check(credentials)

    async def search(
        self,
        term: str,
        limit: int,
        filters: Mapping[str, list[str]],
        credentials: Credentials | None = None,
    ) -> list[SearchResult]:
        """Repositories that match, at the Hub or at the registry the term begins with; limit 0 is 25."""
        return await self._made.account.search(term, limit, filters, credentials)

    def open_url(self, url: str) -> AbstractAsyncContextManager["Remote"]:
        """What any http or https URL has, along redirects; not resumed where it breaks off.

        Raises NotFound, InvalidParameter, Unauthorized, Forbidden and System by the server's status,
        Unavailable (Interrupted in the middle).
        """
        return self._made.web.open(url)

    # ---- ours ------------------------------------------------------------------------------------

    @property
    def _made(self) -> "_Clients":
        if self._clients is None:
            self._clients = _Clients(self._settings, self._pause)
        return self._clients

    def _drop(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.exchange.close()


class _Clients:
    """The parts behind the methods, over one set of settings."""

    def __init__(self, settings: RegistrySettings, pause: Callable[[float], Awaitable[None]]) -> None:
        from proa.registry.account import Account
        from proa.registry.download import Download
        from proa.registry.exchange import Exchange
        from proa.registry.hosts import hosts_of
        from proa.registry.pool import Pool
        from proa.registry.proxies import read_proxies
        from proa.registry.upload import Upload
        from proa.registry.web import Web

        def registry_of(domain: str, insecure: bool = False) -> "Host":
            return hosts_of(domain, settings, insecure=insecure)[-1]

        self.exchange: Exchange = Exchange(Pool(read_proxies(settings.proxies)), pause)
        self.download: Download = Download(
            self.exchange, lambda domain, insecure: hosts_of(domain, settings, insecure=insecure)
        )
        self.upload: Upload = Upload(self.exchange, registry_of)
        self.account: Account = Account(self.exchange, registry_of)
        self.web: Web = Web(self.exchange)


def _wanted(ref: Reference) -> str:
    return ref.digest or ref.tag or DEFAULT_TAG

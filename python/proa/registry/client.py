"""The client of registries: what a pull, a push, a login and a search ask for."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from msgspec import Struct

from proa.errors import NotImplemented_, Unavailable
from proa.registry.settings import RegistrySettings
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest, Reference
from proa.schema.registry import AuthResponse, Credentials, SearchResult

BlobSource = Callable[[int], AsyncIterator[bytes]]
"""The bytes of a blob from an offset on; called again when an upload is resumed."""


class Interrupted(Unavailable):
    """A body ended before its end: what came so far is good, ask again from the offset reached."""


class Manifest(Struct, frozen=True, kw_only=True):
    """A manifest or an index as it came; `data` has the digest and size of `descriptor`."""

    descriptor: Descriptor
    """media_type, digest and size are set."""
    data: bytes
    host: str
    """host:port of the registry or mirror that had it, for messages."""

    @property
    def digest(self) -> Digest:
        """Of `data`."""
        return Digest(self.descriptor.digest)


class Registry:
    """Every registry there is, one client a daemon.

    `credentials` are what the API's client sent for the reference's domain; None is anonymous. A method that
    reads tries the mirrors in order, then the registry itself; one that writes goes to the registry.
    Temporary failures (429, 5xx, lost connections) are tried again inside, a bounded number of times.

    All raise classes of proa.errors: NotFound (no such manifest, pull access denied), Unauthorized,
    Forbidden, Unavailable (unreachable, timed out, Interrupted), InvalidParameter (a malformed or ambiguous
    manifest, schema 1), System (a digest that is not the one asked for).
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings

    def reload(self, settings: RegistrySettings) -> None:
        """Take over settings that were read again."""
        self._settings = settings

    async def close(self) -> None:
        """Close every connection. Idempotent."""

    # ---- reading ---------------------------------------------------------------------------------

    async def resolve(self, ref: Reference, credentials: Credentials | None = None) -> Manifest:
        """The manifest or index of a tag, or of a digest where the reference has one; verified.

        A reference with both is taken by its digest. One round trip where the host is known.
        """
        raise NotImplemented_("registries are not there yet")

    async def head(self, ref: Reference, credentials: Credentials | None = None) -> Descriptor | None:
        """What is there by tag or digest, None for nothing; one round trip, no body."""
        raise NotImplemented_("registries are not there yet")

    async def manifest(
        self, ref: Reference, digest: Digest, credentials: Credentials | None = None
    ) -> Manifest:
        """A manifest of the reference's repository by digest (a child of an index), verified."""
        raise NotImplemented_("registries are not there yet")

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
        raise NotImplemented_("registries are not there yet")

    async def small_blob(
        self, ref: Reference, descriptor: Descriptor, credentials: Credentials | None = None
    ) -> bytes:
        """A whole blob, verified: an image's configuration. Raises InvalidParameter past 8 MiB."""
        raise NotImplemented_("registries are not there yet")

    async def tags(self, ref: Reference, credentials: Credentials | None = None) -> list[str]:
        """Every tag of the reference's repository."""
        raise NotImplemented_("registries are not there yet")

    async def referrers(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        artifact_type: str = "",
    ) -> list[Descriptor]:
        """What refers to a manifest (signatures, SBOMs), by the API or the tag schema; empty for nothing."""
        raise NotImplemented_("registries are not there yet")

    # ---- writing ---------------------------------------------------------------------------------

    async def has_blob(self, ref: Reference, digest: Digest, credentials: Credentials | None = None) -> bool:
        """Whether the reference's repository has the blob; one round trip."""
        raise NotImplemented_("registries are not there yet")

    async def mount_blob(
        self, ref: Reference, digest: Digest, source: Reference, credentials: Credentials | None = None
    ) -> bool:
        """Let the repository share a blob of `source`, one of the same registry; False where it refuses."""
        raise NotImplemented_("registries are not there yet")

    async def upload_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        source: BlobSource,
        credentials: Credentials | None = None,
    ) -> None:
        """Send a blob; an upload that breaks goes on from the offset that the registry has."""
        raise NotImplemented_("registries are not there yet")

    async def put_manifest(
        self, ref: Reference, media_type: str, data: bytes, credentials: Credentials | None = None
    ) -> Digest:
        """Store a manifest under the reference's tag, or under its digest where it has no tag."""
        raise NotImplemented_("registries are not there yet")

    # ---- beside images ---------------------------------------------------------------------------

    async def check(self, credentials: Credentials) -> AuthResponse:
        """`docker login`: whether the registry at `credentials.server_address` takes them.

        Raises Unauthorized in the registry's words.
        """
        raise NotImplemented_("registries are not there yet")

    async def search(
        self,
        term: str,
        limit: int,
        filters: Mapping[str, list[str]],
        credentials: Credentials | None = None,
    ) -> list[SearchResult]:
        """Repositories that match, at the Hub or at the registry the term begins with."""
        raise NotImplemented_("registries are not there yet")

"""What is written to registries: blobs, whole or in chunks, and manifests.

    POST uploads/ (?mount=&from=)   201: the blob is there already     202: a location to send to
    PUT location?digest=            all in one request
    GET location                    how far an upload came that broke; PATCH goes on there, PUT closes it

A registry that takes no large request (413) is given chunks.

Source: distribution-spec 1.1, section Push.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from proa.errors import InvalidParameter, ProaError, System, Unavailable
from proa.registry.challenge import scope
from proa.registry.connection import Broken
from proa.registry.exchange import Answer, Call, Exchange
from proa.registry.failures import Refusal, general
from proa.registry.hosts import Host
from proa.registry.manifests import read_manifest
from proa.registry.model import BlobSource
from proa.registry.origin import Target
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest, Reference, parse_digest
from proa.schema.registry import Credentials

ATTEMPTS: Final = 5
"""Of one blob, resumed ones included, without progress in between."""
CHUNK: Final = 32 * 1024 * 1024
"""Bytes of a PATCH where the registry takes no larger request."""
OPENED_MAX: Final = 64
_TOO_LARGE: Final = 413
_RESUMABLE: Final = frozenset((401, 404, 408, 416, 429))
"""A token that ended meanwhile, an upload that the registry forgot, an offset that is not its own."""
_OCTETS: Final = ("Content-Type", "application/octet-stream")


class Session(Struct):
    """An upload under way."""

    target: Target
    offset: int = 0
    chunk: int = 0
    """Bytes of one PATCH; 0 sends all that is left in one request."""
    minimum: int = 0
    """The least that the registry takes as a chunk."""


class Upload:
    """The writing half of the client."""

    def __init__(self, exchange: Exchange, host_of: Callable[[str, bool], Host]) -> None:
        """`host_of(domain, insecure)`: the registry itself, no mirror."""
        self._exchange = exchange
        self._host_of = host_of
        self._opened: dict[tuple[str, Digest], Session] = {}
        """Uploads that a refused mount has opened, for the upload that follows it."""

    async def has_blob(
        self, ref: Reference, digest: Digest, credentials: Credentials | None, *, insecure: bool = False
    ) -> bool:
        """See Registry.has_blob."""
        call = _push(ref, f"blobs/{digest}", credentials, method="HEAD")
        answer = await self._ask(ref, call, 200, 404, insecure=insecure)
        await answer.response.discard()
        return answer.status == 200

    async def mount(
        self,
        ref: Reference,
        digest: Digest,
        source: Reference,
        credentials: Credentials | None,
        *,
        insecure: bool = False,
    ) -> bool:
        """See Registry.mount_blob."""
        if source.domain != ref.domain:
            return False
        path = f"blobs/uploads/?mount={digest}&from={quote(source.path, safe='')}"
        call = _push(ref, path, credentials, scope(source.path, "pull"))
        answer = await self._ask(ref, call, 201, 202, insecure=insecure)
        await answer.response.discard()
        if answer.status == 202 and len(self._opened) < OPENED_MAX:
            self._opened[ref.name, digest] = _session(answer)
        return answer.status == 201

    async def blob(
        self, ref: Reference, descriptor: Descriptor, source: BlobSource, credentials: Credentials | None
    ) -> None:
        """See Registry.upload_blob."""
        digest = parse_digest(descriptor.digest)
        session = self._opened.pop((ref.name, digest), None)
        failures = 0
        while True:
            reached = session.offset if session is not None else 0
            try:
                session = session or await self._begin(ref, credentials)
                answer = await self._rest(ref, session, descriptor, source, credentials)
                break
            except (Refusal, Unavailable, Broken) as exc:
                failures = 0 if session is not None and session.offset > reached else failures + 1
                if failures >= ATTEMPTS or not _passing(exc, session):
                    raise _pushed(exc) from exc
                await self._exchange.wait(failures)
                session = await self._resumed(ref, session, exc, credentials)
        told = answer.response.headers.get("docker-content-digest", "")
        await answer.response.discard()
        if told and told != digest:
            raise System(f"the registry stored {told[:80]} where {digest} was sent")

    async def manifest(
        self,
        ref: Reference,
        media_type: str,
        data: bytes,
        credentials: Credentials | None,
        *,
        insecure: bool = False,
    ) -> Digest:
        """See Registry.put_manifest."""
        read_manifest(data, media_type, ref)
        digest = Digest(f"sha256:{sha256(data).hexdigest()}")
        call = _push(
            ref,
            f"manifests/{ref.tag or digest}",
            credentials,
            method="PUT",
            headers=(("Content-Type", media_type),),
            body=data,
        )
        answer = await self._ask(ref, call, 200, 201, 202, insecure=insecure)
        told = answer.response.headers.get("docker-content-digest", "")
        await answer.response.discard()
        if told and told != digest:
            raise System(f"the registry stored {told[:80]} where {digest} was sent")
        return digest

    # ---- an upload's steps -----------------------------------------------------------------------

    async def _begin(self, ref: Reference, credentials: Credentials | None) -> Session:
        answer = await self._expect(ref, _push(ref, "blobs/uploads/", credentials), 202)
        await answer.response.discard()
        return _session(answer)

    async def _rest(
        self,
        ref: Reference,
        session: Session,
        descriptor: Descriptor,
        source: BlobSource,
        credentials: Credentials | None,
    ) -> Answer:
        """Send what the registry lacks, and close the upload."""
        chunks = Pieces(source(session.offset))
        try:
            return await self._send(ref, session, descriptor, chunks, credentials)
        finally:
            await chunks.close()

    async def _send(
        self,
        ref: Reference,
        session: Session,
        descriptor: Descriptor,
        chunks: "Pieces",
        credentials: Credentials | None,
    ) -> Answer:
        if session.offset or session.chunk:
            # What follows the part that is there is a chunk: a PUT with a body begins anew at some.
            while session.offset < descriptor.size:
                size = min(session.chunk or descriptor.size, descriptor.size - session.offset)
                await self._patch(ref, session, chunks.take(size), size, credentials)
            return await self._close(ref, session, descriptor, credentials, b"", None)
        size = descriptor.size
        return await self._close(ref, session, descriptor, credentials, lambda: chunks.take(size), size)

    async def _patch(
        self,
        ref: Reference,
        session: Session,
        part: AsyncIterator[bytes],
        size: int,
        credentials: Credentials | None,
    ) -> None:
        span = f"{session.offset}-{session.offset + size - 1}"
        call = _push(
            ref,
            "",
            credentials,
            method="PATCH",
            target=session.target,
            headers=(_OCTETS, ("Content-Range", span)),
            body=lambda: part,
            length=size,
        )
        answer = await self._expect(ref, call, 202, 204)
        await answer.response.discard()
        session.target = _location(answer, session.target)
        session.offset += size

    async def _close(
        self,
        ref: Reference,
        session: Session,
        descriptor: Descriptor,
        credentials: Credentials | None,
        body: bytes | Callable[[], AsyncIterator[bytes]],
        length: int | None,
    ) -> Answer:
        joint = "&" if "?" in session.target.path else "?"
        path = f"{session.target.path}{joint}digest={quote(descriptor.digest, safe='')}"
        call = _push(
            ref,
            "",
            credentials,
            method="PUT",
            target=Target(session.target.origin, path),
            headers=(_OCTETS,),
            body=body,
            length=length,
        )
        return await self._expect(ref, call, 201, 204)

    async def _resumed(
        self,
        ref: Reference,
        session: Session | None,
        exc: Exception,
        credentials: Credentials | None,
    ) -> Session | None:
        """The upload as the registry has it after a failure; None to begin again."""
        if session is None:
            return None
        if isinstance(exc, Refusal) and exc.status == _TOO_LARGE:
            begun = await self._begin(ref, credentials)
            begun.chunk = max(CHUNK, begun.minimum)
            return begun
        call = _push(ref, "", credentials, method="GET", target=session.target)
        try:
            answer = await self._expect(ref, call, 204)
        except (Refusal, Unavailable):
            return None
        await answer.response.discard()
        session.target = _location(answer, session.target)
        end = answer.response.headers.get("range", "").rpartition("-")[2]
        session.offset = int(end) + 1 if end.isdecimal() and int(end) else 0
        return session

    async def _expect(self, ref: Reference, call: Call, *statuses: int, insecure: bool = False) -> Answer:
        return await self._exchange.expect(self._host_of(ref.domain, insecure), call, *statuses)

    async def _ask(self, ref: Reference, call: Call, *statuses: int, insecure: bool = False) -> Answer:
        try:
            return await self._expect(ref, call, *statuses, insecure=insecure)
        except Refusal as exc:
            raise general(exc) from exc


class Pieces:
    """A stream of bytes, taken in parts of a given size."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    async def close(self) -> None:
        """End the stream, where it is a generator that holds a file."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()

    async def take(self, size: int) -> AsyncIterator[bytes]:
        """The next `size` bytes. Raises System where the stream is shorter."""
        while size:
            chunk = self._left or await anext(self._chunks, b"")
            if not chunk:
                raise System("a blob is shorter than its descriptor says")
            self._left = chunk[size:]
            yield chunk[:size] if self._left else chunk
            size -= min(size, len(chunk))


def _push(
    ref: Reference,
    path: str,
    credentials: Credentials | None,
    *scopes: str,
    method: str = "POST",
    target: Target | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | Callable[[], AsyncIterator[bytes]] = b"",
    length: int | None = None,
) -> Call:
    return Call(
        method=method,
        path=f"/{ref.path}/{path}",
        target=target,
        scopes=(scope(ref.path, "pull", "push"), *scopes),
        headers=tuple(headers),
        body=body,
        length=length,
        credentials=credentials,
    )


def _session(answer: Answer) -> Session:
    minimum = answer.response.headers.get("oci-chunk-min-length", "")
    return Session(target=_location(answer, None), minimum=int(minimum) if minimum.isdecimal() else 0)


def _location(answer: Answer, old: Target | None) -> Target:
    location = answer.response.headers.get("location", "")
    if not location:
        if old is None:
            raise System(f"{answer.target.origin} names no location for an upload")
        return old
    try:
        return answer.target.joined(location)
    except InvalidParameter as exc:
        raise System(f"{answer.target.origin}: location of an upload: {exc}") from exc


def _passing(exc: Exception, session: Session | None) -> bool:
    """Whether an upload is worth going on with."""
    if session is None or not isinstance(exc, Refusal):
        return session is not None
    if exc.status == _TOO_LARGE:
        return not session.chunk
    return exc.status >= 500 or exc.status in _RESUMABLE


def _pushed(exc: Exception) -> ProaError:
    if isinstance(exc, Refusal):
        return general(exc)
    return exc if isinstance(exc, ProaError) else Unavailable(str(exc))

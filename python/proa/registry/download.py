"""What is read from registries: manifests, blobs, tags, referrers; mirrors first, the registry last.

Source: distribution-spec 1.1, sections Pull and Content Discovery.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter, NotFound, ProaError, System
from proa.registry.challenge import scope
from proa.registry.connection import Broken
from proa.registry.exchange import ATTEMPTS, Answer, Call, Exchange
from proa.registry.failures import Refusal, general, pull_failure
from proa.registry.hosts import PULL, RESOLVE, Host
from proa.registry.manifests import ACCEPT, MANIFEST_MAX, read_manifest, verified
from proa.registry.model import Interrupted, Manifest
from proa.registry.origin import parse_url
from proa.registry.response import Response, TooLarge
from proa.schema.oci import INDEX, Descriptor, Index
from proa.schema.reference import Digest, Reference, digest_hex, parse_digest
from proa.schema.registry import Credentials

log = logging.getLogger(__name__)

SMALL_MAX: Final = 8 * 1024 * 1024
"""Bytes of a blob that is held in memory: an image's configuration."""
LIST_MAX: Final = 8 * 1024 * 1024
"""Bytes of one page of tags or referrers."""
PAGES_MAX: Final = 1000
PAGE: Final = 1000
"""Tags asked for at a time."""

T = TypeVar("T")


class _Tags(Struct):
    tags: list[str] | None = None


_decode_tags = msgspec.json.Decoder(_Tags).decode
_decode_index = msgspec.json.Decoder(Index).decode


class Download:
    """The reading half of the client."""

    def __init__(self, exchange: Exchange, hosts_of: Callable[[str, bool], Sequence[Host]]) -> None:
        """`hosts_of(domain, insecure)`: where a domain's images may be, in order."""
        self._exchange = exchange
        self._hosts_of = hosts_of

    async def manifest(
        self, ref: Reference, wanted: str, credentials: Credentials | None, *, insecure: bool = False
    ) -> Manifest:
        """By tag or digest (`wanted`), verified."""
        digest = wanted if ":" in wanted else ""

        async def get(host: Host) -> Manifest:
            call = _pull(ref, f"manifests/{wanted}", credentials, ("Accept", ACCEPT))
            answer, data = await self._document(host, call, MANIFEST_MAX, f"manifest of {ref.familiar}")
            told = answer.response.headers.get("docker-content-digest", "")
            found = verified(data, digest, told, ref)
            media_type, content = read_manifest(data, answer.response.headers.get("content-type", ""), ref)
            descriptor = Descriptor(media_type=media_type, digest=found, size=len(data))
            return Manifest(
                descriptor=descriptor, data=data, content=content, host=answer.target.origin.authority
            )

        return await self._first(ref, PULL if digest else RESOLVE, get, insecure=insecure)

    async def head(self, ref: Reference, wanted: str, credentials: Credentials | None) -> Descriptor | None:
        """What is there, None for nothing."""

        async def ask(host: Host) -> Descriptor:
            call = _pull(ref, f"manifests/{wanted}", credentials, ("Accept", ACCEPT), method="HEAD")
            answer = await self._exchange.expect(host, call, 200)
            headers = answer.response.headers
            await answer.response.discard()
            told = headers.get("docker-content-digest", "")
            length = headers.get("content-length", "")
            if not told or not length.isdecimal():
                # A registry may leave them out: then only the document itself tells.
                return (await self.manifest(ref, wanted, credentials)).descriptor
            media_type = headers.get("content-type", "").partition(";")[0].strip()
            return Descriptor(media_type=media_type, digest=parse_digest(told), size=int(length))

        try:
            return await self._first(ref, PULL if ":" in wanted else RESOLVE, ask)
        except NotFound:
            return None

    @asynccontextmanager
    async def blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        offset: int,
        *,
        insecure: bool = False,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Registry.blob."""
        digest = parse_digest(descriptor.digest)
        ranged = (("Range", f"bytes={offset}-"),) if offset else ()

        async def get(host: Host) -> Answer:
            call = _pull(ref, f"blobs/{digest}", credentials, *ranged)
            return await self._exchange.expect(host, call, 200, 206)

        try:
            answer = await self._first(ref, PULL, get, insecure=insecure)
        except NotFound:
            if not descriptor.urls:
                raise
            answer = await self._foreign(descriptor, ranged)
        response = answer.response
        try:
            skip = _start(response, offset, descriptor)
            yield _body(response, skip, descriptor.size - offset, str(digest))
        finally:
            response.close()

    async def small_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None,
        *,
        insecure: bool = False,
    ) -> bytes:
        """See Registry.small_blob."""
        if descriptor.size > SMALL_MAX:
            raise InvalidParameter(f"{descriptor.digest} of {ref.familiar} is larger than {SMALL_MAX} bytes")
        async with self.blob(ref, descriptor, credentials, 0, insecure=insecure) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        if f"sha256:{sha256(data).hexdigest()}" != descriptor.digest:
            raise System(f"filesystem layer verification failed for digest {descriptor.digest}")
        return data

    async def tags(self, ref: Reference, credentials: Credentials | None) -> list[str]:
        """See Registry.tags."""

        async def get(host: Host) -> list[str]:
            found: list[str] = []
            first = _pull(ref, f"tags/list?n={PAGE}", credentials)
            async for page in self._pages(host, first, "tags"):
                found += _decode_tags(page).tags or []
            return found

        return await self._first(ref, RESOLVE, get)

    async def referrers(
        self, ref: Reference, digest: Digest, credentials: Credentials | None, artifact_type: str
    ) -> list[Descriptor]:
        """See Registry.referrers."""

        async def get(host: Host) -> list[Descriptor]:
            wanted = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
            first = _pull(ref, f"referrers/{digest}{wanted}", credentials, ("Accept", INDEX))
            try:
                return [
                    descriptor
                    async for page in self._pages(host, first, "referrers")
                    for descriptor in _decode_index(page).manifests
                ]
            except Refusal as exc:
                if exc.status not in (400, 404, 405):
                    raise
                return await self._tagged_referrers(host, ref, digest, credentials)

        found = await self._first(ref, RESOLVE, get)
        for descriptor in found:
            parse_digest(descriptor.digest)
        return [one for one in found if not artifact_type or one.artifact_type == artifact_type]

    async def _tagged_referrers(
        self, host: Host, ref: Reference, digest: Digest, credentials: Credentials | None
    ) -> list[Descriptor]:
        """The referrers tag schema, for registries without the API."""
        call = _pull(ref, f"manifests/sha256-{digest_hex(digest)}", credentials, ("Accept", INDEX))
        try:
            _, data = await self._document(host, call, MANIFEST_MAX, "referrers")
        except Refusal as exc:
            if exc.status == 404:
                return []
            raise
        return _decode_index(data).manifests

    async def _pages(self, host: Host, call: Call, what: str) -> AsyncIterator[bytes]:
        """The pages of a list, as far as their Link headers lead within the registry."""
        for _ in range(PAGES_MAX):
            answer, page = await self._document(host, call, LIST_MAX, what)
            yield page
            following = next_link(answer.response.headers.get("link", ""))
            if not following:
                return
            target = answer.target.joined(following)
            if target.origin != answer.target.origin:
                raise InvalidParameter(f"{answer.target.origin} continues its list of {what} elsewhere")
            call = msgspec.structs.replace(call, target=target)
        raise InvalidParameter(f"the registry's list of {what} does not end")

    async def _document(self, host: Host, call: Call, limit: int, what: str) -> tuple[Answer, bytes]:
        """An answer with its whole body, asked for again where that breaks; any other status is a Refusal."""
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._exchange.expect(host, call, 200)
            try:
                return answer, await answer.response.read(limit)
            except TooLarge:
                raise InvalidParameter(f"{what} is larger than {limit} bytes") from None
            except Broken as exc:
                if attempt == ATTEMPTS:
                    raise Interrupted(f"{what}: {exc}") from exc
            await self._exchange.wait(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _foreign(self, descriptor: Descriptor, headers: Sequence[tuple[str, str]]) -> Answer:
        """A layer that the registry leaves to others: from its descriptor's URLs, without credentials."""
        failure: ProaError = NotFound(f"{descriptor.digest} has no URL")
        for url in descriptor.urls or ():
            try:
                answer = await self._exchange.fetch(parse_url(url), headers)
            except ProaError as exc:
                failure = exc
                continue
            if answer.status in (200, 206):
                return answer
            failure = general(await answer.refused())
        raise failure

    async def _first(
        self,
        ref: Reference,
        capability: str,
        attempt: Callable[[Host], Awaitable[T]],
        *,
        insecure: bool = False,
    ) -> T:
        """The first host's that has it; the error is the registry's own."""
        hosts = [
            host
            for host in self._hosts_of(ref.domain, insecure)
            if not host.is_mirror or capability in host.capabilities
        ]
        for host in hosts[:-1]:
            try:
                return await attempt(host)
            except (ProaError, Refusal, msgspec.DecodeError) as exc:
                log.info("%s: not from mirror %s: %s", ref.familiar, host.origin, exc)
        try:
            return await attempt(hosts[-1])
        except Refusal as exc:
            raise pull_failure(exc, ref) from exc
        except msgspec.DecodeError as exc:
            raise InvalidParameter(f"{ref.familiar}: the registry's answer is malformed: {exc}") from exc


def _pull(
    ref: Reference,
    path: str,
    credentials: Credentials | None,
    *headers: tuple[str, str],
    method: str = "GET",
) -> Call:
    return Call(
        method=method,
        path=f"/{ref.path}/{path}",
        scopes=(scope(ref.path, "pull"),),
        headers=headers,
        credentials=credentials,
    )


def _start(response: Response, offset: int, descriptor: Descriptor) -> int:
    """How many bytes at the body's beginning were not asked for. Raises System where it fits nothing."""
    begin, total = 0, response.length
    if response.status == 206:
        unit, _, span = response.headers.get("content-range", "").partition(" ")
        first, _, rest = span.partition("-")
        end = rest.rpartition("/")[2]
        if unit != "bytes" or not first.isdecimal() or int(first) > offset:
            raise System(
                f"{descriptor.digest}: malformed answer to a range: {response.headers.get('content-range')}"
            )
        begin, total = int(first), int(end) if end.isdecimal() else None
    if total is not None and total != descriptor.size:
        raise System(
            f"{descriptor.digest}: the registry has {total} bytes where the manifest says {descriptor.size}"
        )
    return offset - begin


async def _body(response: Response, skip: int, left: int, name: str) -> AsyncIterator[bytes]:
    try:
        while left and (chunk := await response.some()):
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if len(chunk) > left:
                raise System(f"{name}: the registry sends more than the manifest says")
            left -= len(chunk)
            if chunk:
                yield chunk
        if not left and await response.some():
            raise System(f"{name}: the registry sends more than the manifest says")
    except Broken as exc:
        raise Interrupted(f"{name}: {exc}") from exc
    if left:
        raise Interrupted(f"{name}: unexpected EOF")


def next_link(header: str) -> str:
    """The URL of `<url>; rel="next"`, empty where there is none."""
    for part in header.split(","):
        url, _, parameters = part.strip().partition(">")
        if url.startswith("<") and 'rel="next"' in parameters.replace(" ", "").replace(
            "rel=next", 'rel="next"'
        ):
            return url[1:]
    return ""

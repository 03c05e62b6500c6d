"""One request to one host, whatever it takes: connection, authorisation, redirects, retries.

    once      a connection, the request, the answer; plain HTTP where an insecure registry speaks no TLS
    answered  the same with what the registry wants to know of us (a 401 is answered once)
    call      the same along redirects, and again after a pause where the failure is a passing one

A redirect to another origin gets neither Authorization nor the host's own headers nor a client certificate.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from proa.errors import InvalidParameter, System, Unavailable
from proa.registry.authority import Authority
from proa.registry.challenge import parse_challenges
from proa.registry.connection import Broken, Connection
from proa.registry.failures import BODY_MAX, Refusal, refusal
from proa.registry.hosts import Host
from proa.registry.origin import Origin, Target
from proa.registry.pool import NoConnection, Pool, Route, TLSFailed
from proa.registry.response import Response, TooLarge, receive
from proa.registry.tls import TLSSettings
from proa.schema.registry import Credentials

ATTEMPTS: Final = 5
"""Of one request, at the registry itself; a mirror has one, since another host comes after it."""
PAUSE_MAX: Final = 30.0
"""Seconds of a Retry-After that are waited for; a longer one ends the attempts."""
REDIRECTS_MAX: Final = 5
_PASSING: Final = frozenset((408, 429, 500, 502, 503, 504))
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))

Headers = Sequence[tuple[str, str]]
Body = bytes | Callable[[], AsyncIterator[bytes]]
"""What is sent; a stream is sent once and never again by itself."""


class Call(Struct, frozen=True, kw_only=True):
    """A request, before it is known who answers it."""

    method: str
    path: str
    """Below the host's prefix; or a whole path where `target` is set."""
    target: Target | None = None
    """An absolute URL that the registry gave (an upload's location)."""
    scopes: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = b""
    length: int | None = None
    """Of a streamed body, in bytes."""
    credentials: Credentials | None = None


class Answer(Struct, frozen=True):
    """A response and the URL that gave it."""

    response: Response
    target: Target

    @property
    def status(self) -> int:
        """HTTP's."""
        return self.response.status

    async def refused(self) -> Refusal:
        """Read the rest as a refusal."""
        try:
            return refusal(self.response, await self.response.read(BODY_MAX))
        except (TooLarge, Broken):
            return refusal(self.response, b"")


class Exchange:
    """The requests of one daemon, and what it knows of hosts: who speaks no TLS, who wants what shown."""

    def __init__(self, pool: Pool, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._pool = pool
        self._pause = pause
        self._plain: set[Origin] = set()
        self.authority = Authority(self._ask_token)

    def close(self) -> None:
        """Close every idle connection and forget tokens."""
        self.authority.close()
        self._pool.close()

    async def call(self, host: Host, call: Call) -> Answer:
        """The final answer, whatever its status. Raises Unavailable where there is none."""
        attempts = 1 if host.is_mirror or not isinstance(call.body, bytes) else ATTEMPTS
        return await self._repeated(attempts, _subject(host, call), lambda: self._along_redirects(host, call))

    async def expect(self, host: Host, call: Call, *statuses: int) -> Answer:
        """`call`, where any status but these is a Refusal."""
        answer = await self.call(host, call)
        if answer.status in statuses:
            return answer
        raise await answer.refused()

    async def probe(self, host: Host) -> Answer:
        """GET /v2/ as nobody: what the registry asks for is known afterwards. Raises Unavailable."""
        call = Call(method="GET", path="/")

        async def once() -> Answer:
            return await self._sent(host, call, self._target(host, call), host.headers)

        answer = await self._repeated(ATTEMPTS, _subject(host, call), once)
        challenges = parse_challenges(answer.response.headers.get("www-authenticate", ""))
        self.authority.learn(answer.target.origin, challenges)
        return answer

    async def wait(self, failures: int) -> None:
        """The pause after so many failures in a row."""
        await self._pause(_delay(max(1, failures)))

    async def fetch(self, target: Target, headers: Headers = ()) -> Answer:
        """GET of a URL that is no registry's (a foreign layer): nobody's credentials, with redirects.

        Raises Unavailable.
        """
        host = Host(origin=target.origin, is_mirror=True)
        call = Call(method="GET", path="", target=target, headers=tuple(headers))

        async def once() -> Answer:
            return await self._follow(host, call, await self._sent(host, call, target, headers))

        return await self._repeated(ATTEMPTS, _subject(host, call), once)

    async def _ask_token(
        self, registry: Route, method: str, target: Target, headers: Headers, body: bytes
    ) -> Response:
        """A token server's answer, no redirect followed; it is trusted by the registry's own authorities."""
        tls = registry.tls if target.origin == registry.origin else registry.tls.without_client()
        host = Host(origin=target.origin, tls=tls)
        call = Call(method=method, path="", target=target, body=body)
        answer = await self._repeated(
            ATTEMPTS, _subject(host, call), lambda: self._sent(host, call, target, headers)
        )
        return answer.response

    async def _repeated(self, attempts: int, subject: str, once: Callable[[], Awaitable[Answer]]) -> Answer:
        """`once`, and again after a pause while its failure is a passing one."""
        for attempt in range(1, attempts + 1):
            pause = None
            try:
                answer = await once()
            except NoConnection as exc:
                raise Unavailable(f"{subject}: {exc}") from exc
            except Broken as exc:
                if attempt == attempts:
                    raise Unavailable(f"{subject}: {exc}") from exc
            else:
                pause = retry_after(answer.response.headers.get("retry-after", ""))
                if answer.status not in _PASSING or attempt == attempts or (pause or 0) > PAUSE_MAX:
                    return answer
                await answer.response.discard()
            await self._pause(_delay(attempt) if pause is None else pause)
        raise AssertionError("the last attempt returns or raises")

    # ---- redirects -------------------------------------------------------------------------------

    async def _along_redirects(self, host: Host, call: Call) -> Answer:
        return await self._follow(host, call, await self._answered(host, call))

    async def _follow(self, host: Host, call: Call, answer: Answer) -> Answer:
        redirects = 0
        kept = [(name, value) for name, value in call.headers if name in ("Accept", "Range")]
        while answer.status in _REDIRECTS and call.method in ("GET", "HEAD"):
            location = answer.response.headers.get("location", "")
            await answer.response.discard()
            redirects += 1
            if redirects > REDIRECTS_MAX:
                raise Unavailable(f"{_subject(host, call)}: stopped after {REDIRECTS_MAX} redirects")
            try:
                target = answer.target.joined(location)
            except InvalidParameter as exc:
                raise Unavailable(f"{_subject(host, call)}: redirect: {exc}") from exc
            if answer.target.origin.scheme == "https" != target.origin.scheme and not host.plain_http:
                raise Unavailable(f"{_subject(host, call)}: redirect from https to {target.origin} refused")
            if target.origin == answer.target.origin == self._origin(host):
                answer = await self._answered(host, call, target)
            else:
                answer = await self._sent(host, call, target, kept)
        return answer

    # ---- authorisation ---------------------------------------------------------------------------

    async def _answered(self, host: Host, call: Call, target: Target | None = None) -> Answer:
        """Sent with what the registry is known to want; a 401 that teaches us more is answered once."""
        target = target or self._target(host, call)
        if target.origin != self._origin(host):
            return await self._sent(host, call, target, call.headers)
        headers = (*call.headers, *host.headers)
        if any(name.lower() == "authorization" for name, _ in host.headers):
            return await self._sent(host, call, target, headers)
        credentials = None if host.is_mirror else call.credentials
        asker = Route(target.origin, host.tls)
        shown = await self.authority.header(asker, call.scopes, credentials)
        answer = await self._sent(host, call, target, (*headers, *_authorization(shown)))
        if answer.status != 401:
            return answer
        asker = Route(answer.target.origin, host.tls)
        self.authority.forget(asker.origin, call.scopes, credentials)
        challenges = parse_challenges(answer.response.headers.get("www-authenticate", ""))
        learned = self.authority.learn(asker.origin, challenges, call.scopes)
        if not learned or not isinstance(call.body, bytes):
            return answer
        renewed = await self.authority.header(asker, call.scopes, credentials)
        if renewed is None and shown is None:
            await answer.response.discard()
            raise Refusal(f"{_anonymous(host, call)}no basic auth credentials", "", 401)
        if renewed is None or renewed == shown:
            return answer
        await answer.response.discard()
        return await self._sent(host, call, answer.target, (*headers, *_authorization(renewed)))

    # ---- one request -----------------------------------------------------------------------------

    def _origin(self, host: Host) -> Origin:
        """Where the host is talked to, as far as is known."""
        if host.plain_http and host.origin in self._plain:
            return _as_plain(host.origin)
        return host.origin

    def _target(self, host: Host, call: Call) -> Target:
        if call.target is not None:
            return call.target
        path = f"{host.prefix}{call.path}"
        if host.namespace:
            path += f"{'&' if '?' in path else '?'}ns={quote(host.namespace, safe='')}"
        return Target(self._origin(host), path)

    async def _sent(self, host: Host, call: Call, target: Target, headers: Headers) -> Answer:
        """Send it over a kept connection or a new one. Raises Broken, NoConnection."""
        fresh = False
        while True:
            connection, used, route = await self._connected(host, target.origin, fresh=fresh)
            if route.origin != target.origin:
                # What was said over TLS before is not said in plain: the 401 is answered for this origin.
                headers = [pair for pair in headers if pair[0] != "Authorization"]
                target = Target(route.origin, target.path)
            try:
                return Answer(await self._round_trip(connection, route, call, target, headers), target)
            except Broken:
                if not used or not isinstance(call.body, bytes):
                    raise
                # The registry closed a kept connection while this request was on its way.
                fresh = True

    async def _connected(self, host: Host, origin: Origin, *, fresh: bool) -> tuple[Connection, bool, Route]:
        """A connection, whether it was used before, and what it is: plain HTTP where TLS is not spoken."""
        own = origin in (host.origin, _as_plain(host.origin))
        plain = Route(_as_plain(origin), TLSSettings())
        if origin.scheme == "http":
            route = Route(origin, TLSSettings())
        else:
            route = Route(origin, host.tls if own else host.tls.without_client())
        try:
            return *await self._pool.take(route, fresh=fresh), route
        except NoConnection as exc:
            self._plain.discard(host.origin)
            may_be_plain = own and host.plain_http and origin.scheme == "https"
            if not may_be_plain or isinstance(exc, TLSFailed):
                raise
            try:
                connection, used = await self._pool.take(plain)
            except NoConnection:
                raise exc from None
            self._plain.add(origin)
            return connection, used, plain

    async def _round_trip(
        self, connection: Connection, route: Route, call: Call, target: Target, headers: Headers
    ) -> Response:
        try:
            body = call.body if isinstance(call.body, bytes) else call.body()
            whole = await connection.send(self._head(call, target, headers), body)
            response = await receive(connection, bodiless=call.method == "HEAD")
        except BaseException:
            connection.close()
            raise
        response.reusable = response.reusable and whole
        response.keep = lambda kept: self._pool.keep(route, kept)
        return response

    def _head(self, call: Call, target: Target, headers: Headers) -> bytes:
        absolute, proxy_line = self._pool.absolute(target.origin)
        lines = [
            f"{call.method} {target if absolute else target.path} HTTP/1.1",
            f"Host: {target.origin.authority}",
            "User-Agent: proa",
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in headers),
        ]
        length = len(call.body) if isinstance(call.body, bytes) else call.length
        if length is None:
            raise System("a streamed body has no length")
        if length or call.method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {length}")
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1:
            raise InvalidParameter("a header's value holds a line break")
        return f"{head}\r\n{proxy_line}\r\n".encode("latin-1")


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None where there is none."""
    text = value.strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        return float(text)
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _delay(attempt: int) -> float:
    """Seconds before the attempt after this one: doubling, and spread, lest clients march in step."""
    return math.ldexp(random.uniform(0.1875, 0.3125), attempt - 1)


def _as_plain(origin: Origin) -> Origin:
    return Origin("http", origin.host, 80 if origin.port == 443 else origin.port)


def _authorization(header: str | None) -> tuple[tuple[str, str], ...]:
    return () if header is None else (("Authorization", header),)


def _subject(host: Host, call: Call) -> str:
    """`Get "https://host/v2/..."`, as Go begins such errors."""
    url = _without_query(call.target) if call.target is not None else f"{host.origin}{host.prefix}{call.path}"
    return f'{call.method.title()} "{url}"'


def _anonymous(host: Host, call: Call) -> str:
    """What Docker says before its words for a login that is missing: of pushes, nothing."""
    pushes = any(scope.endswith("push") for scope in call.scopes)
    return "" if pushes else f"{_subject(host, call)}: "


def _without_query(target: Target) -> str:
    return f"{target.origin}{target.path.partition('?')[0]}"

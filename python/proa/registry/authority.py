"""Who we are to each registry: Basic, bearer tokens and their cache.

A registry's challenge is remembered by its origin, so that later requests carry what it wants at once.
Tokens are kept by (origin, challenge, scopes, credentials) until shortly before they expire; those who need
the same one at the same time share one fetch.

Credentials go to the origin of the registry they are for and to the token server that this registry names:
over https where the registry is https, and never along a redirect.

Source: distribution docs/content/spec/auth/{token,oauth}.md.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Final, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter, Unavailable
from proa.registry.challenge import Challenge
from proa.registry.connection import Broken
from proa.registry.failures import Refusal, refusal
from proa.registry.origin import Origin, Target, parse_url
from proa.registry.pool import Route
from proa.registry.response import Response, TooLarge
from proa.schema.registry import Credentials

CLIENT_ID: Final = "proa"
TOKEN_MAX: Final = 1024 * 1024
"""Bytes of a token server's answer."""
LIFETIME_MIN: Final = 60
"""Seconds a token lives where the server does not tell, by the specification."""
TOKENS_MAX: Final = 1024
SCOPES_MAX: Final = 8
"""Of one challenge."""


class TokenAnswer(Struct, frozen=True, kw_only=True):
    """What a token server says."""

    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


class Token(Struct, frozen=True, kw_only=True):
    """A bearer token; `refresh_token` where one was asked for and given."""

    text: str
    refresh_token: str = ""
    expires: float
    """Of the monotonic clock, in seconds."""


class Ask(Protocol):
    """One request to the token server that a registry names, without redirects."""

    def __call__(
        self, registry: Route, method: str, target: Target, headers: Sequence[tuple[str, str]], body: bytes
    ) -> Awaitable[Response]: ...


_decode = msgspec.json.Decoder(TokenAnswer).decode


class Authority:
    """Challenges and tokens of every registry."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._challenges: dict[Origin, Challenge] = {}
        self._wanted: dict[tuple[Origin, tuple[str, ...]], tuple[str, ...]] = {}
        """What a registry wants beside the scopes that we ask for: one behind a proxy has other names."""
        self._tokens: dict[tuple[object, ...], Token] = {}
        self._fetches: dict[tuple[object, ...], asyncio.Task[Token]] = {}

    def close(self) -> None:
        """Forget tokens and challenges; fetches under way end by themselves."""
        self._challenges.clear()
        self._wanted.clear()
        self._tokens.clear()

    def learn(self, origin: Origin, challenges: Sequence[Challenge], scopes: Sequence[str] = ()) -> bool:
        """Remember what a registry asks for; False for nothing that we know. Bearer is preferred.

        `scopes` are those of the request that it refused.
        """
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        chosen = known.get("bearer") or known.get("basic")
        if chosen is None:
            return False
        self._challenges[origin] = chosen
        told = chosen.get("scope").split()[:SCOPES_MAX] if scopes else []
        more = tuple(scope for scope in told if scope not in scopes)
        if more and len(self._wanted) < TOKENS_MAX:
            self._wanted[origin, tuple(scopes)] = more
        return True

    async def header(
        self, registry: Route, scopes: Sequence[str], credentials: Credentials | None
    ) -> str | None:
        """The Authorization header that a request to the registry carries, None for none (yet).

        Raises Refusal in the token server's words, Unavailable.
        """
        if credentials is not None and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        challenge = self._challenges.get(registry.origin)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return f"Basic {_basic(credentials)}" if credentials and credentials.username else None
        return f"Bearer {(await self._token(registry, challenge, scopes, credentials)).text}"

    def forget(self, origin: Origin, scopes: Sequence[str], credentials: Credentials | None) -> None:
        """Drop a token that was refused, where one is kept."""
        challenge = self._challenges.get(origin)
        if challenge is not None:
            key = _key(origin, challenge, self._asked(origin, scopes), credentials)
            self._tokens.pop(key, None)

    def _asked(self, origin: Origin, scopes: Sequence[str]) -> tuple[str, ...]:
        """The scopes of a token for a request that needs these."""
        return (*scopes, *self._wanted.get((origin, tuple(scopes)), ()))

    async def login(self, registry: Route, credentials: Credentials) -> Token | None:
        """A token of no scope, with a refresh token where the server gives them; None for Basic.

        Raises Refusal.
        """
        challenge = self._challenges.get(registry.origin)
        if challenge is None or challenge.scheme == "basic":
            return None
        token = await self._fetch(registry, challenge, (), credentials, offline=True)
        self._tokens[_key(registry.origin, challenge, (), credentials)] = token
        return token

    async def _token(
        self, registry: Route, challenge: Challenge, scopes: Sequence[str], credentials: Credentials | None
    ) -> Token:
        scopes = self._asked(registry.origin, scopes)
        key = _key(registry.origin, challenge, scopes, credentials)
        token = self._tokens.get(key)
        if token is not None and token.expires > self._clock():
            return token
        task = self._fetches.get(key)
        if task is None:
            task = asyncio.ensure_future(self._fetch(registry, challenge, scopes, credentials))
            self._fetches[key] = task
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)

    def _fetched(self, key: tuple[object, ...], task: "asyncio.Task[Token]") -> None:
        self._fetches.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        if len(self._tokens) >= TOKENS_MAX:
            self._tokens.clear()
        self._tokens[key] = task.result()

    async def _fetch(
        self,
        registry: Route,
        challenge: Challenge,
        scopes: Sequence[str],
        credentials: Credentials | None,
        *,
        offline: bool = False,
    ) -> Token:
        realm = _realm(registry.origin, challenge)
        who = credentials or Credentials()
        if who.identity_token:
            target, headers, body = _refresh(realm, challenge, scopes, who)
            response = await self._ask(registry, "POST", target, headers, body)
        else:
            target, headers = _get(realm, challenge, scopes, who, offline)
            response = await self._ask(registry, "GET", target, headers, b"")
            if response.status in (404, 405) and who.username:
                await response.discard()
                target, headers, body = _grant(realm, challenge, scopes, who, offline)
                response = await self._ask(registry, "POST", target, headers, body)
        data = await self._body(response)
        if response.status != 200:
            raise refusal(response, data)
        return self._read(data)

    async def _body(self, response: Response) -> bytes:
        try:
            return await response.read(TOKEN_MAX)
        except (TooLarge, Broken) as exc:
            raise Unavailable(f"token server: {exc or 'the answer is too large'}") from exc

    def _read(self, body: bytes) -> Token:
        try:
            answer = _decode(body)
        except msgspec.DecodeError as exc:
            raise Refusal(f"unable to decode token response: {exc}", "", 401) from exc
        text = answer.token or answer.access_token or ""
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise Refusal("authorization server did not include a token in the response", "", 401)
        lifetime = max(answer.expires_in or LIFETIME_MIN, LIFETIME_MIN)
        return Token(
            text=text,
            refresh_token=answer.refresh_token or "",
            expires=self._clock() + lifetime * 0.9,
        )


def _get(
    realm: Target, challenge: Challenge, scopes: Sequence[str], credentials: Credentials, offline: bool
) -> tuple[Target, list[tuple[str, str]]]:
    fields = [("scope", scope) for scope in scopes]
    if challenge.get("service"):
        fields.append(("service", challenge.get("service")))
    headers: list[tuple[str, str]] = []
    if credentials.username:
        fields.append(("account", credentials.username))
        headers.append(("Authorization", f"Basic {_basic(credentials)}"))
    if offline:
        fields += [("client_id", CLIENT_ID), ("offline_token", "true")]
    if not fields:
        return realm, headers
    joint = "&" if "?" in realm.path else "?"
    return Target(realm.origin, f"{realm.path}{joint}{urlencode(fields)}"), headers


def _refresh(
    realm: Target, challenge: Challenge, scopes: Sequence[str], credentials: Credentials
) -> tuple[Target, list[tuple[str, str]], bytes]:
    fields = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
    return realm, *_form(challenge, scopes, fields)


def _grant(
    realm: Target, challenge: Challenge, scopes: Sequence[str], credentials: Credentials, offline: bool
) -> tuple[Target, list[tuple[str, str]], bytes]:
    """For servers that know OAuth2 only."""
    fields = {"grant_type": "password", "username": credentials.username, "password": credentials.password}
    if offline:
        fields["access_type"] = "offline"
    return realm, *_form(challenge, scopes, fields)


def _form(
    challenge: Challenge, scopes: Sequence[str], fields: dict[str, str]
) -> tuple[list[tuple[str, str]], bytes]:
    common = {"service": challenge.get("service"), "client_id": CLIENT_ID}
    if scopes:
        common["scope"] = " ".join(scopes)
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    return headers, urlencode({**fields, **common}).encode()


def _realm(origin: Origin, challenge: Challenge) -> Target:
    try:
        realm = parse_url(challenge.get("realm"))
    except InvalidParameter as exc:
        raise Refusal(f"invalid token realm of {origin}: {exc}", "", 401) from exc
    if origin.scheme == "https" and realm.origin.scheme != "https":
        raise Refusal(f"token realm {realm.origin} of {origin} is not https", "", 401)
    return realm


def _basic(credentials: Credentials) -> str:
    return b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def _key(
    origin: Origin, challenge: Challenge, scopes: Sequence[str], credentials: Credentials | None
) -> tuple[object, ...]:
    who = ""
    if credentials is not None and not credentials.anonymous:
        secret = (credentials.username, credentials.password, credentials.identity_token)
        who = sha256("\0".join(secret).encode()).hexdigest()
    return origin, challenge.get("realm"), challenge.get("service"), tuple(scopes), who

"""Logins and searches: what registries offer beside images.

Source: distribution-spec 1.1 (GET /v2/); Docker's v1 search protocol; moby registry/{auth,search}.go.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter, ProaError, System, Unauthorized, Unavailable
from proa.registry.connection import Broken
from proa.registry.exchange import Call, Exchange
from proa.registry.failures import Refusal, general
from proa.registry.hosts import Host
from proa.registry.origin import parse_url
from proa.registry.pool import Route
from proa.registry.response import TooLarge
from proa.schema.reference import DEFAULT_DOMAIN
from proa.schema.registry import AuthResponse, Credentials, SearchResult

INDEX: Final = "https://index.docker.io"
"""Where the Hub is searched."""
LIMIT: Final = 25
LIMIT_MAX: Final = 100
SEARCH_MAX: Final = 4 * 1024 * 1024
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


class _Found(Struct):
    results: list[SearchResult] | None = None


_decode = msgspec.json.Decoder(_Found).decode


class Account:
    """Logins and searches."""

    def __init__(self, exchange: Exchange, host_of: Callable[[str], Host]) -> None:
        self._exchange = exchange
        self._host_of = host_of

    async def check(self, credentials: Credentials) -> AuthResponse:
        """See Registry.check."""
        host = self._host_of(login_domain(credentials.server_address))
        answer = await self._exchange.probe(host)
        if answer.status != 401:
            if answer.status == 200:
                await answer.response.discard()
                return AuthResponse(status="Login Succeeded")
            raise general(await answer.refused())
        await answer.response.discard()
        url = answer.target
        try:
            route = Route(url.origin, host.tls)
            token = await self._exchange.authority.login(route, credentials)
            answer = await self._exchange.call(host, Call(method="GET", path="/", credentials=credentials))
        except Refusal as exc:
            raise Unauthorized(f'Get "{url}": {exc}') from exc
        await answer.response.discard()
        if answer.status != 200:
            kind = Unauthorized if answer.status == 401 else System
            raise kind(f"login attempt to {url} failed with status: {answer.response.line}")
        return AuthResponse(status="Login Succeeded", identity_token=token.refresh_token if token else "")

    async def search(
        self, term: str, limit: int, filters: Mapping[str, list[str]], credentials: Credentials | None
    ) -> list[SearchResult]:
        """See Registry.search."""
        limit = limit or LIMIT
        if not 1 <= limit <= LIMIT_MAX:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, {LIMIT_MAX}]")
        keep = search_filter(filters)
        domain, rest = _split_term(term)
        if domain == DEFAULT_DOMAIN:
            host = Host(origin=parse_url(INDEX).origin, prefix="/v1")
        else:
            host = msgspec.structs.replace(self._host_of(domain), prefix="/v1")
        path = f"/search?{urlencode({'q': rest, 'n': limit})}"
        try:
            answer = await self._exchange.call(host, Call(method="GET", path=path, credentials=credentials))
        except Refusal as exc:
            raise general(exc) from exc
        if answer.status != 200:
            await answer.response.discard()
            raise _search_failure(answer.status)
        try:
            found = _decode(await answer.response.read(SEARCH_MAX)).results or []
        except (Broken, TooLarge, msgspec.DecodeError) as exc:
            raise System(f"error decoding registry search results: {exc}") from exc
        return [result for result in found if keep(result)][:limit]


def login_domain(address: str) -> str:
    """The domain of a login's server address: `https://index.docker.io/v1/` is docker.io."""
    bare = address.strip().removeprefix("http://").removeprefix("https://").partition("/")[0].lower()
    if bare in ("", "index.docker.io", "docker.io", "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    return bare


def search_filter(filters: Mapping[str, list[str]]) -> Callable[[SearchResult], bool]:
    """The test that the filters make. Raises InvalidParameter in Docker's words."""
    for name in filters:
        if name not in ("is-automated", "is-official", "stars"):
            raise InvalidParameter(f"invalid filter '{name}'")
    official, automated = _boolean(filters, "is-official"), _boolean(filters, "is-automated")
    stars = 0
    for value in filters.get("stars", ()):
        if not (value.isascii() and value.isdecimal()):
            raise InvalidParameter(f"invalid filter 'stars=[{value}]'")
        stars = max(stars, int(value))

    def keep(result: SearchResult) -> bool:
        return (
            (official is None or result.is_official == official)
            and (automated is None or result.is_automated == automated)
            and result.star_count >= stars
        )

    return keep


def _boolean(filters: Mapping[str, list[str]], name: str) -> bool | None:
    values = filters.get(name)
    if not values:
        return None
    found = {_BOOLEANS.get(value) for value in values}
    if len(found) != 1 or None in found:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return found.pop()


def _split_term(term: str) -> tuple[str, str]:
    if "://" in term:
        raise InvalidParameter(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return DEFAULT_DOMAIN, term.removeprefix("library/")
    domain = login_domain(first)
    return domain, rest.removeprefix("library/") if domain == DEFAULT_DOMAIN else rest


def _search_failure(status: int) -> ProaError:
    text = f"Unexpected status code {status}"
    return Unavailable(text) if status >= 500 else System(text)

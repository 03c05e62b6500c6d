"""URLs that are no registry's: what users name for imports and builds. Fetched as nobody, with our proxies.

User information in a URL is shown to the origin that it names, and to nobody along a redirect.

Source: moby daemon/builder/remotecontext/remote.go (GetWithStatusError).
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from proa.errors import (
    Forbidden,
    InvalidParameter,
    NotFound,
    ProaError,
    System,
    Unauthorized,
    Unavailable,
)
from proa.registry.connection import Broken
from proa.registry.exchange import Answer, Exchange
from proa.registry.failures import BODY_MAX, shown
from proa.registry.model import Interrupted, Remote
from proa.registry.origin import Target, parse_url
from proa.registry.response import Response, TooLarge

_BY_STATUS: dict[int, type[ProaError]] = {
    400: InvalidParameter,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
}


class Web:
    """GET of any URL."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Remote]:
        """See Registry.open_url."""
        target, headers = _target(url)
        answer = await self._exchange.fetch(target, headers)
        try:
            if answer.status != 200:
                raise await _refused(target, answer)
            modified = answer.response.headers.get("last-modified", "")
            yield Remote(answer.response.length, _body(target, answer.response), modified)
        finally:
            answer.response.close()


def _target(url: str) -> tuple[Target, tuple[tuple[str, str], ...]]:
    """Where a URL points, and the header of its user information. Raises InvalidParameter."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise InvalidParameter(f"invalid URL {url!r}: {exc}") from None
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return parse_url(url), ()
    name, _, password = userinfo.partition(":")
    shown_there = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return parse_url(parts._replace(netloc=host).geturl()), (("Authorization", f"Basic {shown_there}"),)


async def _body(target: Target, response: Response) -> AsyncIterator[bytes]:
    try:
        while data := await response.some():
            yield data
    except Broken as exc:
        raise Interrupted(f'Get "{target}": {exc}') from exc


async def _refused(target: Target, answer: Answer) -> ProaError:
    text = f"failed to GET {target} with status {answer.response.line}"
    try:
        body = await answer.response.read(BODY_MAX)
    except (Broken, TooLarge):
        return System(f"{text}: error reading body")
    kind = _BY_STATUS.get(answer.status, Unavailable if answer.status >= 500 else System)
    return kind(f"{text}: {shown(body.decode(errors='replace').strip())}")

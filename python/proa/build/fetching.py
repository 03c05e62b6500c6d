"""What builds fetch over HTTP: contexts, and the sources of ADD.

Redirects are followed; no credentials are ever sent. The HTTP library is imported on first use.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from proa.errors import InvalidParameter, Unavailable

_STEP = 1 << 16


class Head(Struct, frozen=True):
    """What an answer says of itself."""

    content_type: str
    etag: str
    last_modified: str


@asynccontextmanager
async def open_url(url: str) -> AsyncIterator[tuple[Head, AsyncIterator[bytes]]]:
    """(head, body) of a URL. Raises InvalidParameter for a bad answer, Unavailable for none."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=60)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status != 200:
                raise InvalidParameter(f"failed to fetch {url}: invalid response status {answer.status}")
            head = Head(
                answer.headers.get("Content-Type", ""),
                answer.headers.get("ETag", ""),
                answer.headers.get("Last-Modified", ""),
            )
            yield head, answer.content.iter_chunked(_STEP)
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Unavailable(f"failed to fetch {url}: {exc}") from exc

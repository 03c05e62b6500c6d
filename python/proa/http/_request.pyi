"""The types of the compiled parser; its text is in _request.pyx."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from proa.http._connection import Connection, Target

class HttpError(Exception):
    status: int
    def __init__(self, status: int, message: str) -> None: ...

class Request:
    """A request's head, and its body once the route said how to read it."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; repeated ones joined by a comma."""

    @property
    def route(self) -> Target: ...
    @property
    def name(self) -> str:
        """What the path holds where the route has a name, percent-decoded."""

    @property
    def minor(self) -> int:
        """The API version asked for is 1.<minor>."""

    @property
    def body(self) -> Any:
        """bytes, or a BodyStream where the route streams its body."""

    @property
    def connection(self) -> Connection: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...
    @property
    def length(self) -> int: ...
    @property
    def http10(self) -> bool: ...

class BodyStream(AsyncIterator[bytes]):
    async def __anext__(self) -> bytes: ...
    def lend(self) -> tuple[int, str, int, bytes] | None:
        """The socket in the middle of the body, for who reads it past the loop; see proa.feeding.Lender."""

    def take_back(self, state: tuple[str, int, bytes] | None) -> None:
        """What was lent, as far as it was read; None closes the connection."""

def parse_head(head: bytes) -> Request: ...

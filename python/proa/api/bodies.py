"""JSON bodies in, as dockerd takes them.

Strict and fast for what well-behaved clients send. Only where the strict decoding fails (keys in another
case, unknown ones, `null` for what is left out, a word for a list of words) is the body read again as Go
reads it. Source: moby daemon/server/httputils/httputils.go.
"""

from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from proa.api import gojson
from proa.errors import InvalidParameter
from proa.http._request import Request

T = TypeVar("T", bound=Struct)


class Body(Generic[T]):
    """The decoder of one body type, built once per module."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(gojson.exact(kind)).decode

    def read(self, request: Request) -> T:
        """Decode the request's body; an absent one gives the type's defaults. Raises InvalidParameter."""
        body: bytes = request.body
        check_content_type(request, body)
        if not body and not request.chunked:
            return self._kind()
        try:
            return self.decode(body)
        except InvalidParameter as exc:
            raise InvalidParameter(f"invalid JSON: {exc}") from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise invalid_json(body, exc) from exc
        except RecursionError as exc:
            raise InvalidParameter("invalid JSON: it is nested too deep") from exc

    def decode(self, data: bytes) -> T:
        """The value of a JSON text; raises as gojson.decode."""
        try:
            found: T = self._decode(data)
            return found
        except msgspec.ValidationError:
            return gojson.decode(data, self._kind)


def check_content_type(request: Request, body: bytes) -> None:
    """A body must say that it is JSON; raises InvalidParameter."""
    content_type = request.headers.get("content-type")
    if content_type == "application/json":
        return
    if content_type is None:
        if body:
            raise InvalidParameter("malformed Content-Type header (): mime: no media type")
        return
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidParameter(
            f"unsupported Content-Type header ({content_type}): must be 'application/json'"
        )


def invalid_json(body: bytes, error: Exception) -> InvalidParameter:
    """Docker's words for a body that is no JSON."""
    if not body.strip():
        return InvalidParameter("invalid JSON: got EOF while reading request body")
    if "trailing characters" in str(error):
        return InvalidParameter("unexpected content after JSON")
    return InvalidParameter(f"invalid JSON: {gojson.malformed(body, error)}")

"""JSON bodies in, as dockerd takes them.

Strict and fast for what well-behaved clients send. Go clients send `null` for what they leave out and a
string for a one-word list of words; only where the strict decoding fails is the body read again with those
put right. Source: moby daemon/server/httputils/httputils.go, api/types/strslice.
"""

from typing import Any, Generic, TypeVar

import msgspec

from proa.errors import InvalidParameter
from proa.http._request import Request

T = TypeVar("T")

WORD_LISTS = ("Cmd", "Entrypoint", "Shell")


class Body(Generic[T]):
    """The decoder of one body type, built once per module."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode

    def read(self, request: Request) -> T:
        """Decode the request's body; an absent one gives the type's defaults. Raises InvalidParameter."""
        body: bytes = request.body
        check_content_type(request, body)
        if not body and not request.chunked:
            return self._kind()
        try:
            try:
                return self._decode(body)
            except msgspec.ValidationError:
                return self._read_again(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise invalid_json(body, exc) from exc
        except RecursionError as exc:
            raise InvalidParameter("invalid JSON: it is nested too deep") from exc

    def _read_again(self, body: bytes) -> T:
        tree = msgspec.json.decode(body)
        if tree is None:
            return self._kind()
        if isinstance(tree, dict):
            for key in WORD_LISTS:
                if isinstance(tree.get(key), str):
                    tree[key] = [tree[key]]
        try:
            return msgspec.convert(without_nulls(tree), self._kind)
        except msgspec.ValidationError as exc:
            raise InvalidParameter(f"invalid JSON: {exc}") from exc


def without_nulls(tree: Any) -> Any:
    """The tree without the members of objects that are null."""
    if isinstance(tree, dict):
        return {key: without_nulls(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list):
        return [without_nulls(value) for value in tree]
    return tree


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
    return InvalidParameter(f"invalid JSON: {error}")

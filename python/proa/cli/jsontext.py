"""JSON through the interpreter's C accelerator alone: `import json` would cost more than a start does."""

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Context:
    """What the C scanner reads its settings from."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: "dict[str, str]" = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        """NaN and the infinities."""
        return float(name)


_scan: "Callable[[str, int], tuple[Any, int]]" = _json.make_scanner(_Context)  # type: ignore[arg-type]


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = _json.make_encoder(None, _unknown, _json.encode_basestring, None, ":", ",", False, False, True)


def decode(text: str | bytes) -> "Any":
    """The value that `text` holds. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return _scan(text.lstrip(), 0)[0]
    except StopIteration:
        raise ValueError(f"not JSON: {text[:80]!r}") from None


def decode_many(text: str) -> "tuple[list[Any], str]":
    """The whole values at the start of `text`, one after another, and what is left (an unfinished one)."""
    found: list[Any] = []
    position = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        try:
            value, position = _scan(text, position)
        except (StopIteration, ValueError):
            return found, text[position:]
        found.append(value)


def encode(value: object) -> bytes:
    """Compact JSON; a byte of the command line that is no UTF-8 becomes U+FFFD, as in Docker's CLI."""
    text: str = "".join(_encode(value, 0))
    if text.isascii():
        return text.encode()
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


def pretty(value: object, indent: str = "    ") -> str:
    """Indented JSON as Go prints it, for `inspect`."""
    return _pretty(value, indent, "")


def _pretty(value: object, indent: str, prefix: str) -> str:
    inner = prefix + indent
    if isinstance(value, dict) and value:
        rows = [f"{inner}{go(str(key))}: {_pretty(item, indent, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{prefix}}}"
    if isinstance(value, list) and value:
        rows = [inner + _pretty(item, indent, inner) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{prefix}]"
    return go(value)


def go(value: object) -> str:
    """Compact JSON in one line, as text."""
    return encode(value).decode()

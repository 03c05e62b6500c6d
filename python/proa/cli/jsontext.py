"""JSON without `import json`, which would cost more than a start does.

What a fast command sends is written here; everything else is the interpreter's C accelerator's, which is
imported when it is first needed: after the request, while the daemon works.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Scan = Callable[[str, int], tuple[Any, int]]
    Encode = Callable[[object, int], tuple[str, ...]]


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


_made: "list[tuple[Scan, Encode]]" = []


def accelerator() -> "tuple[Scan, Encode]":
    """The C scanner and encoder, made once."""
    if not _made:
        import _json

        encode = _json.make_encoder(
            None, _unknown, _json.encode_basestring, None, ":", ",", False, False, True
        )
        _made.append((_json.make_scanner(_Context), encode))  # type: ignore[arg-type]
    return _made[0]


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _plain(value: "Any") -> str | None:
    """Compact JSON of what needs no escapes; None for the rest."""
    kind = type(value)
    if kind is str:
        plain = value.isascii() and value.isprintable() and '"' not in value and "\\" not in value
        return f'"{value}"' if plain else None
    if kind is bool:
        return "true" if value else "false"
    if kind is int or value is None:
        return "null" if value is None else str(value)
    if kind is dict:
        parts = []
        for key, item in value.items():
            name, text = _plain(key), _plain(item)
            if name is None or text is None or type(key) is not str:
                return None
            parts.append(f"{name}:{text}")
        return f"{{{','.join(parts)}}}"
    if kind is list or kind is tuple:
        items = []
        for item in value:
            if (found := _plain(item)) is None:
                return None
            items.append(found)
        return f"[{','.join(items)}]"
    return None


def decode(text: str | bytes) -> "Any":
    """The value that `text` holds. Raises ValueError."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return accelerator()[0](text.lstrip(), 0)[0]
    except StopIteration:
        raise ValueError(f"not JSON: {text[:80]!r}") from None


def decode_many(text: str) -> "tuple[list[Any], str]":
    """The whole values at the start of `text`, one after another, and what is left (an unfinished one)."""
    scan, _ = accelerator()
    found: list[Any] = []
    position = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        try:
            value, position = scan(text, position)
        except (StopIteration, ValueError):
            return found, text[position:]
        found.append(value)


def encode(value: object) -> bytes:
    """Compact JSON; a byte of the command line that is no UTF-8 becomes U+FFFD, as in Docker's CLI."""
    plain = _plain(value)
    if plain is not None:
        return plain.encode()
    text = "".join(accelerator()[1](value, 0))
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

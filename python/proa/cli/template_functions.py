"""The functions of Docker's Go templates: text/template's own and those that Docker adds.

Source: the documentation of Go's text/template and fmt, and of Docker's formatting.
"""

from proa.cli.template_run import Missing, Null, Row, go_type, text_of, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def to_json(value: "Any") -> str:
    """`json`: one line, maps sorted; only a whole row has its HTML escaped, as in Docker's CLI."""
    from proa.cli.jsontext import go

    if isinstance(value, Row):
        text = go(value.as_dict())
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    if isinstance(value, (Missing, Null)):
        return "null"
    return go(_sorted(value))


# Fields that are maps in Go, which prints a map's keys in order; a struct's stay as they are.
_MAPS = frozenset(
    (
        "Annotations",
        "Attributes",
        "DriverOpts",
        "EndpointsConfig",
        "ExposedPorts",
        "Labels",
        "Networks",
        "Options",
        "PortBindings",
        "Ports",
        "Sysctls",
        "Tmpfs",
        "Volumes",
    )
)


def _sorted(value: "Any", key: str = "") -> "Any":
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_map = key in _MAPS or not any(name[:1].isupper() for name in value)
    return {name: _sorted(value[name], name) for name in (sorted(value) if is_map else value)}


def join(items: "Any", separator: str) -> str:
    """`join`."""
    if items is None:
        return ""
    if isinstance(items, dict):
        return separator.join(sorted(text_of(item) for item in items.values()))
    if not isinstance(items, (list, tuple)):
        raise TypeError(f"expected slice, got {go_type(items)}")
    return separator.join(text_of(item) for item in items)


def split(text: str, separator: str) -> list[str]:
    """`split`; Go splits by nothing into characters."""
    return text.split(separator) if separator else list(text)


def title(text: str) -> str:
    """`title`: a capital at the start of each word."""
    letters = []
    previous = " "
    for letter in text:
        letters.append(letter if previous.isalnum() or previous == "_" else letter.upper())
        previous = letter
    return "".join(letters)


def pad(text: str, before: int, after: int) -> str:
    """`pad`: spaces around a text that is not empty."""
    return " " * before + text + " " * after if text else text


def truncate(text: str, length: int) -> str:
    """`truncate`."""
    return text[:length]


def length(value: "Any") -> int:
    """`len`; a text's is in bytes."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, (list, tuple, dict)):
        return len(value)
    raise TypeError(f"len of {'nil pointer' if value is None else 'type ' + go_type(value)}")


def index(value: "Any", *keys: "Any") -> "Any":
    """`index`: nested lists and maps; a key that a map has not gives Go's zero."""
    for key in keys:
        if isinstance(value, dict):
            value = value[key] if key in value else _zero(value, str(key))
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int):
                raise TypeError(f"cannot index slice/array with type {go_type(key)}")
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value.encode()[key] if isinstance(value, str) else value[key]
        elif value is None or isinstance(value, (Missing, Null)):
            raise TypeError("index of untyped nil")
        else:
            raise TypeError(f"can't index item of type {go_type(value)}")
    return value


def _zero(mapping: "dict[str, Any]", key: str) -> "Any":
    """What a map gives for a key that it has not: the zero of its values' type."""
    texts = all(isinstance(value, str) for value in mapping.values())
    return "" if texts else Missing(key)


def cut(value: "Any", *bounds: int) -> "Any":
    """`slice`."""
    if not isinstance(value, (list, tuple, str)):
        raise TypeError(f"can't slice item of type {go_type(value)}")
    first, last = (*bounds, *((0, len(value))[len(bounds) :]))[:2]
    if not 0 <= first <= last <= len(value):
        raise IndexError(f"index out of range: {last if last > len(value) else first}")
    return value[first:last]


def printf(pattern: str, *values: "Any") -> str:
    """`printf`: Go's verbs over Python's formats."""
    out: list[str] = []
    left = list(values)
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char != "%":
            out.append(char)
            continue
        start = position
        while position < len(pattern) and pattern[position] in "+-# 0123456789.":
            position += 1
        verb = pattern[position : position + 1]
        flags = pattern[start:position]
        position += 1
        if verb == "%":
            out.append("%")
        elif not left:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(verb, flags, left.pop(0)))
    if left:
        extra = ", ".join(f"{go_type(value)}={text_of(value)}" for value in left)
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _verb(verb: str, flags: str, value: "Any") -> str:
    from proa.cli.values import go_quote

    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        verb == "v"
        or (verb == "s" and not isinstance(value, (bool, int, float)))
        or (verb == "t" and isinstance(value, bool))
    ):
        return f"%{flags}s" % text_of(value)
    if verb == "q" and isinstance(value, str):
        return f"%{flags}s" % go_quote(value)
    if verb in "doxX" and isinstance(value, int) and not isinstance(value, bool):
        return f"%{flags}{verb}" % value
    if verb in "xX" and isinstance(value, str):
        return f"%{flags}s" % value.encode().hex()
    if verb in "eEfFgG" and number:
        return str(f"%{flags}{verb}" % value)
    if verb == "T":
        return go_type(value)
    if verb == "c" and isinstance(value, int):
        return chr(value)
    return f"%!{verb}({go_type(value)}={text_of(value)})"


def show(*values: "Any") -> str:
    """`print`: a space between two neighbours of which neither is a text."""
    out = ""
    for position, value in enumerate(values):
        if position and not isinstance(value, str) and not isinstance(values[position - 1], str):
            out += " "
        out += text_of(value)
    return out


def println(*values: "Any") -> str:
    """`println`."""
    return " ".join(text_of(value) for value in values) + "\n"


def equal(first: "Any", *others: "Any") -> bool:
    """`eq`: the first equals one of the others."""
    if not others:
        raise TypeError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(first: "Any", second: "Any") -> bool:
    if first is None or second is None:
        return first is second
    kinds = {_kind(first), _kind(second)}
    if len(kinds) > 1:
        raise TypeError("incompatible types for comparison")
    return bool(first == second)


def _kind(value: "Any") -> str:
    return (
        "bool"
        if isinstance(value, bool)
        else "number"
        if isinstance(value, (int, float))
        else type(value).__name__
    )


def less(first: "Any", second: "Any") -> bool:
    """`lt`."""
    if _kind(first) != _kind(second):
        raise TypeError("incompatible types for comparison")
    return bool(first < second)


def html(*values: "Any") -> str:
    """`html`."""
    text = show(*values).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&#34;").replace("'", "&#39;")


_JS = {**{code: f"\\u{code:04X}" for code in (*range(32), *b"<>&=")}, 34: '\\"', 39: "\\'", 92: "\\\\"}


def js(*values: "Any") -> str:
    """`js`."""
    return show(*values).translate(_JS)


def urlquery(*values: "Any") -> str:
    """`urlquery`."""
    from proa.cli.transport import quote

    return quote(show(*values)).replace("%20", "+")


FUNCTIONS: "dict[str, Callable[..., Any]]" = {
    "and": lambda *values: None,
    "or": lambda *values: None,
    "not": lambda value: not truth(value),
    "eq": equal,
    "ne": lambda first, second: not _same(first, second),
    "lt": less,
    "le": lambda first, second: less(first, second) or _same(first, second),
    "gt": lambda first, second: less(second, first),
    "ge": lambda first, second: not less(first, second),
    "html": html,
    "index": index,
    "join": join,
    "js": js,
    "json": to_json,
    "len": length,
    "lower": str.lower,
    "pad": pad,
    "print": show,
    "printf": printf,
    "println": println,
    "slice": cut,
    "split": split,
    "title": title,
    "truncate": truncate,
    "upper": str.upper,
    "urlquery": urlquery,
}

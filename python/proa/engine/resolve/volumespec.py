"""The short syntax of `-v`: `[source:]target[:mode,...]`, and what else names mounts in one string.

Source: moby's volume/mounts/linux_parser.go.
"""

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.schema.plan import Propagation

_PROPAGATION: dict[str, Propagation] = {
    "private": "private",
    "rprivate": "rprivate",
    "shared": "shared",
    "rshared": "rshared",
    "slave": "slave",
    "rslave": "rslave",
}
_GROUPS: tuple[frozenset[str], ...] = (
    frozenset({"ro", "rw"}),
    frozenset({"z", "Z"}),
    frozenset(_PROPAGATION),
    frozenset({"nocopy"}),
    frozenset({"consistent", "cached", "delegated"}),
)


class Mode(Struct, frozen=True, kw_only=True):
    """The last part of a volume specification."""

    text: str = ""
    readonly: bool = False
    nocopy: bool = False
    propagation: Propagation | None = None


class Specification(Struct, frozen=True, kw_only=True):
    """One `-v`; an empty source is an anonymous volume, a relative one a volume's name."""

    source: str
    target: str
    mode: Mode = Mode()


def parse_mode(text: str) -> Mode:
    """Each kind of option at most once; raises InvalidParameter for anything else."""
    words = text.split(",") if text else []
    seen: set[int] = set()
    for word in words:
        group = next((n for n, members in enumerate(_GROUPS) if word in members), None)
        if group is None or group in seen:
            raise InvalidParameter(f"invalid mode: {text}")
        seen.add(group)
    return Mode(
        text=text,
        readonly="ro" in words,
        nocopy="nocopy" in words,
        propagation=next((_PROPAGATION[w] for w in words if w in _PROPAGATION), None),
    )


def parse_specification(raw: str) -> Specification:
    """Take one `-v` apart; the paths are still as written."""
    parts = raw.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) > 1 and not parts[1]):
        raise InvalidParameter(f"invalid volume specification: '{raw}'")
    if len(parts) == 1:
        return Specification(source="", target=parts[0])
    if len(parts) == 2:
        if not parts[1].startswith("/") and _is_mode(parts[1]):
            raise InvalidParameter(f"invalid volume specification: '{raw}'")
        return Specification(source=parts[0], target=parts[1])
    return Specification(source=parts[0], target=parts[1], mode=parse_mode(parts[2]))


def parse_volumes_from(spec: str) -> tuple[str, Mode]:
    """`container[:mode]`."""
    if not spec:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    container, _, mode = spec.partition(":")
    parsed = parse_mode(mode)
    if parsed.nocopy or parsed.propagation:
        raise InvalidParameter(f"invalid mode: {mode}")
    return container, parsed


def propagation(name: str) -> Propagation | None:
    """A propagation by name; None for none. Raises InvalidParameter."""
    if not name:
        return None
    if name not in _PROPAGATION:
        raise InvalidParameter(f"invalid propagation mode: {name}")
    return _PROPAGATION[name]


def _is_mode(text: str) -> bool:
    try:
        parse_mode(text)
    except InvalidParameter:
        return False
    return True

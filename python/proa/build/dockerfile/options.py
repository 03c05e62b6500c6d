"""`--name=value` before an instruction's arguments. Error texts as BuildKit has them."""

import enum
from collections.abc import Mapping, Sequence

from proa.build.words import meant
from proa.errors import InvalidParameter


class Kind(enum.Enum):
    """What an option takes."""

    TEXT = enum.auto()
    FLAG = enum.auto()
    LIST = enum.auto()


class Options:
    """The options that were given."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """The value, or nothing."""
        return self._values.get(name, [""])[-1]

    def list(self, name: str) -> tuple[str, ...]:
        """Every value, in order."""
        return tuple(self._values.get(name, ()))

    def flag(self, name: str) -> bool:
        """Whether it is on."""
        return self.text(name) == "true"

    def maybe(self, name: str) -> bool | None:
        """Whether it is on; None where it was not given."""
        return self.flag(name) if name in self._values else None


def read_options(words: Sequence[str], known: Mapping[str, Kind]) -> Options:
    """Read the words that begin with `--`. Raises InvalidParameter."""
    values: dict[str, list[str]] = {}
    for word in words:
        shown, equals, value = word.partition("=")
        name = shown[2:]
        kind = known.get(name)
        if kind is None:
            raise InvalidParameter(f"unknown flag: {shown}{meant(name, known)}")
        if name in values and kind is not Kind.LIST:
            raise InvalidParameter(f"duplicate flag specified: {shown}")
        if kind is Kind.FLAG:
            value = _truth(shown, value if equals else "true")
        elif not equals:
            raise InvalidParameter(f"missing a value on flag: {shown}")
        values.setdefault(name, []).append(value)
    return Options(values)


def _truth(shown: str, value: str) -> str:
    if not value:
        raise InvalidParameter(f"missing a value on flag: {shown}")
    if value.lower() not in ("true", "false"):
        raise InvalidParameter(f"expecting boolean value for flag {shown}, not: {value}")
    return value.lower()

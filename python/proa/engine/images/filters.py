"""Filters of image list and prune, in Docker's words. Pure but for the clock.

Source: moby daemon/images/images.go and image_prune.go; Go's path.Match for patterns of names.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from proa.durations import parse_duration
from proa.engine.images.records import ImageRecord, parse_time
from proa.engine.images.store import ImageStore
from proa.errors import InvalidParameter
from proa.schema.reference import Reference

LIST_FILTERS: Final = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
PRUNE_FILTERS: Final = frozenset(("dangling", "label", "label!", "until"))

Test = Callable[[ImageRecord, Sequence[Reference]], bool]
"""Whether an image with these names is asked for."""


def check_keys(filters: Mapping[str, Sequence[str]], accepted: frozenset[str]) -> None:
    """Raises InvalidParameter for a filter that is not known."""
    for key in filters:
        if key not in accepted:
            raise InvalidParameter(f"invalid filter '{key}'")


def tests(store: ImageStore, filters: Mapping[str, Sequence[str]]) -> list[Test]:
    """One test for each filter but `dangling` and `reference`; an image must pass them all.

    Raises InvalidParameter, NotFound (before, since).
    """
    return [_test(store, key, values) for key, values in filters.items() if values and key in _TESTED]


_TESTED: Final = frozenset(("label", "label!", "before", "since", "until"))


def _test(store: ImageStore, key: str, values: Sequence[str]) -> Test:
    if key == "label":
        return lambda image, _: all(has_label(image, value) for value in values)
    if key == "label!":
        return lambda image, _: not any(has_label(image, value) for value in values)
    if key == "since":
        start = max(store.resolve(value).created_ns for value in values)
        return lambda image, _: image.created_ns > start
    if key == "before":
        end = min(store.resolve(value).created_ns for value in values)
    else:
        end = min(parse_until(value) for value in values)
    return lambda image, _: image.created_ns < end


def boolean(filters: Mapping[str, Sequence[str]], key: str) -> bool | None:
    """A filter that is true or false; None where it is not given. Raises InvalidParameter."""
    values = filters.get(key) or ()
    if not values:
        return None
    truth = {_BOOLEANS.get(value) for value in values}
    if len(truth) != 1 or None in truth:
        raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")
    return truth.pop()


_BOOLEANS: Final = {"1": True, "t": True, "true": True, "True": True, "TRUE": True} | {
    "0": False,
    "f": False,
    "false": False,
    "False": False,
    "FALSE": False,
}


def has_label(image: ImageRecord, wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    labels = image.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def parse_until(text: str) -> int:
    """A point in time in nanoseconds: Unix seconds, a date, or a duration ago."""
    number, dot, fraction = text.partition(".")
    if number.isascii() and number.isdigit() and (not dot or (fraction.isascii() and fraction.isdigit())):
        return int(number) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}.*", text):
        moment = parse_time(text)
        if not moment:
            try:
                moment = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9
            except ValueError as exc:
                raise InvalidParameter(f"invalid until filter: {text}") from exc
        return moment
    return time.time_ns() - parse_duration(text)


def matches_reference(reference: Reference, patterns: Sequence[str]) -> bool:
    """Docker's FamiliarMatch: the pattern is for the familiar form, with or without the tag."""
    bare = reference.familiar_name
    return any(
        compiled.fullmatch(reference.familiar) or compiled.fullmatch(bare)
        for compiled in map(glob_pattern, patterns)
    )


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression: `*` and `?` do not match a slash. Raises InvalidParameter.

    What stands between two stars is found where it is first, and not looked for again: so the time is the
    product of the lengths, whatever the pattern.
    """
    parts: list[str] = []
    star = -1
    rest = pattern
    while rest:
        character, rest = rest[0], rest[1:]
        if character == "*":
            if star >= 0:
                parts[star:] = ["(?>", "[^/]*?", *parts[star + 1 :], ")"]
            star = len(parts)
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            body, closed, rest = rest.partition("]")
            if not closed or not body or body == "^":
                raise InvalidParameter("syntax error in pattern")
            negated = body.startswith("^")
            inside = body.removeprefix("^").replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
            parts.append(f"[{'^' if negated else ''}{inside}]")
        elif character == "\\":
            if not rest:
                raise InvalidParameter("syntax error in pattern")
            parts.append(re.escape(rest[0]))
            rest = rest[1:]
        else:
            parts.append(re.escape(character))
    try:
        return re.compile("".join(parts))
    except re.error as exc:
        raise InvalidParameter("syntax error in pattern") from exc

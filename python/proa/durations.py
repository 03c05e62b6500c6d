"""Lengths of time as text: for people, and as Go writes them.

`ps` imports this: no `typing` here. Source: docker/go-units duration.go; Go's time.ParseDuration.
"""

from proa.errors import InvalidParameter

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def duration(seconds: float) -> str:
    """`Less than a second` ... `3 years`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_duration(text: str) -> int:
    """A Go duration (`1h30m`, `-1.5s`) in nanoseconds, within int64. Raises InvalidParameter."""
    rest, total = text.removeprefix("-" if text.startswith("-") else "+"), 0.0
    bad = InvalidParameter(f'time: invalid duration "{text}"')
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next(
            (unit for unit in ("ns", "us", "µs", "ms", "s", "m", "h") if rest[digits:].startswith(unit)), ""
        )
        if digits and not unit:
            raise _unitless(text, rest[digits:])
        try:
            total += float(rest[:digits]) * _UNITS[unit]
        except (ValueError, KeyError):
            raise bad from None
        rest = rest[digits + len(unit) :]
    if text in ("", "-", "+") or total >= 1 << 63:
        raise bad
    return -round(total) if text.startswith("-") else round(total)


def _unitless(text: str, rest: str) -> InvalidParameter:
    """A number without a unit, or with one that Go does not know."""
    end = next((at for at, letter in enumerate(rest) if letter in "0123456789."), len(rest))
    if not (unit := rest[:end]):
        return InvalidParameter(f'time: missing unit in duration "{text}"')
    return InvalidParameter(f'time: unknown unit "{unit}" in duration "{text}"')


def go_duration(ns: int) -> str:
    """Nanoseconds as Go writes them: `1h2m3.5s`, `100ms`, `0s`."""
    if ns < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if ns >= size:
                return f"{_decimal(ns, size)}{unit}"
        return "0s"
    hours, rest = divmod(ns, 3600 * 10**9)
    minutes, rest = divmod(rest, 60 * 10**9)
    text = f"{hours}h" if hours else ""
    return text + (f"{minutes}m" if hours or minutes else "") + f"{_decimal(rest, 10**9)}s"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = f"{part:0{len(str(unit)) - 1}d}".rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)

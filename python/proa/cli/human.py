"""Durations and sizes in words, as Docker prints them.

Source: the observed output of docker 28 (and Go's time.Time.String).
"""

import time

from proa.durations import duration

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def ago(unix_seconds: float) -> str:
    """`5 minutes ago`."""
    return f"{duration(time.time() - unix_seconds)} ago"


def timestamp(unix_seconds: int) -> str:
    """Go's `2006-01-02 15:04:05 -0700 MST`, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(unix_seconds))


def rfc3339(unix_seconds: int) -> str:
    """`2006-01-02T15:04:05Z`, in local time."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(unix_seconds))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"


def go_time(text: str) -> str:
    """An RFC 3339 time in UTC as Go prints it."""
    if not text.endswith("Z"):
        return text
    whole, _, fraction = text[:-1].replace("T", " ").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}{'.' if fraction else ''}{fraction} +0000 UTC"


def _scaled(size: float, base: float, units: tuple[str, ...]) -> tuple[float, str]:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return size, units[index]


def decimal_size(size: float, precision: int = 4) -> str:
    """`4.26MB`: powers of 1000, significant digits."""
    amount, unit = _scaled(size, 1000.0, _DECIMAL)
    return f"{significant(amount, precision)}{unit}"


def binary_size(size: float) -> str:
    """`1.914GiB`: powers of 1024."""
    amount, unit = _scaled(size, 1024.0, _BINARY)
    return f"{significant(amount, 4)}{unit}"


def significant(number: float, precision: int) -> str:
    """C's %g, with Go's exponent."""
    return f"{number:.{precision}g}"


def short_id(identifier: str) -> str:
    """The first twelve digits, without `sha256:`."""
    return identifier.partition(":")[2][:12] if ":" in identifier else identifier[:12]


def ellipsis(text: str, width: int) -> str:
    """At most `width` columns."""
    if text.isascii():
        return text if len(text) <= width else text[: width - 1] + "…"
    from unicodedata import east_asian_width

    used = 0
    for position, letter in enumerate(text):
        used += 2 if east_asian_width(letter) in "WF" else 1
        if used > width:
            return text[: max(position - 1, 1)] + "…"
    return text


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time with nanoseconds; 0 for Go's zero time. Raises ValueError."""
    import datetime

    if not text or text.startswith("0001-"):
        return 0.0
    base, dot, fraction = text.partition(".")
    if dot:
        digits = len(fraction) - len(fraction.lstrip("0123456789"))
        zone, fraction = fraction[digits:], fraction[:digits]
    else:
        zone = ""
    moment = datetime.datetime.fromisoformat((base + zone).replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)

"""The query string, read as dockerd reads it.

Source: moby daemon/server/httputils/form.go (bools), api/types/filters (filters), api/types/time
(timestamps).
"""

import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

import msgspec

from proa.api.ports import Filters
from proa.durations import parse_duration
from proa.errors import InvalidParameter

_FALSE = frozenset(("", "0", "no", "false", "none"))
_decode_filters = msgspec.json.Decoder(dict[str, Any]).decode

_INTEGER = re.compile(r"[+-]?[0-9]+")
_LARGEST = (1 << 63) - 1
"""Go's int64: what comes out of here is also SQLite's and the native core's."""

_SECONDS = re.compile(r"(-?\d+)(?:\.(\d{1,9})\d*)?\Z")
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d(?::\d\d(?::\d\d)?)?)(?:\.(\d{1,9})\d*)?)?(Z|[+-]\d\d:\d\d)?\Z"
)


class Query:
    """The parameters of one request; keys may repeat."""

    __slots__ = ("_values",)

    def __init__(self, raw: str) -> None:
        self._values: dict[str, list[str]] = {}
        if not raw:
            return
        for pair in raw.split("&"):
            key, _, value = pair.partition("=")
            if "%" in pair or "+" in pair:
                key, value = unquote_plus(key), unquote_plus(value)
            if key:
                self._values.setdefault(key, []).append(value)

    def text(self, key: str) -> str:
        """The first value, or empty."""
        values = self._values.get(key)
        return values[0] if values else ""

    def texts(self, key: str) -> list[str]:
        """Every value."""
        return self._values.get(key, [])

    def optional(self, key: str) -> str | None:
        """The first value, None where there is none or it is empty."""
        return self.text(key) or None

    def flag(self, key: str, default: bool = False) -> bool:
        """A bool: anything but empty, 0, no, false and none is true."""
        values = self._values.get(key)
        return default if values is None else values[0].strip().lower() not in _FALSE

    def number(self, key: str) -> int | None:
        """An integer, None where there is none; raises InvalidParameter."""
        value = self.text(key)
        if not value:
            return None
        if not _INTEGER.fullmatch(value):
            raise InvalidParameter(f'strconv.Atoi: parsing "{value}": invalid syntax')
        if len(value) > 20 or not -_LARGEST <= int(value) <= _LARGEST:
            raise InvalidParameter(f'strconv.Atoi: parsing "{value}": value out of range')
        return int(value)

    def size(self, key: str, what: str) -> int:
        """A terminal's dimension (uint32); raises InvalidParameter."""
        value = self.text(key)
        if not (value.isascii() and value.isdigit() and len(value) < 11 and int(value) < 1 << 32):
            raise InvalidParameter(f'invalid resize {what} "{value}": invalid syntax')
        return int(value)

    def time_ns(self, key: str) -> int:
        """A moment in nanoseconds since the epoch, 0 for none; raises InvalidParameter."""
        value = self.text(key)
        if not value or value == "0":
            return 0
        try:
            moment = parse_time(value, time.time_ns())
            return max(-_LARGEST, min(moment, _LARGEST))
        except (ValueError, OverflowError) as exc:
            raise InvalidParameter(f'invalid value for "{key}": {exc}') from exc

    def filters(self) -> Filters:
        """The `filters` parameter, in its map or its older list form; raises InvalidParameter."""
        value = self.text("filters")
        if not value or value == "{}":
            return {}
        try:
            return {key: _filter_values(values) for key, values in _decode_filters(value).items()}
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise InvalidParameter("invalid filter") from None


def _filter_values(values: Any) -> list[str]:
    """`{"a": true}` or `["a"]` to the list of values."""
    if isinstance(values, dict | list) and all(isinstance(value, str) for value in values):
        return list(values)
    raise InvalidParameter("invalid filter")


def parse_time(value: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of `seconds[.nanos]`, an RFC 3339 time or a Go duration before now."""
    if match := _SECONDS.match(value):
        nanos = int((match[2] or "").ljust(9, "0"))
        return int(match[1]) * 10**9 + nanos
    if match := _RFC3339.match(value):
        day, clock, fraction, zone = match.groups()
        clock = (clock or "00:00:00").ljust(8)
        clock = {2: clock[:2] + ":00:00", 5: clock[:5] + ":00"}.get(len(clock.rstrip()), clock)
        moment = datetime.fromisoformat(f"{day}T{clock}{zone or ''}")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
    try:
        return now_ns - parse_duration(value)
    except InvalidParameter:
        raise ValueError(f'failed to parse value as time or duration: "{value}"') from None

"""Times as Docker writes them: RFC 3339 with nanoseconds, and lengths of time for people.

Source: Go's time.RFC3339Nano.
"""

import time

from proa.durations import duration

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: never."""


def rfc3339(ns: int) -> str:
    """Unix nanoseconds in UTC, trailing zeros of the fraction cut off; 0 is never."""
    if not ns:
        return ZERO
    seconds, fraction = divmod(ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def human(ns: int) -> str:
    """A length of time: `3 seconds`, `About an hour`, `2 weeks`."""
    return duration(ns / 1_000_000_000)

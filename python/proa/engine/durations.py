"""Times as Docker writes them: RFC 3339 with nanoseconds, and lengths of time for people.

Source: Go's time.RFC3339Nano; docker/go-units duration.go.
"""

import time

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
    seconds = ns // 1_000_000_000
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    return _days(hours)


def _days(hours: int) -> str:
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"

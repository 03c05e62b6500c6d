"""Words of Dockerfiles and image configurations: repositories, ports, signals, and lists as Go writes them.

Source: the Dockerfile reference, EXPOSE and STOPSIGNAL; Go's fmt.
"""

import re
import signal
import sys
from collections.abc import Iterable, Sequence

from proa.durations import go_duration
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig

_GIT = re.compile(r"(?:git|ssh)://|git@[\w.-]+:|https?://[^#?]+\.git(?:[#?]|$)")
_BARE_GIT = re.compile(r"(?:github|gitlab)\.com/")
_PROTOCOLS = frozenset(("tcp", "udp", "sctp"))


def exposed_ports(words: Iterable[str]) -> list[str]:
    """`80/tcp` of each port of `80`, `80-82/udp`, sorted by word. Raises InvalidParameter."""
    return [port for word in words for port in _ports(word)]


def _ports(word: str) -> Iterable[str]:
    numbers, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    # An address or a port of the host before it is passed over, as Docker does.
    numbers = numbers.rpartition(":")[2]
    first, dash, last = numbers.partition("-")
    if not (_is_number(first) and (not dash or _is_number(last))):
        raise InvalidParameter(f"invalid containerPort: {numbers}")
    if protocol not in _PROTOCOLS:
        raise InvalidParameter(f'invalid port: "{word}": invalid proto: {protocol}')
    low, high = int(first), int(last or first)
    if not 0 < low <= high <= 65535:
        raise InvalidParameter(f"invalid containerPort: {numbers}")
    return (f"{port}/{protocol}" for port in range(low, high + 1))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6


def is_git(url: str) -> bool:
    """Whether a URL names a repository."""
    return bool(_GIT.match(url)) or is_bare_git(url)


def is_bare_git(url: str) -> bool:
    """Whether it does so without saying by which protocol."""
    return bool(_BARE_GIT.match(url))


def is_signal(name: str) -> bool:
    """Whether a signal has this name or number."""
    if name.isascii() and name.isdigit():
        return 0 < int(name) < signal.NSIG
    bare = name.upper().removeprefix("SIG")
    return f"SIG{bare}" in signal.Signals.__members__ or bool(re.fullmatch(r"RTM(IN|AX)([+-]\d+)?", bare))


_ESCAPES = {
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def go_quoted(text: str, mark: str = '"') -> str:
    """Go's %q of a string, or of a rune with the mark `'`."""
    shown = (_escaped(letter, mark) for letter in text)
    return f"{mark}{''.join(shown)}{mark}"


def _escaped(letter: str, mark: str) -> str:
    if letter in _ESCAPES or letter == mark:
        return _ESCAPES.get(letter, f"\\{letter}")
    if letter.isprintable():
        return letter
    number = ord(letter)
    return (
        f"\\x{number:02x}"
        if number < 0x80
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def meant(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` where one of the known words is at most two letters away, in the case of `word`.

    Source: BuildKit util/suggest.
    """
    low = {name.lower(): name for name in known}
    name = low.get(nearest(word.lower(), low), "")
    return f" (did you mean {name.upper() if word.isupper() else name}?)" if name else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is at most two letters away, and not the same; empty where there is none."""
    near = [(_distance(word, name), name) for name in known]
    distance, name = min(near, default=(3, ""))
    return name if 0 < distance < 3 else ""


def _distance(a: str, b: str) -> int:
    """Of Levenshtein."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != other))
    return row[-1]


def go_list(words: Sequence[str]) -> str:
    """Go's %q of a list: `["a" "b"]`."""
    return "[" + " ".join(map(go_quoted, words)) + "]"


def shown_health(check: HealthConfig) -> str:
    """Go's %q of a health check, in which a number of retries is the character that has it."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(go_quoted(go_duration(time)) for time in times)
    # What is no character, Go shows as the one that stands for that.
    retries = go_quoted(chr(check.retries) if check.retries <= sys.maxunicode else "\ufffd", "'")
    return f"&{{{go_list(check.test or ())} {shown} {retries}}}"

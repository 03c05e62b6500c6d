"""Patterns of .dockerignore and `--exclude`: which paths of a tree are left out.

    *.o          in the root only         **/*.o     at any depth
    /a, a, a/    the same                 !keep      takes back what patterns before it left out

A path is left out when the last pattern that fits it, or a directory above it, is not a `!` one.

Source: the Docker build reference, "Build context", ".dockerignore files".
"""

import posixpath
import re
from collections.abc import Iterable

from msgspec import Struct

from proa.errors import InvalidParameter


class _Pattern(Struct, frozen=True):
    match: re.Pattern[str]
    takes_back: bool
    fixed: str
    """What stands before the first wildcard."""


class Patterns:
    """An ordered list of patterns.

    Asked top-down: a directory's answer (`Fit`) is handed in for what lies in it, so that each path is
    matched once, not once a directory above it.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises InvalidParameter for a malformed one."""
        self._patterns = [found for text in patterns if (found := _read(text)) is not None]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def fit(self, path: str, above: int = 0) -> tuple[bool, int]:
        """(left out, bits to hand in for what lies below). `path` is relative, with slashes, without `.`."""
        left_out = False
        bits = 0
        for index, pattern in enumerate(self._patterns):
            bit = 1 << index
            if above & bit or pattern.match.fullmatch(path):
                bits |= bit
                left_out = not pattern.takes_back
        return left_out, bits

    def leaves_out(self, path: str) -> bool:
        """Whether a path, given without what is above it, is left out."""
        bits, left_out, at = 0, False, 0
        while at >= 0:
            at = path.find("/", at + 1)
            left_out, bits = self.fit(path if at < 0 else path[:at], bits)
        return left_out

    def may_take_back(self, directory: str) -> bool:
        """Whether something below a directory that is left out could still be wanted."""
        below = directory + "/"
        return any(
            pattern.takes_back and (pattern.fixed.startswith(below) or below.startswith(pattern.fixed))
            for pattern in self._patterns
        )


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a .dockerignore file: comments and white space gone, paths cleaned."""
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern[len(mark) :].strip()
        if pattern:
            pattern = posixpath.normpath(pattern)
            # posixpath keeps two leading slashes.
            pattern = ("/" + pattern.lstrip("/")) if pattern.startswith("/") else pattern
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        found.append(mark + pattern)
    return found


def _read(text: str) -> _Pattern | None:
    pattern = text.strip()
    if not pattern:
        return None
    takes_back = pattern.startswith("!")
    if takes_back:
        pattern = pattern[1:]
        if not pattern:
            raise InvalidParameter('illegal exclusion pattern: "!"')
    pattern = posixpath.normpath(pattern).lstrip("/")
    fixed = re.split(r"[*?\[\\]", pattern, maxsplit=1)[0]
    return _Pattern(_compiled(pattern), takes_back, fixed if fixed != pattern else pattern + "/")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile("".join(_pieces(pattern)))
    except re.error as exc:
        raise InvalidParameter(f'error parsing pattern "{pattern}": syntax error in pattern') from exc


def _pieces(pattern: str) -> Iterable[str]:
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            # `**/` is as good as `**`, and at the end it stands for anything.
            at += pattern.startswith("/", at)
            yield "(?:.*/)?" if at < len(pattern) else ".*"
        elif character == "*":
            yield "[^/]*"
        elif character == "?":
            yield "[^/]"
        elif character == "\\":
            if at == len(pattern):
                raise re.error("nothing follows the backslash")
            yield re.escape(pattern[at])
            at += 1
        elif character == "[":
            end = _end_of_set(pattern, at)
            yield "[" + pattern[at:end].replace("[", "\\[") + "]"
            at = end + 1
        else:
            yield re.escape(character)


def _end_of_set(pattern: str, at: int) -> int:
    end = at
    while end < len(pattern) and (pattern[end] != "]" or end == at):
        end += 2 if pattern[end] == "\\" else 1
    if end >= len(pattern):
        raise re.error("missing ]")
    return end

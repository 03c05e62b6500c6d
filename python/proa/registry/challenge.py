"""What a registry asks for with 401: the WWW-Authenticate header, read. Pure.

Source: RFC 9110, section 11; distribution docs/content/spec/auth/token.md.
"""

import re
from typing import Final

from msgspec import Struct

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|$|(?=,))")
_CHALLENGES_MAX: Final = 16


class Challenge(Struct, frozen=True):
    """One scheme (lower case) and its parameters (names in lower case)."""

    scheme: str
    parameters: dict[str, str]

    def get(self, name: str) -> str:
        """A parameter, empty where it is not told."""
        return self.parameters.get(name, "")


def parse_challenges(header: str) -> list[Challenge]:
    """Every challenge of a header; what does not parse ends the list."""
    found: list[Challenge] = []
    position = 0
    while position < len(header) and len(found) < _CHALLENGES_MAX:
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        position = scheme.end()
        parameters: dict[str, str] = {}
        while match := _PARAMETER.match(header, position):
            quoted = match[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match[3]
            parameters.setdefault(match[1].lower(), value)
            position = match.end()
            if header[position : position + 1] != ",":
                break
            position += 1
        found.append(Challenge(scheme[1].lower(), parameters))
        if header[position : position + 1] == ",":
            position += 1
    return found


def scope(path: str, *actions: str) -> str:
    """A token's scope for a repository: `repository:library/busybox:pull,push`."""
    return f"repository:{path}:{','.join(actions)}"

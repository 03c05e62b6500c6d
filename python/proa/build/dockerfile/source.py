"""Where in a Dockerfile something stands, and how an error shows the place."""

from typing import NamedTuple

from proa.errors import InvalidParameter

_AROUND_ONE, _AROUND_MORE = 4, 2
"""How much is shown around one line at fault, and around several; a round counts one more than its lines."""


class Location(NamedTuple):
    """Lines of a file, counted from 1, both inclusive."""

    start: int
    end: int


class DockerfileError(InvalidParameter):
    """A Dockerfile that cannot be used, and the lines at fault."""

    def __init__(self, message: str, location: Location) -> None:
        super().__init__(message)
        self.location = location


def parse_error(message: str, location: Location) -> DockerfileError:
    """The error of a line that cannot be read, in Docker's words."""
    return DockerfileError(f"dockerfile parse error on line {location.start}: {message}", location)


def excerpt(name: str, text: str, location: Location) -> str:
    """The lines around `location`, numbered, the ones at fault marked: what stands before an error.

    Source: BuildKit solver/errdefs/source.go.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    first, last = location.start, min(location.end, len(lines))
    left = _AROUND_ONE if first == last else _AROUND_MORE
    while left > 0:
        more = (first > 1, last < len(lines))
        first, last = first - more[0], last + more[1]
        left -= 1 + sum(more)
    rule = "-" * 20
    shown = [f"{name}:{location.start}", rule]
    for number in range(first, last + 1):
        mark = ">>>" if location.start <= number <= location.end else "   "
        shown.append(f" {number:3} | {mark} {lines[number - 1]}")
    return "\n".join((*shown, rule)) + "\n"

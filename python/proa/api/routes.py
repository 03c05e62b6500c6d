"""From method and path to a handler: a table compiled once.

A path is a fixed one, or `/first/{name}`, or `/first/{name}/last` with one or two segments in `last`; the
name may hold slashes (image names).
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from proa.api.ports import Engine
from proa.api.responses import LATEST_MINOR, OLDEST_MINOR, Response
from proa.errors import InvalidParameter, NotFound, ProaError
from proa.http._request import Request

Handler = Callable[[Engine, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint, and how the connection is to treat its requests."""

    method: str
    path: str
    handler: Handler
    streams_body: bool = False
    hijacks: bool = False


class Router:
    """The table; `resolve` never fails, a refusal is a route too."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[tuple[str, str], Route] = {}
        self._ending: dict[tuple[str, str, str], Route] = {}
        self._named: dict[tuple[str, str], Route] = {}
        for route in routes:
            self._add(route, route.path[1:].split("/"))

    def _add(self, route: Route, segments: Sequence[str]) -> None:
        if len(segments) > 1 and segments[1] == "{name}":
            if len(segments) == 2:
                self._named[route.method, segments[0]] = route
            else:
                self._ending[route.method, segments[0], "/".join(segments[2:])] = route
        else:
            self._exact[route.method, route.path] = route

    def resolve(self, method: str, path: str) -> tuple[Route, str, int]:
        """(route, name in the path, API minor version)."""
        minor = LATEST_MINOR
        if path.startswith("/v") and path[2:3].isdigit():
            version, slash, rest = path[2:].partition("/")
            if slash:
                path = "/" + rest
                try:
                    minor = api_minor(version)
                except ProaError as error:
                    return refusal(error), "", LATEST_MINOR
        route = self._exact.get((method, path))
        if route is not None:
            return route, "", minor
        first, _, rest = path[1:].partition("/")
        name, _, last = rest.rpartition("/")
        route = self._ending.get((method, first, last)) if name else None
        if route is None and name:
            name, _, before = name.rpartition("/")
            route = self._ending.get((method, first, f"{before}/{last}")) if name else None
        if route is None:
            name = rest
            route = self._named.get((method, first)) if name else None
        if route is None:
            return PAGE_NOT_FOUND, "", minor
        return route, unquote(name) if "%" in name else name, minor


def api_minor(version: str) -> int:
    """The minor number of an API version between the oldest and the latest; raises InvalidParameter."""
    major, _, minor = version.partition(".")
    # isdigit alone takes "²", of which int() makes nothing.
    if not (version.isascii() and major.isdigit() and minor.isdigit() and len(version) < 16):
        raise InvalidParameter(f"invalid API version: {version}")
    number = (int(major), int(minor))
    if number < (1, OLDEST_MINOR):
        raise InvalidParameter(
            f"client version {version} is too old. Minimum supported API version is 1.{OLDEST_MINOR}, "
            "please upgrade your client to a newer version"
        )
    if number > (1, LATEST_MINOR):
        raise InvalidParameter(
            f"client version {version} is too new. Maximum supported API version is 1.{LATEST_MINOR}"
        )
    return number[1]


def refusal(error: ProaError) -> Route:
    """A route that answers with `error`."""

    async def refuse(engine: Engine, request: Request) -> Response:
        raise error

    return Route("", "", refuse)


PAGE_NOT_FOUND = refusal(NotFound("page not found"))

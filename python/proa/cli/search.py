"""`search`.

Source: the Docker Engine API, v1.51, ImageSearch; the observed output of docker 28.
"""

from proa.cli.credentials import header_line, header_of
from proa.cli.flags import Command, Parsed
from proa.cli.human import ellipsis
from proa.cli.lists import filters
from proa.cli.table import Format, render, show
from proa.cli.transport import client, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TABLE = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
_HEADERS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
}
_WIDTH = 45

_FLAGS = (
    ("filter", "f", "filter", "", "Filter output based on conditions provided"),
    ("format", "", "string", "", "Pretty-print search using a Go template"),
    ("limit", "", "int", "", "Max number of search results"),
    ("no-trunc", "", "bool", "", "Don't truncate output"),
)


def search(parsed: Parsed) -> int:
    """`proa search`."""
    term = parsed.args[0]
    wanted = query(term=term, limit=parsed.get("limit", 0) or None, filters=filters(parsed))
    header = header_line(header_of(_domain(term), parsed.options))
    found = client(parsed.options).call("GET", f"/images/search{wanted}", extra=header) or []
    form = Format(parsed.get("format"), _TABLE)
    columns = _fields(not parsed.flag("no-trunc"), parsed.get("format") == "json")
    show(render(found, form, columns, _HEADERS))
    return 0


def _domain(term: str) -> str:
    first, slash, _ = term.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def _fields(short: bool, as_json: bool) -> "dict[str, Callable[[Any], Any]]":
    def description(row: "dict[str, Any]") -> str:
        text = str(row.get("description") or "").replace("\n", " ").replace("\r", " ")
        return ellipsis(text, _WIDTH) if short else text

    def official(row: "dict[str, Any]") -> str:
        if as_json:
            return "true" if row.get("is_official") else "false"
        return "[OK]" if row.get("is_official") else ""

    return {
        "Name": lambda row: row.get("name", ""),
        "Description": description,
        "StarCount": lambda row: str(row.get("star_count") or 0),
        "IsOfficial": official,
    }


COMMANDS = {
    "search": Command(
        "search", "[OPTIONS] TERM", "Search Docker Hub for images", search, _FLAGS, minimum=1, maximum=1
    )
}

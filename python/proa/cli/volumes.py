"""The `volume` group: ls, create, rm.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

from proa.cli import human
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import FORMAT_HELP, configured, filters
from proa.cli.table import Format, labels, render, show
from proa.cli.transport import client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TABLE = "table {{.Driver}}\t{{.Name}}"

HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Group": "GROUP",
    "Availability": "AVAILABILITY",
    "Status": "STATUS",
}

_LIST_FLAGS = (
    ("filter", "f", "filter", "", 'Provide filter values (e.g. "dangling=true")'),
    ("format", "", "string", "", FORMAT_HELP),
    ("quiet", "q", "bool", "", "Only display volume names"),
)

_CREATE_FLAGS = (
    ("driver", "d", "string", '"local"', "Specify volume driver name"),
    ("label", "", "list:label", "", "Set metadata for a volume"),
    ("name", "", "string", "", "!Specify volume name"),
    ("opt", "o", "map", "map[]", "Set driver specific options"),
)


def _usage(row: "dict[str, Any]", key: str) -> int | None:
    value = (row.get("UsageData") or {}).get(key, -1)
    return None if value == -1 else int(value)


def _links(row: "dict[str, Any]") -> str:
    count = _usage(row, "RefCount")
    return "N/A" if count is None else str(count)


def _size(row: "dict[str, Any]") -> str:
    size = _usage(row, "Size")
    return "N/A" if size is None else human.decimal_size(size)


FIELDS: "dict[str, Callable[[Any], Any]]" = {
    "Name": lambda row: row["Name"],
    "Driver": lambda row: row.get("Driver", ""),
    "Scope": lambda row: row.get("Scope", ""),
    "Mountpoint": lambda row: row.get("Mountpoint", ""),
    "Labels": lambda row: labels(row.get("Labels")),
    "Links": _links,
    "Size": _size,
    "Group": lambda row: "N/A",
    "Availability": lambda row: "N/A",
    "Status": lambda row: "N/A",
}


def list_volumes(parsed: Parsed) -> int:
    """`proa volume ls`."""
    source = parsed.get("format")
    quiet = parsed.flag("quiet")
    if not source and not quiet:
        source = configured(parsed.options, "volumesFormat")
    raw = "name: {{.Name}}" if quiet else "name: {{.Name}}\ndriver: {{.Driver}}\n"
    form = Format("{{.Name}}", "") if quiet and source in ("", "table") else Format(source, _TABLE, raw)
    answer = client(parsed.options).call("GET", f"/volumes{query(filters=filters(parsed))}")
    found = sorted(answer.get("Volumes") or [], key=lambda volume: volume["Name"])
    calls = {"Label": lambda row, name: (row.get("Labels") or {}).get(name, "")}
    show(render(found, form, FIELDS, HEADERS, calls, "*formatter.volumeContext"))
    return 0


def create(parsed: Parsed) -> int:
    """`proa volume create`."""
    name = parsed.get("name")
    if parsed.args:
        if name:
            raise Failure(
                "conflicting options: cannot specify a volume-name through both --name "
                "and as a positional arg"
            )
        name = parsed.args[0]
    body = {
        "Name": name,
        "Driver": parsed.get("driver", "local"),
        "DriverOpts": parsed.get("opt", {}),
        "Labels": dict(text.partition("=")[::2] for text in parsed.get("label", ())),
    }
    show(client(parsed.options).call("POST", "/volumes/create", body)["Name"] + "\n")
    return 0


def remove(parsed: Parsed) -> int:
    """`proa volume rm`."""
    from proa.cli.containers import for_each

    wanted = query(force=parsed.flag("force"))
    return for_each(parsed, "DELETE", [(name, f"/volumes/{quote(name)}{wanted}") for name in parsed.args])


COMMANDS = {
    "volume ls": Command(
        "volume ls",
        "[OPTIONS]",
        "List volumes",
        list_volumes,
        _LIST_FLAGS,
        maximum=0,
        aliases="volume ls, volume list",
    ),
    "volume create": Command(
        "volume create", "[OPTIONS] [VOLUME]", "Create a volume", create, _CREATE_FLAGS, maximum=1
    ),
    "volume rm": Command(
        "volume rm",
        "[OPTIONS] VOLUME [VOLUME...]",
        "Remove one or more volumes",
        remove,
        (("force", "f", "bool", "", "Force the removal of one or more volumes"),),
        minimum=1,
        aliases="volume rm, volume remove",
        long="Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    ),
}

"""`ps`: the list of containers.

Source: the Docker Engine API, v1.51, ContainerList; the observed output of docker 28.
"""

import posix

from proa.cli import human
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import FORMAT_HELP, configured, filters
from proa.cli.table import Format, labels, render, show
from proa.cli.template import TemplateError
from proa.cli.template_run import Template
from proa.cli.transport import client, query
from proa.cli.values import go_quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_RAW = (
    "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n"
    "state: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\n"
    "labels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n"
)
_TABLE = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"

HEADERS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}

_FLAGS = (
    ("all", "a", "bool", "", "Show all containers (default shows just running)"),
    ("filter", "f", "filter", "", "Filter output based on conditions provided"),
    ("format", "", "string", "", FORMAT_HELP),
    ("last", "n", "int", "-1", "Show n last created containers (includes all states)"),
    ("latest", "l", "bool", "", "Show the latest created container (includes all states)"),
    ("no-trunc", "", "bool", "", "Don't truncate output"),
    ("quiet", "q", "bool", "", "Only display container IDs"),
    ("size", "s", "bool", "", "Display total file sizes"),
)


def ps(parsed: Parsed) -> int:
    """`proa ps`."""
    source = parsed.get("format")
    quiet = parsed.flag("quiet")
    if not source and not quiet:
        source = configured(parsed.options, "psFormat")
    size = parsed.flag("size")
    if quiet and source:
        posix.write(2, b"WARNING: Ignoring custom format, because both --format and --quiet are set.\n")
    if quiet and source != "raw":
        form = Format("{{.ID}}", "")
    else:
        raw = "container_id: {{.ID}}" if quiet else _RAW + ("size: {{.Size}}\n" if size else "")
        form = Format(source, _TABLE + ("\t{{.Size}}" if size else ""), raw)
    try:
        Template(form.source)
    except TemplateError as exc:
        raise Failure(f"failed to parse template: {exc}") from None
    last = parsed.get("last", -1)
    if parsed.flag("latest") and last == -1:
        last = 1
    wanted = query(
        all=parsed.flag("all") or None,
        limit=last if last > 0 else None,
        size=size or ".Size" in form.source or None,
        filters=filters(parsed),
    )
    found = client(parsed.options).call("GET", f"/containers/json{wanted}") or []
    shown = fields(not parsed.flag("no-trunc"))
    show(render(found, form, shown, HEADERS, {"Label": _label}, "*formatter.ContainerContext"))
    return 0


def _label(container: "dict[str, Any]", name: str) -> str:
    return str((container.get("Labels") or {}).get(name, ""))


def fields(short: bool) -> "dict[str, Callable[[Any], Any]]":
    """What a row of the list has; `short` truncates ids, commands and the like."""
    return {
        "ID": lambda row: human.short_id(row["Id"]) if short else row["Id"],
        "Names": lambda row: names(row, short),
        "Image": lambda row: image(row, short),
        "Command": lambda row: go_quote(human.ellipsis(row["Command"], 20) if short else row["Command"]),
        "CreatedAt": lambda row: human.timestamp(row["Created"]),
        "RunningFor": lambda row: human.ago(row["Created"]),
        "Ports": lambda row: ports(row.get("Ports") or []),
        "State": lambda row: row.get("State", ""),
        "Status": lambda row: row.get("Status", ""),
        "Size": size_of,
        "Labels": lambda row: labels(row.get("Labels")),
        "Mounts": lambda row: mounts(row, short),
        "LocalVolumes": lambda row: str(
            sum(1 for mount in row.get("Mounts") or () if mount.get("Driver") == "local")
        ),
        "Networks": lambda row: ",".join((row.get("NetworkSettings") or {}).get("Networks") or {}),
        "Platform": lambda row: None,
    }


def names(row: "dict[str, Any]", short: bool) -> str:
    """The names, or the one that is no legacy link."""
    found = [name.removeprefix("/") for name in row.get("Names") or ()]
    if short:
        return next((name for name in found if "/" not in name), "")
    return ",".join(found)


def image(row: "dict[str, Any]", short: bool) -> str:
    """The image as the container was created with."""
    reference: str = row.get("Image", "")
    if not reference:
        return "<no image>"
    if not short:
        return reference
    if reference.startswith("sha256:") or human.short_id(row.get("ImageID", "")) == human.short_id(reference):
        return human.short_id(reference)
    from proa.cli.reference import familiar_repository, split

    repository, tag, _ = split(reference)
    name = familiar_repository(repository)
    return f"{name}:{tag}" if tag else name


def size_of(row: "dict[str, Any]") -> str:
    """`2B (virtual 4.26MB)`."""
    text = human.decimal_size(row.get("SizeRw") or 0, 3)
    root = row.get("SizeRootFs") or 0
    return f"{text} (virtual {human.decimal_size(root, 3)})" if root > 0 else text


def mounts(row: "dict[str, Any]", short: bool) -> str:
    """Volumes' names and binds' sources."""
    found = [mount.get("Name") or mount.get("Source", "") for mount in row.get("Mounts") or ()]
    return ",".join(human.ellipsis(name, 15) if short else name for name in found)


def ports(found: "list[dict[str, Any]]") -> str:
    """`0.0.0.0:80->80/tcp, 9000-9002/tcp`: adjacent ports are one range."""
    ordered = sorted(
        found,
        key=lambda port: (port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]),
    )
    groups: dict[str, list[int]] = {}
    done: list[str] = []
    moved: list[str] = []
    for port in ordered:
        number, kind, address = port["PrivatePort"], port["Type"], port.get("IP", "")
        key = kind
        if address:
            if port.get("PublicPort") != number:
                moved.append(f"{_join(address, str(port.get('PublicPort', 0)))}->{number}/{kind}")
                continue
            key = f"{address}/{kind}"
        group = groups.get(key)
        if group is not None and number == group[1] + 1:
            group[1] = number
            continue
        if group is not None:
            done.append(_range(key, group))
        groups[key] = [number, number]
    return ", ".join([*done, *(_range(key, group) for key, group in groups.items()), *moved])


def _range(key: str, group: list[int]) -> str:
    first, last = group
    address, _, kind = key.rpartition("/")
    text = str(first) if first == last else f"{first}-{last}"
    return f"{_join(address, text)}->{text}/{kind}" if address else f"{text}/{kind}"


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


COMMANDS = {
    "ps": Command(
        "ps",
        "[OPTIONS]",
        "List containers",
        ps,
        _FLAGS,
        maximum=0,
        aliases="container ls, container list, container ps, ps",
    ),
}

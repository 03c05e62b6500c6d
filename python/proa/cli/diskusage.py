"""`system df`: what the daemon has on disk, by kind or one by one.

Source: the Docker Engine API, v1.51, SystemDataUsage; the observed output of docker 28.
"""

from proa.cli import human, images, ps, volumes
from proa.cli.flags import Command, Parsed
from proa.cli.lists import FORMAT_HELP
from proa.cli.system import render as render_template
from proa.cli.system import template
from proa.cli.table import Format, render, show
from proa.cli.transport import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TABLE = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"

_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}

_FIELDS: "dict[str, Callable[[Any], Any]]" = {
    "Active": lambda row: str(row["active"]),
    "Reclaimable": lambda row: row["reclaimable"],
    "Size": lambda row: human.decimal_size(row["size"]),
    "TotalCount": lambda row: str(row["count"]),
    "Type": lambda row: row["type"],
}

_IMAGE_TABLE = (
    "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}"
    "\t{{.Containers}}"
)
_CONTAINER_TABLE = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}"
    "\t{{.Names}}"
)
_VOLUME_TABLE = "table {{.Name}}\t{{.Links}}\t{{.Size}}"
_CACHE_TABLE = (
    "table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}"
    "\t{{.Shared}}"
)
_CACHE_HEADERS = {
    "ID": "CACHE ID",
    "CacheType": "CACHE TYPE",
    "Size": "SIZE",
    "CreatedSince": "CREATED",
    "LastUsedSince": "LAST USED",
    "UsageCount": "USAGE",
    "Shared": "SHARED",
}
_ALIVE = frozenset(("running", "paused", "restarting"))


_RAW = (
    "type: {{.Type}}\ntotal: {{.TotalCount}}\nactive: {{.Active}}\n"
    "size: {{.Size}}\nreclaimable: {{.Reclaimable}}\n"
)


def df(parsed: Parsed) -> int:
    """`proa system df`."""
    source, verbose = parsed.get("format"), parsed.flag("verbose")
    wanted = template(source) if verbose and source not in ("", "table") else None
    found: dict[str, Any] = client(parsed.options).call("GET", "/system/df")
    if wanted is not None:
        show(render_template(wanted, _listed(found)) + "\n")
    elif verbose:
        show(_tables(found))
    else:
        rows = [_images(found), _containers(found), _volumes(found), _cache(found)]
        form = Format(source, _TABLE, _RAW)
        show(render(rows, form, _FIELDS, _HEADERS, kind="*formatter.diskUsageContext"))
    return 0


# ---- one line a kind ----------------------------------------------------------------------------


def _row(kind: str, count: int, active: int, size: int, free: int) -> "dict[str, Any]":
    share = f" ({free * 100 // size}%)" if size > 0 else ""
    return {
        "type": kind,
        "count": count,
        "active": active,
        "size": size,
        "reclaimable": f"{human.decimal_size(free)}{share}",
    }


def _images(found: "dict[str, Any]") -> "dict[str, Any]":
    rows = found.get("Images") or []
    used = [row for row in rows if row.get("Containers")]
    kept = sum(row["Size"] - row["SharedSize"] for row in used if -1 not in (row["Size"], row["SharedSize"]))
    size = found.get("LayersSize") or 0
    active = sum(row.get("Containers", 0) > 0 for row in rows)
    return _row("Images", len(rows), active, size, size - kept)


def _containers(found: "dict[str, Any]") -> "dict[str, Any]":
    rows = found.get("Containers") or []
    idle = [row for row in rows if row.get("State") not in _ALIVE]
    size, free = (sum(row.get("SizeRw") or 0 for row in some) for some in (rows, idle))
    return _row("Containers", len(rows), len(rows) - len(idle), size, free)


def _volumes(found: "dict[str, Any]") -> "dict[str, Any]":
    rows = [row.get("UsageData") or {} for row in found.get("Volumes") or ()]
    size = sum(max(row.get("Size", 0), 0) for row in rows)
    free = sum(max(row.get("Size", 0), 0) for row in rows if not row.get("RefCount"))
    return _row("Local Volumes", len(rows), sum(row.get("RefCount", 0) > 0 for row in rows), size, free)


def _cache(found: "dict[str, Any]") -> "dict[str, Any]":
    rows = found.get("BuildCache") or []
    own = [row for row in rows if not row.get("Shared")]
    size = sum(row.get("Size", 0) for row in own)
    free = sum(row.get("Size", 0) for row in own if not row.get("InUse"))
    active = sum(bool(row.get("InUse")) for row in rows)
    return {**_row("Build Cache", len(rows), active, size, free), "reclaimable": human.decimal_size(free)}


# ---- one by one ---------------------------------------------------------------------------------


def _image_rows(found: "dict[str, Any]") -> "list[dict[str, Any]]":
    return [row for image in found.get("Images") or () for row in images.rows_of(image, False, False)]


def _container_rows(found: "dict[str, Any]") -> "list[dict[str, Any]]":
    return [{**row, "SizeRootFs": 0} for row in found.get("Containers") or ()]


def _cache_fields(short: bool) -> "dict[str, Callable[[Any], Any]]":
    return {
        "ID": lambda row: row["ID"][:12] if short else row["ID"],
        "CacheType": lambda row: row.get("Type", ""),
        "Size": lambda row: human.decimal_size(row.get("Size", 0), 3),
        "CreatedSince": lambda row: human.ago(human.parse_time(row["CreatedAt"])),
        "LastUsedSince": lambda row: (
            human.ago(human.parse_time(row["LastUsedAt"])) if row.get("LastUsedAt") else ""
        ),
        "UsageCount": lambda row: str(row.get("UsageCount", 0)),
        "Shared": lambda row: str(bool(row.get("Shared"))).lower(),
    }


def _tables(found: "dict[str, Any]") -> str:
    def table(rows: "list[Any]", source: str, fields: "Any", headers: dict[str, str]) -> str:
        return render(rows, Format(source, ""), fields, headers)

    return "".join(
        (
            "Images space usage:\n\n",
            table(_image_rows(found), _IMAGE_TABLE, images.fields(True), images.HEADERS),
            "\nContainers space usage:\n\n",
            table(_container_rows(found), _CONTAINER_TABLE, ps.fields(True), ps.HEADERS),
            "\nLocal Volumes space usage:\n\n",
            table(found.get("Volumes") or [], _VOLUME_TABLE, volumes.FIELDS, volumes.HEADERS),
            f"\nBuild cache usage: {human.decimal_size(_cache(found)['size'])}\n\n",
            table(found.get("BuildCache") or [], _CACHE_TABLE, _cache_fields(True), _CACHE_HEADERS),
        )
    )


def _listed(found: "dict[str, Any]") -> "dict[str, Any]":
    """Everything as a template sees it: words, not numbers."""

    def words(rows: "list[Any]", fields: "dict[str, Callable[[Any], Any]]") -> "list[dict[str, Any]]":
        return [{name: fields[name](row) for name in sorted(fields)} for row in rows]

    return {
        "Images": words(_image_rows(found), images.fields(False)),
        "Containers": words(_container_rows(found), ps.fields(False)),
        "Volumes": words(found.get("Volumes") or [], volumes.FIELDS),
        "BuildCache": words(found.get("BuildCache") or [], _cache_fields(False)),
    }


COMMANDS = {
    "system df": Command(
        "system df",
        "[OPTIONS]",
        "Show docker disk usage",
        df,
        (
            ("format", "", "string", "", FORMAT_HELP),
            ("verbose", "v", "bool", "", "Show detailed information on space usage"),
        ),
        maximum=0,
    )
}

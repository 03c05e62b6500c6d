"""`stats`: the resource usage of containers, redrawn as it changes.

Source: the Docker Engine API, v1.51, ContainerStats; the observed output of docker 28.
"""

from proa.cli import human
from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.jsontext import decode
from proa.cli.lists import FORMAT_HELP, configured
from proa.cli.table import Format, render, show
from proa.cli.transport import Client, client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TABLE = (
    "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
)

_HEADERS = {
    "Container": "CONTAINER",
    "Name": "NAME",
    "ID": "CONTAINER ID",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}

_FLAGS = (
    ("all", "a", "bool", "", "Show all containers (default shows just running)"),
    ("format", "", "string", "", FORMAT_HELP),
    ("no-stream", "", "bool", "", "Disable streaming stats and only pull the first result"),
    ("no-trunc", "", "bool", "", "Do not truncate output"),
)

REFRESH_MS = 1000

AT_ONCE = 100


def stats(parsed: Parsed) -> int:
    """`proa stats`."""
    import select

    api = client(parsed.options)
    source = parsed.get("format") or configured(parsed.options, "statsFormat")
    form = Format(source, _TABLE)
    columns = fields(not parsed.flag("no-trunc"))
    previous: dict[str, Any] = {}
    names = list(parsed.args)
    first = True
    while True:
        samples = _collect(api, names or _names(api, parsed.flag("all")), strict=bool(names) and first)
        for sample in samples:
            _fill_previous(sample, previous)
        text = render(samples, form, columns, _HEADERS)
        if parsed.flag("no-stream"):
            show(text if samples or names or form.table else "")
            return 0
        first = False
        show("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in text.splitlines()) + "\x1b[J")
        if names and not samples:
            return 0
        select.poll().poll(REFRESH_MS)


def _names(api: Client, everything: bool) -> list[str]:
    found = api.call("GET", f"/containers/json{query(all=everything or None)}") or []
    return [container["Id"] for container in found]


def _collect(api: Client, names: list[str], strict: bool) -> "list[dict[str, Any]]":
    """One sample of each, all asked for at once; when `strict`, Failure for a name that is not there."""
    samples, errors = [], []
    while names:
        batch, names = names[:AT_ONCE], names[AT_ONCE:]
        sent = [(name, api.send("GET", f"/containers/{quote(name)}/stats?stream=0")) for name in batch]
        for name, connection in sent:
            try:
                response = api.receive(connection)
                text = response.read()
                api.release(response)
            except DaemonError as exc:
                errors.append(str(exc))
                continue
            sample = decode(text)
            sample["asked"] = name
            samples.append(sample)
    if strict and errors:
        raise Failure("\n".join(errors))
    return samples


def _fill_previous(sample: "dict[str, Any]", previous: "dict[str, Any]") -> None:
    """A daemon that keeps no earlier sample gets the one from the last round."""
    key = sample.get("id") or sample["asked"]
    before = sample.get("precpu_stats") or {}
    if not (before.get("system_cpu_usage") or 0) and key in previous:
        sample["precpu_stats"] = previous[key]
    previous[key] = sample.get("cpu_stats") or {}


def cpu_percent(sample: "dict[str, Any]") -> float:
    """Of one processor: 200 when two are busy."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}

    def total(stats: "dict[str, Any]") -> int:
        return (stats.get("cpu_usage") or {}).get("total_usage") or 0

    used = total(now) - total(before)
    passed = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    processors = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or ())
    return used / passed * processors * 100.0 if used > 0 and passed > 0 else 0.0


def memory_used(sample: "dict[str, Any]") -> int:
    """Bytes, without the cache that would be given back under pressure."""
    memory = sample.get("memory_stats") or {}
    usage = memory.get("usage") or 0
    detail = memory.get("stats") or {}
    inactive = detail.get("total_inactive_file")
    if inactive is None or inactive >= usage:
        inactive = detail.get("inactive_file") or 0
    return usage - inactive if inactive < usage else usage


def _limit(sample: "dict[str, Any]") -> int:
    return (sample.get("memory_stats") or {}).get("limit") or 0


def _memory_percent(sample: "dict[str, Any]") -> float:
    limit = _limit(sample)
    return memory_used(sample) / limit * 100.0 if limit else 0.0


def _network(sample: "dict[str, Any]") -> str:
    interfaces = (sample.get("networks") or {}).values()
    received, sent = (sum(item.get(key) or 0 for item in interfaces) for key in ("rx_bytes", "tx_bytes"))
    return f"{human.decimal_size(received, 3)} / {human.decimal_size(sent, 3)}"


def _block(sample: "dict[str, Any]") -> str:
    read = written = 0
    for entry in (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        operation = entry.get("op", "")[:1].lower()
        read += entry["value"] if operation == "r" else 0
        written += entry["value"] if operation == "w" else 0
    return f"{human.decimal_size(read, 3)} / {human.decimal_size(written, 3)}"


def fields(short: bool) -> "dict[str, Callable[[Any], Any]]":
    """What a row has."""
    return {
        "Container": lambda row: row["asked"],
        "Name": lambda row: (row.get("name") or "").removeprefix("/") or "--",
        "ID": lambda row: human.short_id(row.get("id") or "") if short else row.get("id") or "",
        "CPUPerc": lambda row: f"{cpu_percent(row):.2f}%",
        "MemUsage": lambda row: f"{human.binary_size(memory_used(row))} / {human.binary_size(_limit(row))}",
        "MemPerc": lambda row: f"{_memory_percent(row):.2f}%",
        "NetIO": _network,
        "BlockIO": _block,
        "PIDs": lambda row: str((row.get("pids_stats") or {}).get("current") or 0),
    }


COMMANDS = {
    "stats": Command(
        "stats",
        "[OPTIONS] [CONTAINER...]",
        "Display a live stream of container(s) resource usage statistics",
        stats,
        _FLAGS,
        aliases="container stats, stats",
    ),
}

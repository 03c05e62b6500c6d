"""Prunes: of containers, images, networks, volumes, and of all of them.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

import os

from proa.cli import human
from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import filters
from proa.cli.table import show
from proa.cli.transport import Client, client, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = ("keep-storage", "reserved-space", "max-used-space", "min-free-space")
_UNTIL = ("filter", "", "filter", "", 'Provide filter values (e.g. "until=<timestamp>")')
_LABEL = ("filter", "", "filter", "", 'Provide filter values (e.g. "label=<label>")')
_FORCE = ("force", "f", "bool", "", "Do not prompt for confirmation")


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but y or Y is no."""
    show(f"{question} [y/N] ")
    answer = b""
    while not answer.endswith(b"\n") and (letter := os.read(0, 1)):
        answer += letter
    return answer.strip().lower() in (b"y", b"yes")


def _ask(parsed: Parsed, what: str, kind: str) -> None:
    if parsed.flag("force"):
        return
    if not confirm(f"WARNING! This will remove {what}.\nAre you sure you want to continue?"):
        raise Failure(f"{kind} prune has been cancelled")


def _containers(api: Client, wanted: str | None) -> tuple[str, int]:
    """(what to print, bytes reclaimed), as the other kinds below."""
    found = api.call("POST", f"/containers/prune{query(filters=wanted)}") or {}
    deleted = found.get("ContainersDeleted") or []
    text = "Deleted Containers:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""
    return text, found.get("SpaceReclaimed") or 0


def _images(api: Client, wanted: str | None) -> tuple[str, int]:
    found = api.call("POST", f"/images/prune{query(filters=wanted)}") or {}
    lines = [
        f"untagged: {item['Untagged']}\n" if item.get("Untagged") else f"deleted: {item['Deleted']}\n"
        for item in found.get("ImagesDeleted") or ()
    ]
    return "Deleted Images:\n" + "".join(lines) if lines else "", found.get("SpaceReclaimed") or 0


def _networks(api: Client, wanted: str | None) -> tuple[str, int]:
    found = api.call("POST", f"/networks/prune{query(filters=wanted)}") or {}
    deleted = found.get("NetworksDeleted") or []
    return "Deleted Networks:\n" + "".join(f"{item}\n" for item in deleted) if deleted else "", 0


def _volumes(api: Client, wanted: str | None) -> tuple[str, int]:
    found = api.call("POST", f"/volumes/prune{query(filters=wanted)}") or {}
    deleted = found.get("VolumesDeleted") or []
    text = "Deleted Volumes:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""
    return text, found.get("SpaceReclaimed") or 0


def _print(text: str, space: int) -> int:
    show((f"{text}\n" if text else "") + f"Total reclaimed space: {human.decimal_size(space)}\n")
    return 0


def builder(parsed: Parsed) -> int:
    """`proa builder prune`."""
    everything = parsed.flag("all")
    _ask(parsed, "all build cache" if everything else "all dangling build cache", "build cache")
    space = {name: parsed.get(name) or None for name in _SPACE}
    return _print(*_cache(client(parsed.options), filters(parsed), everything, space))


def _cache(
    api: Client, wanted: str | None, everything: bool, space: "dict[str, Any] | None" = None
) -> tuple[str, int]:
    asked = query(all=everything, filters=wanted, **(space or {}))
    found = api.call("POST", f"/build/prune{asked}") or {}
    deleted = found.get("CachesDeleted") or []
    text = "Deleted build cache objects:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""
    return text, found.get("SpaceReclaimed") or 0


def containers(parsed: Parsed) -> int:
    """`proa container prune`."""
    _ask(parsed, "all stopped containers", "container")
    return _print(*_containers(client(parsed.options), filters(parsed)))


def images(parsed: Parsed) -> int:
    """`proa image prune`."""
    everything = parsed.flag("all")
    what = (
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )
    _ask(parsed, what, "image")
    dangling = {"dangling": {"false" if everything else "true": True}}
    return _print(*_images(client(parsed.options), filters(parsed, **dangling)))


def networks(parsed: Parsed) -> int:
    """`proa network prune`."""
    _ask(parsed, "all custom networks not used by at least one container", "network")
    text, _ = _networks(client(parsed.options), filters(parsed))
    show(f"{text}\n" if text else "")
    return 0


def volumes(parsed: Parsed) -> int:
    """`proa volume prune`."""
    more: dict[str, dict[str, bool]] = {"all": {"true": True}} if parsed.flag("all") else {}
    what = "all" if more else "anonymous local"
    _ask(parsed, f"{what} volumes not used by at least one container", "volume")
    return _print(*_volumes(client(parsed.options), filters(parsed, **more)))


def system(parsed: Parsed) -> int:
    """`proa system prune`."""
    everything, with_volumes = parsed.flag("all"), parsed.flag("volumes")
    if not parsed.flag("force"):
        _ask_system(parsed, everything, with_volumes)
    api = client(parsed.options)
    wanted = filters(parsed)
    dangling = filters(parsed, dangling={"false" if everything else "true": True})
    steps: list[tuple[Any, str | None]] = [(_containers, wanted), (_networks, wanted)]
    if with_volumes:
        steps.append((_volumes, wanted))
    steps.append((_images, dangling))
    total = 0
    for step, chosen in steps:
        try:
            text, space = step(api, chosen)
        except DaemonError as exc:
            # A kind that this daemon cannot prune yet is no reason not to prune the others.
            if exc.status not in (404, 405, 501):
                raise
            continue
        total += space
        show(f"{text}\n" if text else "")
    show(f"Total reclaimed space: {human.decimal_size(total)}\n")
    return 0


def _ask_system(parsed: Parsed, everything: bool, with_volumes: bool) -> None:
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if with_volumes:
        lines.append("all anonymous volumes not used by at least one container")
    lines.append(
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )
    text = "WARNING! This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    chosen = [f"{name}={value}" for name, values in parsed.get("filter", {}).items() for value in values]
    if chosen:
        text += "\n  Items to be pruned will be filtered with:\n" + "".join(
            f"  - {item}\n" for item in chosen
        )
    if not confirm(f"{text}\nAre you sure you want to continue?"):
        raise Failure("system prune has been cancelled")


def _command(path: str, short: str, run: "Any", *flags: tuple[str, str, str, str, str]) -> Command:
    return Command(f"{path} prune", "[OPTIONS]", short, run, (*flags, _FORCE), maximum=0)


COMMANDS = {
    "builder prune": _command(
        "builder",
        "Remove build cache",
        builder,
        ("all", "a", "bool", "", "Remove all unused build cache, not just dangling ones"),
        ("filter", "", "filter", "", 'Provide filter values (e.g. "until=24h")'),
        ("keep-storage", "", "bytes", "", "Amount of disk space to keep for cache"),
        ("reserved-space", "", "bytes", "", "Amount of disk space always allowed to keep for cache"),
        ("max-used-space", "", "bytes", "", "Maximum amount of disk space allowed to keep for cache"),
        ("min-free-space", "", "bytes", "", "Target amount of free disk space after pruning"),
    ),
    "container prune": _command("container", "Remove all stopped containers", containers, _UNTIL),
    "image prune": _command(
        "image",
        "Remove unused images",
        images,
        ("all", "a", "bool", "", "Remove all unused images, not just dangling ones"),
        _UNTIL,
    ),
    "network prune": _command("network", "Remove all unused networks", networks, _UNTIL),
    "volume prune": _command(
        "volume",
        "Remove unused local volumes",
        volumes,
        ("all", "a", "bool", "", "Remove all unused volumes, not just anonymous ones"),
        _LABEL,
    ),
    "system prune": _command(
        "system",
        "Remove unused data",
        system,
        ("all", "a", "bool", "", "Remove all unused images not just dangling ones"),
        ("filter", "", "filter", "", 'Provide filter values (e.g. "label=<key>=<value>")'),
        ("volumes", "", "bool", "", "Prune anonymous volumes"),
    ),
}

"""Commands on containers by name: stop, kill, restart, pause, rm, rename, wait, update, top, port, diff.

Several names are asked for at once, each on a connection of its own, and answered in order.
Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

import posix

from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.transport import client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AT_ONCE = 50

_ONE_OR_MORE = "CONTAINER [CONTAINER...]"

_STOP_FLAGS = (
    ("signal", "s", "string", "", "Signal to send to the container"),
    ("time", "", "int", "", "!Seconds to wait before killing the container"),
    ("timeout", "t", "int", "", "Seconds to wait before killing the container"),
)

_KILL_FLAGS = (("signal", "s", "string", "", "Signal to send to the container"),)

_RM_FLAGS = (
    ("force", "f", "bool", "", "Force the removal of a running container (uses SIGKILL)"),
    ("link", "l", "bool", "", "Remove the specified link"),
    ("volumes", "v", "bool", "", "Remove anonymous volumes associated with the container"),
)

_UPDATE_FLAGS = (
    (
        "blkio-weight",
        "",
        "uint16",
        "",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
    ("cpu-period", "", "int64", "", "Limit CPU CFS (Completely Fair Scheduler) period"),
    ("cpu-quota", "", "int64", "", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    ("cpu-rt-period", "", "int64", "", "Limit the CPU real-time period in microseconds"),
    ("cpu-rt-runtime", "", "int64", "", "Limit the CPU real-time runtime in microseconds"),
    ("cpu-shares", "c", "int64", "", "CPU shares (relative weight)"),
    ("cpus", "", "decimal", "", "Number of CPUs"),
    ("cpuset-cpus", "", "string", "", "CPUs in which to allow execution (0-3, 0,1)"),
    ("cpuset-mems", "", "string", "", "MEMs in which to allow execution (0-3, 0,1)"),
    ("memory", "m", "bytes", "", "Memory limit"),
    ("memory-reservation", "", "bytes", "", "Memory soft limit"),
    (
        "memory-swap",
        "",
        "bytes:swap",
        "",
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    ),
    ("pids-limit", "", "int64", "", "Tune container pids limit (set -1 for unlimited)"),
    ("restart", "", "string", "", "Restart policy to apply when a container exits"),
)

_UPDATE_KEYS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}


def for_each(
    parsed: Parsed, method: str, paths: "Iterable[tuple[str, str]]", forgive_missing: bool = False
) -> int:
    """Ask for every (name, path) at once and print the names that went well.

    Raises Failure with all that did not.
    """
    api = client(parsed.options)
    waiting = list(paths)
    errors = []
    while waiting:
        batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        sent = [(name, api.send(method, path, fresh=True)) for name, path in batch]
        for name, connection in sent:
            try:
                api.receive(connection).read()
            except Failure as exc:
                if forgive_missing and getattr(exc, "status", 0) == 404:
                    posix.write(2, f"{exc}\n".encode())
                else:
                    errors.append(str(exc))
                continue
            finally:
                connection.close()
            print_line(name)
    if errors:
        raise Failure("\n".join(errors))
    return 0


def print_line(text: str) -> None:
    """One line on stdout, at once."""
    posix.write(1, f"{text}\n".encode("utf-8", "surrogateescape"))


def _stop_like(parsed: Parsed, verb: str) -> int:
    timeout = parsed.get("timeout", parsed.get("time", None))
    wanted = query(signal=parsed.get("signal"), t=timeout)
    return for_each(
        parsed, "POST", [(name, f"/containers/{quote(name)}/{verb}{wanted}") for name in parsed.args]
    )


def stop(parsed: Parsed) -> int:
    """`proa stop`."""
    return _stop_like(parsed, "stop")


def restart(parsed: Parsed) -> int:
    """`proa restart`."""
    return _stop_like(parsed, "restart")


def kill(parsed: Parsed) -> int:
    """`proa kill`."""
    wanted = query(signal=parsed.get("signal"))
    return for_each(
        parsed, "POST", [(name, f"/containers/{quote(name)}/kill{wanted}") for name in parsed.args]
    )


def pause(parsed: Parsed) -> int:
    """`proa pause`."""
    return for_each(parsed, "POST", [(name, f"/containers/{quote(name)}/pause") for name in parsed.args])


def unpause(parsed: Parsed) -> int:
    """`proa unpause`."""
    return for_each(parsed, "POST", [(name, f"/containers/{quote(name)}/unpause") for name in parsed.args])


def remove(parsed: Parsed) -> int:
    """`proa rm`; with --force a container that is gone already is no error."""
    wanted = query(force=parsed.flag("force"), link=parsed.flag("link"), v=parsed.flag("volumes"))
    paths = []
    for name in parsed.args:
        if not name.strip("/"):
            raise Failure("container name cannot be empty")
        paths.append((name, f"/containers/{quote(name.strip('/'))}{wanted}"))
    return for_each(parsed, "DELETE", paths, forgive_missing=parsed.flag("force"))


def rename(parsed: Parsed) -> int:
    """`proa rename`."""
    old, new = (name.strip() for name in parsed.args)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        client(parsed.options).call("POST", f"/containers/{quote(old)}/rename{query(name=new)}")
    except DaemonError as exc:
        posix.write(2, f"{exc}\n".encode())
        raise Failure(f"Error: failed to rename container named {old}") from None
    return 0


def wait(parsed: Parsed) -> int:
    """`proa wait`: one exit code a line."""
    api = client(parsed.options)
    errors = []
    for name in parsed.args:
        try:
            result = api.call("POST", f"/containers/{quote(name)}/wait")
        except Failure as exc:
            errors.append(str(exc))
            continue
        print_line(str(result["StatusCode"]))
    if errors:
        raise Failure("\n".join(errors))
    return 0


def update(parsed: Parsed) -> int:
    """`proa update`."""
    if not parsed.values:
        raise Failure("you must provide one or more flags when using this command")
    body = {_UPDATE_KEYS[name]: value for name, value in parsed.values.items() if name in _UPDATE_KEYS}
    if parsed.get("restart"):
        from proa.cli.create_body import restart_policy

        body["RestartPolicy"] = restart_policy(parsed.get("restart"))
    api = client(parsed.options)
    errors: list[str] = []
    warnings: list[str] = []
    for name in parsed.args:
        try:
            result = api.call("POST", f"/containers/{quote(name)}/update", body) or {}
        except Failure as exc:
            errors.append(str(exc))
            continue
        print_line(name)
        warnings += result.get("Warnings") or []
    if warnings:
        print_line("\n".join(warnings))
    if errors:
        raise Failure("\n".join(errors))
    return 0


def top(parsed: Parsed) -> int:
    """`proa top`."""
    from proa.cli.table import align, show

    name, *arguments = parsed.args
    found = client(parsed.options).call(
        "GET", f"/containers/{quote(name)}/top{query(ps_args=' '.join(arguments))}"
    )
    rows = [found.get("Titles") or [], *(found.get("Processes") or [])]
    show(align("".join("\t".join(row) + "\n" for row in rows), minimum=20, padding=3))
    return 0


def port(parsed: Parsed) -> int:
    """`proa port`."""
    name = parsed.args[0]
    found = client(parsed.options).call("GET", f"/containers/{quote(name)}/json")
    bindings = (found.get("NetworkSettings") or {}).get("Ports") or {}
    if len(parsed.args) > 1:
        number, _, proto = parsed.args[1].partition("/")
        wanted = bindings.get(f"{number}/{proto or 'tcp'}") or []
        if not wanted:
            raise Failure(f"Error: No public port '{parsed.args[1]}' published for {name}")
        lines = [_address(binding) for binding in wanted]
    else:
        lines = [
            f"{container} -> {_address(binding)}"
            for container in bindings
            for binding in bindings[container] or ()
        ]
    from proa.cli.table import natural

    for line in sorted(lines, key=natural):
        print_line(line)
    return 0


def _address(binding: dict[str, str]) -> str:
    host = binding.get("HostIp", "")
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"


def diff(parsed: Parsed) -> int:
    """`proa diff`."""
    if not parsed.args[0]:
        raise Failure("Container name cannot be empty")
    changes = client(parsed.options).call("GET", f"/containers/{quote(parsed.args[0])}/changes") or []
    for change in changes:
        print_line(f"{'CAD'[change['Kind']]} {change['Path']}")
    return 0


COMMANDS = {
    "stop": Command(
        "stop",
        f"[OPTIONS] {_ONE_OR_MORE}",
        "Stop one or more running containers",
        stop,
        _STOP_FLAGS,
        minimum=1,
        aliases="container stop, stop",
    ),
    "kill": Command(
        "kill",
        f"[OPTIONS] {_ONE_OR_MORE}",
        "Kill one or more running containers",
        kill,
        _KILL_FLAGS,
        minimum=1,
        aliases="container kill, kill",
    ),
    "restart": Command(
        "restart",
        f"[OPTIONS] {_ONE_OR_MORE}",
        "Restart one or more containers",
        restart,
        _STOP_FLAGS,
        minimum=1,
        aliases="container restart, restart",
    ),
    "pause": Command(
        "pause",
        _ONE_OR_MORE,
        "Pause all processes within one or more containers",
        pause,
        minimum=1,
        aliases="container pause, pause",
    ),
    "unpause": Command(
        "unpause",
        _ONE_OR_MORE,
        "Unpause all processes within one or more containers",
        unpause,
        minimum=1,
        aliases="container unpause, unpause",
    ),
    "rename": Command(
        "rename",
        "CONTAINER NEW_NAME",
        "Rename a container",
        rename,
        minimum=2,
        maximum=2,
        aliases="container rename, rename",
    ),
    "wait": Command(
        "wait",
        _ONE_OR_MORE,
        "Block until one or more containers stop, then print their exit codes",
        wait,
        minimum=1,
        aliases="container wait, wait",
    ),
    "rm": Command(
        "rm",
        f"[OPTIONS] {_ONE_OR_MORE}",
        "Remove one or more containers",
        remove,
        _RM_FLAGS,
        minimum=1,
        aliases="container rm, container remove, rm",
    ),
    "update": Command(
        "update",
        f"[OPTIONS] {_ONE_OR_MORE}",
        "Update configuration of one or more containers",
        update,
        _UPDATE_FLAGS,
        minimum=1,
        aliases="container update, update",
    ),
    "top": Command(
        "top",
        "CONTAINER [ps OPTIONS]",
        "Display the running processes of a container",
        top,
        minimum=1,
        interspersed=False,
        aliases="container top, top",
    ),
    "port": Command(
        "port",
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        "List port mappings or a specific mapping for the container",
        port,
        minimum=1,
        maximum=2,
        aliases="container port, port",
    ),
    "diff": Command(
        "diff",
        "CONTAINER",
        "Inspect changes to files or directories on a container's filesystem",
        diff,
        minimum=1,
        maximum=1,
        aliases="container diff, diff",
    ),
}

"""`start` and `attach`: a container that exists, its process and its terminal.

Source: the Docker Engine API, v1.51; the observed requests of docker 28.
"""

import posix

from proa.cli.attached import check_tty, converse, resize
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.run import exit_code, send_wait
from proa.cli.transport import UPGRADE, Client, client, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_START_FLAGS = (
    ("attach", "a", "bool", "", "Attach STDOUT/STDERR and forward signals"),
    ("checkpoint", "", "string", "", "!Restore from this checkpoint"),
    ("checkpoint-dir", "", "string", "", "!Use a custom checkpoint storage directory"),
    ("detach-keys", "", "string", "", "Override the key sequence for detaching a container"),
    ("interactive", "i", "bool", "", "Attach container's STDIN"),
)

_ATTACH_FLAGS = (
    ("detach-keys", "", "string", "", "Override the key sequence for detaching a container"),
    ("no-stdin", "", "bool", "", "Do not attach STDIN"),
    ("sig-proxy", "", "bool", "true", "Proxy all received signals to the process"),
)


def start(parsed: Parsed) -> int:
    """`proa start`: start them all, or one and attach to it."""
    if parsed.get("checkpoint"):
        raise Failure("checkpoints are not supported")
    if parsed.flag("attach") or parsed.flag("interactive"):
        if len(parsed.args) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        return _start_attached(parsed)
    api = client(parsed.options)
    failed = []
    for name in parsed.args:
        try:
            api.call("POST", f"/containers/{name}/start")
        except Failure as exc:
            posix.write(2, f"{exc}\n".encode())
            failed.append(name)
            continue
        posix.write(1, f"{name}\n".encode())
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(parsed: Parsed) -> int:
    api = client(parsed.options)
    found = api.call("GET", f"/containers/{parsed.args[0]}/json")
    container = found["Id"]
    tty = bool(found["Config"].get("Tty"))
    stdin = parsed.flag("interactive") and bool(found["Config"].get("OpenStdin"))
    removed = bool((found.get("HostConfig") or {}).get("AutoRemove"))
    if not tty:
        from proa.cli.streams import forward_signals

        forward_signals(api, container, tty)
    keys = parsed.get("detach-keys")
    attaching = _send_attach(api, container, stdin, keys)
    waiting = send_wait(api, container, removed)
    api.receive(attaching)
    waited = api.receive(waiting)
    try:
        api.call("POST", f"/containers/{container}/start")
    except Failure:
        attaching.close()
        if removed:
            exit_code(api, container, waited)
        raise
    if tty and posix.isatty(1):
        _follow(api, container)
    if converse(attaching, tty, 0 if stdin else None, 1, 2, keys):
        return 0
    return exit_code(api, container, waited)


def _send_attach(api: Client, container: str, stdin: bool, keys: str) -> "Any":
    wanted = query(detachKeys=keys, stdin=stdin, stdout=True, stderr=True, stream=True)
    return api.send("POST", f"/containers/{container}/attach{wanted}", extra=UPGRADE)


def _follow(api: Client, container: str) -> None:
    from proa.cli.terminal import follow_size

    follow_size(lambda rows, columns: resize(api, f"/containers/{container}", rows, columns))


def attach(parsed: Parsed) -> int:
    """`proa attach`: be a running container's terminal."""
    api = client(parsed.options)
    name = parsed.args[0]
    found = _running(api, name)
    tty = bool(found["Config"].get("Tty"))
    check_tty(not parsed.flag("no-stdin"), tty)
    stdin = not parsed.flag("no-stdin") and bool(found["Config"].get("OpenStdin"))
    waited = api.receive(api.send("POST", f"/containers/{name}/wait"))
    if parsed.get("sig-proxy", True) and not tty:
        from proa.cli.streams import forward_signals

        forward_signals(api, name, tty)
    keys = parsed.get("detach-keys")
    attaching = _send_attach(api, name, stdin, keys)
    api.receive(attaching)
    # It may have stopped in between: then nothing would ever come.
    _running(api, name)
    if tty and posix.isatty(1):
        _redraw(api, name)
    if converse(attaching, tty, 0 if stdin else None, 1, 2, keys):
        raise Failure("read escape sequence")
    return exit_code(api, name, waited)


def _running(api: Client, name: str) -> "dict[str, Any]":
    found: dict[str, Any] = api.call("GET", f"/containers/{name}/json")
    state = found.get("State") or {}
    if not state.get("Running"):
        raise Failure("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Failure("You cannot attach to a restarting container, wait until it is running")
    return found


def _redraw(api: Client, name: str) -> None:
    """A change of size makes the program behind the terminal draw itself anew."""
    from proa.cli.terminal import size

    rows, columns = size()
    if rows or columns:
        resize(api, f"/containers/{name}", rows + 1, columns + 1)
    _follow(api, name)


COMMANDS = {
    "start": Command(
        "start",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Start one or more stopped containers",
        start,
        _START_FLAGS,
        minimum=1,
        aliases="container start, start",
    ),
    "attach": Command(
        "attach",
        "[OPTIONS] CONTAINER",
        "Attach local standard input, output, and error streams to a running container",
        attach,
        _ATTACH_FLAGS,
        minimum=1,
        maximum=1,
        aliases="container attach, attach",
    ),
}

"""`exec`: another process in a running container.

Source: the Docker Engine API, v1.51, ExecCreate and ExecStart; the observed requests of docker 28.
"""

from proa.cli.attached import check_tty, converse, resize
from proa.cli.failure import ConnectionFailed, DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.transport import UPGRADE, Client, client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.transport import Connection

_FLAGS = (
    ("detach", "d", "bool", "", "Detached mode: run command in the background"),
    ("detach-keys", "", "string", "", "Override the key sequence for detaching a container"),
    ("env", "e", "list:env", "", "Set environment variables"),
    ("env-file", "", "list", "", "Read in a file of environment variables"),
    ("interactive", "i", "bool", "", "Keep STDIN open even if not attached"),
    ("privileged", "", "bool", "", "Give extended privileges to the command"),
    ("tty", "t", "bool", "", "Allocate a pseudo-TTY"),
    ("user", "u", "string", "", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
    ("workdir", "w", "string", "", "Working directory inside the container"),
)

SWITCHED = 101

_KEYS = {"privileged": "Privileged", "tty": "Tty", "user": "User", "workdir": "WorkingDir"}


def execute(parsed: Parsed) -> int:
    """`proa exec`: create the exec, start it attached, return its exit code."""
    body = exec_body(parsed)
    detached = parsed.flag("detach")
    if not detached:
        check_tty(bool(body.get("AttachStdin")), bool(body.get("Tty")))
    if keys := parsed.get("detach-keys"):
        from proa.cli.conversation import detach_sequence

        detach_sequence(keys)
    api = client(parsed.options)
    path = f"/containers/{parsed.args[0]}/exec"
    if not detached:
        return _attached(api, path, body, keys)
    exec_id = api.call("POST", path, body)["Id"]
    api.call("POST", f"/exec/{exec_id}/start", _start(body, detached=True))
    return 0


def exec_body(parsed: Parsed) -> "dict[str, Any]":
    """The body of POST /containers/{id}/exec."""
    body: dict[str, Any] = {"Cmd": parsed.args[1:]}
    for name, key in _KEYS.items():
        if parsed.get(name):
            body[key] = parsed.get(name)
    if "env" in parsed.values or "env-file" in parsed.values:
        from proa.cli.create_body import environment

        body["Env"] = environment(parsed.get("env-file", []), parsed.get("env", []))
    if parsed.get("detach-keys"):
        body["DetachKeys"] = parsed.get("detach-keys")
    if not parsed.flag("detach"):
        body["AttachStdout"] = body["AttachStderr"] = True
        if parsed.flag("interactive"):
            body["AttachStdin"] = True
    if body.get("Tty"):
        from proa.cli.terminal import size

        rows, columns = size()
        if rows or columns:
            body["ConsoleSize"] = [rows, columns]
    return body


def _start(body: "dict[str, Any]", *, detached: bool) -> "dict[str, Any]":
    """The body of POST /exec/{id}/start."""
    start = {"Detach": detached, "Tty": bool(body.get("Tty"))}
    if "ConsoleSize" in body:
        start["ConsoleSize"] = body["ConsoleSize"]
    return start


def _attached(api: Client, path: str, body: "dict[str, Any]", keys: str) -> int:
    """Create it, and ask for its start in the same breath, which Docker's own daemon has not heard of."""
    response = api.request("POST", path + "?start=1", body, UPGRADE, ahead=1)
    if response.status == SWITCHED:
        exec_id = response.headers["location"].rpartition("/")[2]
        connection = response.connection
    else:
        exec_id = response.json()["Id"]
        api.release(response)
        path = f"/exec/{exec_id}/start"
        connection = api.request("POST", path, _start(body, detached=False), UPGRADE).connection
    exiting = api.send("GET", f"/exec/{exec_id}/json?wait=1")
    tty = bool(body.get("Tty"))
    if tty:
        import posix

        if posix.isatty(0):
            from proa.cli.terminal import follow_size

            follow_size(lambda rows, columns: resize(api, f"/exec/{exec_id}", rows, columns))
    stdin = 0 if body.get("AttachStdin") else None
    if converse(connection, tty, stdin, 1, 2, keys):
        raise Failure("read escape sequence")
    return _exit_code(api, exec_id, exiting)


def _exit_code(api: Client, exec_id: str, exiting: "Connection") -> int:
    """What the exec answers to the question that was asked when it started.

    Docker's own daemon does not wait with its answer, and a daemon that was restarted meanwhile has forgotten
    the question: they are asked again.
    """
    try:
        answer = api.receive(exiting).json()
        if answer.get("ExitCode") is not None and not answer.get("Running"):
            return int(answer["ExitCode"])
    except ConnectionFailed:
        api.forget()
    try:
        return int(api.call("GET", f"/exec/{exec_id}/json").get("ExitCode") or 0)
    except DaemonError:
        raise
    except Failure:
        # The daemon went away: nobody knows.
        return -1


COMMANDS = {
    "exec": Command(
        "exec",
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        execute,
        _FLAGS,
        minimum=2,
        interspersed=False,
        aliases="container exec, exec",
    ),
}

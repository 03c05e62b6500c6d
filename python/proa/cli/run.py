"""`run` and `create`: the command that everything else is fast for.

`run` takes three connections at once: attach and wait are sent together on two of them, so that both stand
before start goes out on the third. Source: the Docker Engine API, v1.51; the observed requests of docker 28.
"""

import posix

from proa.cli.attached import check_tty, converse, resize
from proa.cli.create_body import create_body
from proa.cli.create_flags import CREATE_FLAGS
from proa.cli.environment import config_directory, exists, variable
from proa.cli.failure import ConnectionFailed, DaemonError, Failure
from proa.cli.flags import PROGRAM, Command, Parsed
from proa.cli.jsontext import encode
from proa.cli.transport import UPGRADE, Client, client, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.transport import Connection, Response

# How long, and how many milliseconds apart, to look for a daemon that went away while its container ran.
RECONNECT_SECONDS = 10
RECONNECT_MS = 100

# An image of these characters alone is for the daemon to judge.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789./:-_")

_CONTROL = (
    ("detach", "d", "bool", "", "Run container in background and print container ID"),
    ("detach-keys", "", "string", "", "Override the key sequence for detaching a container"),
    ("pull", "", "string", '"missing"', 'Pull image before running ("always", "missing", "never")'),
    ("sig-proxy", "", "bool", "true", "Proxy received signals to the process"),
)

_CREATE_PULL = (
    "pull",
    "",
    "string",
    '"missing"',
    'Pull image before creating ("always", "|missing", "never")',
)


def run(parsed: Parsed) -> int:
    """`proa run`: create, attach, wait, start, and be the container's terminal until it exits."""
    body = _prepare(parsed, "run")
    _check_attachment(parsed, body)
    api = client(parsed.options)
    try:
        container = create_container(api, parsed, body)
    except DaemonError as exc:
        raise status_error(exc, "run") from None
    except Failure as exc:
        raise with_help(exc, "run", 125) from None
    if parsed.flag("detach"):
        posix.write(1, f"{container}\n".encode())
        _start(api, container)
        return 0
    if parsed.get("sig-proxy", True):
        from proa.cli.streams import forward_signals

        forward_signals(api, container, bool(body.get("Tty")))
    return _attached(api, parsed, body, container)


def create(parsed: Parsed) -> int:
    """`proa create`: create and print the id."""
    body = _prepare(parsed, "create")
    container = create_container(client(parsed.options), parsed, body)
    posix.write(1, f"{container}\n".encode())
    return 0


def _prepare(parsed: Parsed, verb: str) -> "dict[str, Any]":
    """The body, after the checks that need no daemon."""
    pull = parsed.get("pull", "missing")
    try:
        if pull not in ("always", "missing", "never", ""):
            raise Failure(f'invalid pull option: \'{pull}\': must be one of "always", "missing" or "never"')
        if parsed.flag("use-api-socket"):
            raise Failure("--use-api-socket is not supported yet")
        body = create_body(parsed)
    except Failure as exc:
        raise with_help(exc, verb, 125) from None
    if exists(f"{config_directory(parsed.options)}/config.json"):
        from proa.cli.configfile import add_proxies

        add_proxies(parsed, body)
    return body


def with_help(exc: Exception, verb: str, code: int) -> Failure:
    """The error as Docker decorates it for `run` and `create`."""
    return Failure(f"{PROGRAM}: {exc}\n\nRun '{PROGRAM} {verb} --help' for more information", code)


def status_error(exc: Exception, verb: str) -> Failure:
    """The error with the exit code that Docker's CLI reads from its text."""
    text = str(exc)
    if any(
        words in text
        for words in ("executable file not found", "no such file or directory", "system cannot find the file")
    ):
        code = 127
    elif "permission denied" in text or "is a directory" in text:
        code = 126
    else:
        code = 125
    return with_help(exc, verb, code)


def _check_attachment(parsed: Parsed, body: "dict[str, Any]") -> None:
    """Detached or attached; a tty needs a terminal. Raises Failure."""
    if parsed.flag("detach"):
        if parsed.get("attach"):
            raise Failure("conflicting options: cannot specify both --attach and --detach")
        for key in ("AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"):
            body.pop(key, None)
    else:
        check_tty(bool(body.get("AttachStdin")), bool(body.get("Tty")))
    if body.get("Tty"):
        from proa.cli.terminal import size

        rows, columns = size()
        if rows or columns:
            body.setdefault("HostConfig", {})["ConsoleSize"] = [rows, columns]
    if keys := parsed.get("detach-keys"):
        from proa.cli.conversation import detach_sequence

        detach_sequence(keys)


def create_container(api: Client, parsed: Parsed, body: "dict[str, Any]") -> str:
    """Create it, pulling the image where it is missing; returns the id. Raises Failure."""
    cidfile = parsed.get("cidfile")
    if cidfile and exists(cidfile):
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {cidfile}"
        )
    platform = parsed.get("platform") or variable("DOCKER_DEFAULT_PLATFORM")
    if platform:
        from proa.cli.platform import normalize

        platform = normalize(platform)
    path = "/containers/create" + query(name=parsed.get("name"), platform=platform)
    image = body.get("Image", "")
    if image and not _PLAIN.issuperset(image):
        from proa.cli.reference import check

        check(image)
    pull = parsed.get("pull", "missing")
    if variable("DOCKER_CONTENT_TRUST") or not parsed.get("disable-content-trust", True):
        from proa.cli.pull import refuse_trust

        refuse_trust(parsed)
    if pull == "always" and image:
        _pull(api, image, platform, parsed)
    try:
        created = _create(api, path, body, parsed)
    except DaemonError as exc:
        if exc.status != 404 or not image or pull not in ("missing", ""):
            raise
        if not parsed.flag("quiet"):
            from proa.cli.reference import familiar

            posix.write(2, f"Unable to find image '{familiar(image)}' locally\n".encode())
        _pull(api, image, platform, parsed)
        created = _create(api, path, body, parsed)
    for warning in created.get("Warnings") or ():
        posix.write(2, f"WARNING: {warning}\n".encode())
    if cidfile:
        _write_cidfile(cidfile, created["Id"])
    return str(created["Id"])


def _create(api: Client, path: str, body: "dict[str, Any]", parsed: Parsed) -> "dict[str, Any]":
    """Create; the connections that attach and start need are opened while the daemon works."""
    attached = parsed.command.path == "run" and not parsed.flag("detach")
    created: dict[str, Any] = api.call("POST", path, body, ahead=2 if attached else 0)
    return created


def _pull(api: Client, image: str, platform: str, parsed: Parsed) -> None:
    from proa.cli.pull import pull_image

    pull_image(api, image, parsed.options, platform=platform, quiet=parsed.flag("quiet"), out=2)


def _write_cidfile(path: str, container: str) -> None:
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(container)
    except OSError as exc:
        raise Failure(
            f"failed to create the container ID file: open {path}: {(exc.strerror or '').lower()}"
        ) from None


def _start(api: Client, container: str) -> None:
    try:
        response = api.request("POST", f"/containers/{container}/start")
    except DaemonError as exc:
        raise status_error(exc, "run") from None
    response.read()
    api.release(response)


def _attached(api: Client, parsed: Parsed, body: "dict[str, Any]", container: str) -> int:
    """Attach, wait and start at once; copy both ways; returns the container's exit code."""
    keys = parsed.get("detach-keys")
    wanted = query(
        detachKeys=keys,
        stdin=bool(body.get("AttachStdin")),
        stdout=bool(body.get("AttachStdout")),
        stderr=bool(body.get("AttachStderr")),
        stream=True,
    )
    attaching = api.send("POST", f"/containers/{container}/attach{wanted}", extra=UPGRADE)
    waiting = send_wait(api, container, bool(parsed.get("rm")))
    import proa.cli.streams  # noqa: F401  # needed next; meanwhile the daemon works

    api.receive(attaching)
    waited = api.receive(waiting)
    try:
        _start(api, container)
    except Failure:
        attaching.close()
        if parsed.flag("rm"):
            exit_code(api, container, waited)
        raise
    tty = bool(body.get("Tty"))
    if tty and posix.isatty(1):
        from proa.cli.terminal import follow_size

        follow_size(lambda rows, columns: resize(api, f"/containers/{container}", rows, columns))
    detached = converse(
        attaching,
        tty,
        stdin=0 if body.get("AttachStdin") else None,
        stdout=1 if body.get("AttachStdout") else None,
        stderr=2 if body.get("AttachStderr") else None,
        keys=keys,
    )
    return 0 if detached else exit_code(api, container, waited)


def send_wait(api: Client, container: str, removed: bool) -> "Connection":
    """Ask for the exit; the answer's head says that the wait stands, its body is the exit itself."""
    condition = "removed" if removed else "next-exit"
    return api.send("POST", f"/containers/{container}/wait?condition={condition}")


def exit_code(api: Client, container: str, waited: "Response") -> int:
    """Read a wait's body, when it comes. A daemon that is restarted meanwhile is asked again."""
    try:
        try:
            result = waited.json()
        except (ConnectionFailed, ValueError):
            result = _wait_again(api, container)
    except Failure as exc:
        posix.write(2, f"error waiting for container: {exc}\n".encode())
        return 125
    error = (result.get("Error") or {}).get("Message")
    if error:
        posix.write(2, f"Error waiting for container: {error}\n".encode())
        return 125
    return int(result.get("StatusCode", 0))


def _wait_again(api: Client, container: str) -> "dict[str, Any]":
    """The exit of a container whose daemon went away: it lives on, and so does its exit. Raises Failure.

    One that is removed by now (--rm) has left its exit in the events.
    """
    import select
    import time

    api.forget()
    reason = "the daemon went away"
    deadline = time.monotonic() + RECONNECT_SECONDS
    while time.monotonic() < deadline:
        try:
            found: dict[str, Any] | None = api.call(
                "POST", f"/containers/{container}/wait?condition=not-running"
            )
        except ConnectionFailed as exc:
            reason = str(exc)
        except DaemonError as exc:
            code = _exit_of_removed(api, container) if exc.status == 404 else None
            if code is None:
                raise
            return {"StatusCode": code}
        else:
            if found:
                return found
        select.poll().poll(RECONNECT_MS)
    raise ConnectionFailed(reason)


def _exit_of_removed(api: Client, container: str) -> int | None:
    """What the last `die` event of a container tells; None when there is none."""
    import time

    wanted = encode({"container": {container: True}, "event": {"die": True}}).decode()
    response = api.request("GET", "/events" + query(since=1, until=f"{time.time():.9f}", filters=wanted))
    from proa.cli.pull import messages

    code = None
    for event in messages(response):
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        if "exitCode" in attributes:
            code = int(attributes["exitCode"])
    return code


_USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"

COMMANDS = {
    "run": Command(
        "run",
        _USAGE,
        "Create and run a new container from an image",
        run,
        CREATE_FLAGS + _CONTROL,
        minimum=1,
        interspersed=False,
        aliases="container run, run",
    ),
    "create": Command(
        "create",
        _USAGE,
        "Create a new container",
        create,
        (*CREATE_FLAGS, _CREATE_PULL),
        minimum=1,
        interspersed=False,
        aliases="container create, create",
    ),
}

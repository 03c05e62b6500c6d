"""`logs`, and the times that --since and --until take.

Source: the Docker Engine API, v1.51, ContainerLogs; the observed requests of docker 28.
"""

from proa.cli.failure import BadFlag, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.streams import demultiplex
from proa.cli.table import show
from proa.cli.transport import client, query, quote, version_number

_WHEN = '(e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)'

_FLAGS = (
    ("details", "", "bool", "", "Show extra details provided to logs"),
    ("follow", "f", "bool", "", "Follow log output"),
    ("since", "", "string", "", f"Show logs since timestamp {_WHEN}"),
    ("tail", "n", "string", '"all"', "Number of lines to show from the end of the logs"),
    ("timestamps", "t", "bool", "", "Show timestamps"),
    ("until", "", "string", "", f"Show logs before a timestamp {_WHEN}"),
)


def logs(parsed: Parsed) -> int:
    """`proa logs`."""
    api = client(parsed.options)
    container = quote(parsed.args[0])
    wanted = query(
        details=parsed.flag("details"),
        follow=parsed.flag("follow"),
        since=_bound(parsed, "since"),
        stderr=True,
        stdout=True,
        tail=parsed.get("tail", "all"),
        timestamps=parsed.flag("timestamps"),
        until=_bound(parsed, "until"),
    )
    response = api.request("GET", f"/containers/{container}/logs{wanted}")
    kind = response.headers.get("content-type", "")
    if "multiplexed" in kind:
        framed = True
    elif version_number(api.version) >= (1, 42):
        framed = False
    else:
        # Older daemons do not say: the container's own setting does.
        framed = not api.call("GET", f"/containers/{container}/json")["Config"]["Tty"]
    if framed:
        try:
            demultiplex(response.chunks(), 1, 2)
        except Failure as exc:
            if isinstance(exc.__cause__, BrokenPipeError):
                raise BrokenPipeError from None
            raise
        return 0
    for data in response.chunks():
        show(data)
    return 0


def _bound(parsed: Parsed, name: str) -> str:
    text = parsed.get(name)
    try:
        return moment(text) if text else ""
    except ValueError as exc:
        raise Failure(f'invalid value for "{name}": {exc}') from None


def moment(text: str) -> str:
    """Unix seconds with nanoseconds, as the API takes them: of a duration ago, a time, or such a number.

    Raises ValueError.
    """
    import time

    from proa.cli.values import duration

    try:
        ago = duration(text)
    except BadFlag:
        pass
    else:
        nanoseconds = time.time_ns() - ago
        return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
    if text.replace(".", "", 1).isdigit():
        return text
    from proa.cli.human import parse_time

    try:
        seconds = parse_time(text)
    except ValueError:
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{int(seconds)}.{round(seconds % 1 * 10**9):09d}"


COMMANDS = {
    "logs": Command(
        "logs",
        "[OPTIONS] CONTAINER",
        "Fetch the logs of a container",
        logs,
        _FLAGS,
        minimum=1,
        maximum=1,
        aliases="container logs, logs",
    ),
}

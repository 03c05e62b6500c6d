"""`version`, `info` and `events`: the daemon itself.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

import os
import sys

from proa.cli import human
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import INSPECT_FORMAT_HELP, filters
from proa.cli.logs import moment
from proa.cli.table import align, show
from proa.cli.transport import API_VERSION, Client, client, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A template that does not parse ends the command with EX_USAGE.
BAD_TEMPLATE = 64

_FORMAT = ("format", "f", "string", "", INSPECT_FORMAT_HELP)

_EVENT_FLAGS = (
    ("filter", "f", "filter", "", "Filter output based on conditions provided"),
    ("format", "", "string", "", INSPECT_FORMAT_HELP),
    ("since", "", "string", "", "Show all events created since timestamp"),
    ("until", "", "string", "", "Stream events until this timestamp"),
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def template(source: str, prefix: str = "template parsing error") -> "Any":
    """A parsed --format. Raises Failure with EX_USAGE."""
    from proa.cli.template import TemplateError
    from proa.cli.template_run import Template

    try:
        return Template("{{json .}}" if source == "json" else source)
    except TemplateError as exc:
        raise Failure(f"{prefix}: {exc}", BAD_TEMPLATE) from None


def render(parsed_template: "Any", value: "Any") -> str:
    """Raises Failure."""
    from proa.cli.template import TemplateError

    try:
        return str(parsed_template.render(value))
    except TemplateError as exc:
        raise Failure(f"template parsing error: {exc}") from None


def version(parsed: Parsed) -> int:
    """`proa version`: the client's, then the server's, with an error at the end when none answers."""
    wanted = template(parsed.get("format")) if parsed.get("format") else None
    api = client(parsed.options)
    failure: Failure | None = None
    server: dict[str, Any] | None = None
    try:
        server = api.call("GET", "/version")
    except Failure as exc:
        failure = exc
    here = _client_version(api, parsed)
    if wanted is None:
        show(_version_text(here, server))
    elif "json" in parsed.get("format"):
        show(render(wanted, {"Client": here, "Server": server}) + "\n")
    else:
        named = {"Client": _as_go_names(here), "Server": server and _as_go_names(server)}
        show(render(wanted, named) + "\n")
    if failure is not None:
        raise failure
    return 0


def _as_go_names(version: "dict[str, Any]") -> "dict[str, Any]":
    """As templates name what JSON calls ApiVersion; what only docker has is empty."""
    nothing = {"GitCommit": "", "GoVersion": "", "BuildTime": ""}
    return {**nothing, **version, "APIVersion": version.get("ApiVersion", "")}


def _client_version(api: Client, parsed: Parsed) -> "dict[str, Any]":
    from proa.cli.context_store import current
    from proa.cli.main import VERSION

    machine = os.uname().machine
    return {
        "Version": VERSION,
        "ApiVersion": api.version,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
        "Context": current(parsed.options),
    }


def _version_text(here: "dict[str, Any]", server: "dict[str, Any] | None") -> str:
    spoken = here["ApiVersion"]
    if spoken != here["DefaultAPIVersion"]:
        spoken += f" (downgraded from {here['DefaultAPIVersion']})"
    lines = [
        "Client: proa",
        f" Version:\t{here['Version']}",
        f" API version:\t{spoken}",
        f" Python version:\t{here['PythonVersion']}",
        f" OS/Arch:\t{here['Os']}/{here['Arch']}",
        f" Context:\t{here['Context']}",
    ]
    if server is not None:
        platform = (server.get("Platform") or {}).get("Name", "")
        lines += ["", f"Server: {platform}".rstrip()]
        for component in server.get("Components") or ():
            lines += _component(component)
    return align("\n".join(lines) + "\n", minimum=20, padding=1)


def _component(component: "dict[str, Any]") -> list[str]:
    details = component.get("Details") or {}
    lines = [f" {component['Name']}:", f"  Version:\t{component['Version']}"]
    if component["Name"] != "Engine":
        return lines + [f"  {name}:\t{details[name]}" for name in sorted(details)]
    shown = (
        (
            "API version",
            f"{details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})",
        ),
        ("Go version", details.get("GoVersion", "")),
        ("Git commit", details.get("GitCommit", "")),
        ("Built", details.get("BuildTime", "")),
        ("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"),
        ("Experimental", details.get("Experimental", "")),
    )
    return lines + [f"  {name}:\t{value}" for name, value in shown if value]


def info(parsed: Parsed) -> int:
    """`proa info`."""
    wanted = template(parsed.get("format")) if parsed.get("format") else None
    api = client(parsed.options)
    here = _client_version(api, parsed)
    if wanted is None:
        show(
            f"Client:\n Version:    {here['Version']}\n Context:    {here['Context']}\n"
            " Debug Mode: false\n\nServer:\n"
        )
    found: dict[str, Any] = api.call("GET", "/info")
    if wanted is not None:
        show(render(wanted, {**found, "ClientInfo": here}) + "\n")
        return 0
    from proa.cli.info import info_text

    show(info_text(found))
    warnings = found.get("Warnings") or ()
    if warnings:
        os.write(2, "".join(f"{warning}\n" for warning in warnings).encode())
    return 0


def events(parsed: Parsed) -> int:
    """`proa events`: one line an event, until it is interrupted or --until has come."""
    from proa.cli.pull import messages

    wanted = (
        template(parsed.get("format"), "Error parsing format: template parsing error")
        if parsed.get("format")
        else None
    )
    bounds = {}
    for name in ("since", "until"):
        try:
            bounds[name] = moment(parsed.get(name)) if parsed.get(name) else ""
        except ValueError as exc:
            raise Failure(str(exc)) from None
    response = client(parsed.options).request("GET", f"/events{query(filters=filters(parsed), **bounds)}")
    for event in messages(response):
        show((render(wanted, event) if wanted is not None else event_text(event)) + "\n")
    return 0


def event_text(event: "dict[str, Any]") -> str:
    """`2006-01-02T15:04:05.000000000Z container start <id> (image=busybox, name=web)`."""
    actor = event.get("Actor") or {}
    nanoseconds = event.get("timeNano") or event.get("time", 0) * 10**9
    stamp = human.rfc3339(nanoseconds // 10**9)
    stamp = f"{stamp[:19]}.{nanoseconds % 10**9:09d}{stamp[19:]}"
    text = f"{stamp} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        text += f" ({', '.join(f'{key}={attributes[key]}' for key in sorted(attributes))})"
    return text


COMMANDS = {
    "version": Command(
        "version", "[OPTIONS]", "Show the proa version information", version, (_FORMAT,), maximum=0
    ),
    "info": Command(
        "info",
        "[OPTIONS]",
        "Display system-wide information",
        info,
        (_FORMAT,),
        maximum=0,
        aliases="system info, info",
    ),
    "events": Command(
        "events",
        "[OPTIONS]",
        "Get real time events from the server",
        events,
        _EVENT_FLAGS,
        maximum=0,
        aliases="system events, events",
    ),
}

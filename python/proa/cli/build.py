"""`proa build`: asks the daemon for an image, shows how it comes about, and hands it on.

Source: the Docker Engine API, v1.51, ImageBuild; the observed behaviour of docker 28.
"""

from proa.cli.build_flags import FLAGS
from proa.cli.build_request import checks, own_options, query_of, refuse_unsupported
from proa.cli.failure import BadFlag, DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.table import show
from proa.cli.transport import Client, client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.build_context import Context
    from proa.cli.build_output import Built, Output
    from proa.cli.build_progress import Display
    from proa.cli.flags import Globals


def build(parsed: Parsed) -> int:
    """`proa build`."""
    try:
        return _build(parsed)
    except BadFlag as exc:
        raise Failure(f"ERROR: {exc}") from None


def _build(parsed: Parsed) -> int:
    from proa.cli.build_output import outputs_of
    from proa.cli.build_ssh import Agents

    refuse_unsupported(parsed)
    outputs = outputs_of(parsed)
    tags = _tags(parsed, [name for output in outputs for name in output.names])
    with Agents(parsed.get("ssh", [])) as agents:
        return _ask(parsed, outputs, tags, own_options(parsed, agents))


def _ask(parsed: Parsed, outputs: "list[Output]", tags: list[str], own: "dict[str, Any]") -> int:
    """Have it built, and deliver it."""
    from proa.cli.build_context import context_of
    from proa.cli.build_output import deliver, image_fields, write_results
    from proa.cli.build_progress import display_of

    if fields := image_fields(parsed, outputs):
        own["Output"] = fields
    api = client(parsed.options)
    context = context_of(parsed, own, local=api.host.startswith("unix://"))
    quiet = parsed.flag("quiet") or parsed.get("progress") == "quiet"
    checking = checks(parsed)
    display = display_of("quiet" if checking else parsed.get("progress"), parsed.flag("quiet"))
    path = "/build" + query_of(parsed, tags, context.query)
    built = _watch(api, path, context, parsed.options, display)
    if checking:
        from proa.cli.build_check import show_findings

        return show_findings(built.warnings)
    if not built.image:
        raise Failure("ERROR: failed to solve: the daemon named no image")
    deliver(api, parsed, outputs, built, tags, quiet=quiet)
    write_results(parsed, api, built, tags, pushed=any(output.push for output in outputs))
    if quiet and not any(output.target == "-" for output in outputs):
        show(f"{built.image}\n")
    return 0


def _tags(parsed: Parsed, more: list[str]) -> list[str]:
    from proa.cli.reference import check

    tags = [tag for text in parsed.get("tag", ()) for tag in text.split(",") if tag] + more
    for tag in tags:
        try:
            check(tag)
        except Failure as exc:
            raise Failure(f'ERROR: invalid tag "{tag}": {exc}') from None
    return tags


def _watch(api: Client, path: str, context: "Context", options: "Globals", display: "Display") -> "Built":
    """Send the request and show its answer to the end. Raises Failure in Docker's words."""
    from proa.cli.build_output import Built
    from proa.cli.pull import messages

    built = Built()
    failed = True
    try:
        response = api.upload(
            "POST", path, context.body, context.content_type, context.header + _logins(options)
        )
        for event in messages(response):
            error = (event.get("errorDetail") or {}).get("message") or event.get("error")
            if error:
                raise Failure(f"ERROR: failed to solve: {error}")
            if "aux" in event:
                built.told(event["aux"])
            elif "warning" in event:
                built.warnings.append(event)
            display.show(event)
        api.release(response)
        failed = False
    except DaemonError as exc:
        raise Failure(f"ERROR: failed to solve: {exc.reason}") from None
    finally:
        display.close(failed)
    return built


def _logins(options: "Globals") -> str:
    """The header with every login that is stored; base images may be of any registry. Raises Failure."""
    from proa.cli.environment import config_directory, exists

    if not exists(f"{config_directory(options)}/config.json"):
        return ""
    from proa.cli.credential_store import CredentialStore
    from proa.cli.credentials import encoded_all

    logins = CredentialStore(options).all()
    return f"X-Registry-Config: {encoded_all(logins)}\r\n" if logins else ""


COMMANDS = {
    "build": Command(
        "build",
        "[OPTIONS] PATH | URL | -",
        "Build an image from a Dockerfile",
        build,
        FLAGS,
        minimum=1,
        maximum=1,
        aliases="image build, build, builder build, buildx build",
    ),
}

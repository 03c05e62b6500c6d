"""`inspect`, for every kind of object.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import INSPECT_FORMAT_HELP
from proa.cli.table import show
from proa.cli.transport import Client, client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = ("container", "image", "network", "volume")

_OTHER_KINDS = ("config", "node", "plugin", "secret", "service", "task")

_FORMAT = ("format", "f", "string", "", INSPECT_FORMAT_HELP)

_PLATFORM = (
    "Inspect a specific platform of the multi-platform image.\n"
    "If the image or the server is not multi-platform capable, the command will error out if the platform "
    "does not match.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)"
)

_SIZE = "Display total file sizes"

# A template that does not parse ends the command with EX_USAGE.
BAD_TEMPLATE = 64


def _fetch(api: Client, kind: str, name: str, size: bool) -> "Any":
    if kind == "container":
        return api.call("GET", f"/containers/{quote(name)}/json{query(size=size)}")
    if kind == "image":
        return api.call("GET", f"/images/{quote(name)}/json")
    return api.call("GET", f"/{kind}s/{quote(name)}")


def inspect(parsed: Parsed) -> int:
    """`proa inspect`: whatever has the name, or the kind that --type asks for."""
    wanted = parsed.get("type", None)
    if wanted is not None and wanted not in _KINDS:
        every = '", "'.join(sorted((*_KINDS, *_OTHER_KINDS)))
        if wanted in _OTHER_KINDS:
            raise Failure(f"inspecting objects of type {wanted} is not supported")
        words = "type is empty" if not wanted else f'unknown type: "{wanted}"'
        raise Failure(f'{words}: must be one of "{every}"')
    return _inspect(parsed, (wanted,) if wanted else _KINDS, not wanted)


def _one(kind: str) -> "Any":
    def run(parsed: Parsed) -> int:
        return _inspect(parsed, (kind,), False)

    return run


def _inspect(parsed: Parsed, kinds: tuple[str, ...], search: bool) -> int:
    render = renderer(parsed.get("format"))
    api = client(parsed.options)
    found: list[Any] = []
    errors: list[str] = []
    for name in parsed.args:
        try:
            found.append(_find(api, name, kinds, parsed.flag("size"), search))
        except DaemonError as exc:
            errors.append(str(exc))
        except LookupError as exc:
            errors.append(str(exc.args[0]))
    render(found)
    if errors:
        raise Failure("\n".join(errors))
    return 0


def _find(api: Client, name: str, kinds: tuple[str, ...], size: bool, search: bool) -> "Any":
    for kind in kinds:
        try:
            return _fetch(api, kind, name, size)
        except DaemonError as exc:
            skip = (
                exc.status == 404 or "not supported" in exc.reason or "invalid reference format" in exc.reason
            )
            if not (search and skip):
                raise
    raise LookupError(f"Error: No such object: {name}")


def renderer(source: str) -> "Any":
    """What prints a list of objects as --format asks. Raises Failure for a template that does not parse."""
    if source in ("", "json"):
        return _print_json if not source else _print_compact
    from proa.cli.template import TemplateError
    from proa.cli.template_run import Template

    try:
        template = Template(source)
    except TemplateError as exc:
        raise Failure(f"template parsing error: {exc}", BAD_TEMPLATE) from None

    def render(found: "list[Any]") -> None:
        lines = []
        for item in found:
            try:
                lines.append(template.render(item) + "\n")
            except TemplateError as exc:
                show("".join(lines) or "\n")
                raise Failure(f"template parsing error: {exc}") from None
        show("".join(lines) or "\n")

    return render


def _print_json(found: "list[Any]") -> None:
    from proa.cli.jsontext import pretty

    show(pretty(found) + "\n")


def _print_compact(found: "list[Any]") -> None:
    from proa.cli.jsontext import go

    show(go(found) + "\n")


def _command(kind: str, usage: str, short: str, *flags: tuple[str, str, str, str, str]) -> Command:
    return Command(f"{kind} inspect", usage, short, _one(kind), (_FORMAT, *flags), minimum=1)


COMMANDS = {
    "inspect": Command(
        "inspect",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        "Return low-level information on proa objects",
        inspect,
        (
            _FORMAT,
            ("size", "s", "bool", "", "Display total file sizes if the type is container"),
            ("type", "", "string", "", "Only inspect objects of the given type"),
        ),
        minimum=1,
    ),
    "container inspect": _command(
        "container",
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Display detailed information on one or more containers",
        ("size", "s", "bool", "", _SIZE),
    ),
    "image inspect": _command(
        "image",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Display detailed information on one or more images",
        ("platform", "", "string", "", _PLATFORM),
    ),
    "network inspect": _command(
        "network",
        "[OPTIONS] NETWORK [NETWORK...]",
        "Display detailed information on one or more networks",
        ("verbose", "v", "bool", "", "Verbose output for diagnostics"),
    ),
    "volume inspect": _command(
        "volume", "[OPTIONS] VOLUME [VOLUME...]", "Display detailed information on one or more volumes"
    ),
}

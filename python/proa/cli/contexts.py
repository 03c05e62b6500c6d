"""The `context` group: create, export, import, inspect, ls, rm, show, update, use. No daemon is asked.

Source: the documentation of `docker context`; the observed output of docker 28.
"""

import os
import posix

from proa.cli.context_store import DEFAULT, Context, ContextStore, check_name, current
from proa.cli.environment import CA, CERT, KEY, variable
from proa.cli.failure import Failure
from proa.cli.flags import FALSE, TRUE, Command, Globals, Parsed
from proa.cli.lists import FORMAT_HELP, INSPECT_FORMAT_HELP
from proa.cli.table import Format, natural, render, show
from proa.cli.transport import default_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TABLE = "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
_HEADERS = {
    "Name": "NAME",
    "Current": "",
    "Description": "DESCRIPTION",
    "DockerEndpoint": "DOCKER ENDPOINT",
    "Error": "ERROR",
}
_ERROR_WIDTH = 45
_DEFAULT_DESCRIPTION = "Current DOCKER_HOST based configuration"
_IN_MEMORY = "<IN MEMORY>"

_SETTINGS = {
    "from": "Copy named context's Docker endpoint configuration",
    "host": "Docker endpoint on which to connect",
    "ca": "Trust certs signed only by this CA",
    "cert": "Path to TLS certificate file",
    "key": "Path to TLS key file",
    "skip-tls-verify": "Skip TLS certificate validation",
}
_FILES = {"ca": CA, "cert": CERT, "key": KEY}
_BAD_ENDPOINT = "unable to create docker endpoint config"


# ---- one context ------------------------------------------------------------------------------------


def _default(options: Globals) -> Context:
    """The daemon that is meant where no context is named."""
    host = options.hosts[0] if options.hosts else variable("PROA_HOST") or variable("DOCKER_HOST")
    endpoint = {"Host": host or f"unix://{default_socket()}", "SkipTLSVerify": False}
    return Context({"Name": DEFAULT, "Metadata": {}, "Endpoints": {"docker": endpoint}}, {})


def _load(store: ContextStore, name: str, options: Globals) -> Context:
    return _default(options) if name == DEFAULT else store.load(name)


def _endpoint(store: ContextStore, settings: dict[str, str], options: Globals) -> Context:
    """What --docker describes, as a context of that endpoint alone. Raises Failure."""
    unknown = [key for key in settings if key not in _SETTINGS]
    if unknown:
        raise Failure(f"{_BAD_ENDPOINT}: unrecognized config key: {unknown[0]}")
    if settings.get("from"):
        try:
            source = _load(store, settings["from"], options)
        except Failure as exc:
            raise Failure(f"{_BAD_ENDPOINT}: {exc}") from None
        return Context({"Metadata": {}, "Endpoints": {"docker": source.endpoint}}, source.tls)
    skip = settings.get("skip-tls-verify") or "false"
    if skip not in TRUE | FALSE:
        raise Failure(f'{_BAD_ENDPOINT}: skip-tls-verify: parsing "{skip}": invalid syntax')
    endpoint: dict[str, Any] = {"Host": settings["host"]} if settings.get("host") else {}
    endpoint["SkipTLSVerify"] = skip in TRUE
    files = {}
    for key, name in _FILES.items():
        if settings.get(key):
            files[name] = _certificate(settings[key])
    return Context({"Metadata": {}, "Endpoints": {"docker": endpoint}}, {"docker": files} if files else {})


def _certificate(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise Failure(f"{_BAD_ENDPOINT}: open {path}: {(exc.strerror or '').lower()}") from None


def _describe(context: Context, description: str) -> None:
    if description:
        context.meta["Metadata"] = {**(context.meta.get("Metadata") or {}), "Description": description}


def _done(name: str, verb: str) -> int:
    show(f"{name}\n")
    _tell(f'Successfully {verb} context "{name}"')
    return 0


def _tell(text: str) -> None:
    posix.write(2, f"{text}\n".encode("utf-8", "surrogateescape"))


# ---- the verbs --------------------------------------------------------------------------------------


def create(parsed: Parsed) -> int:
    """`proa context create`."""
    name = parsed.args[0]
    store = ContextStore(parsed.options)
    settings: dict[str, str] = parsed.get("docker", {})
    if settings and parsed.get("from"):
        raise Failure("cannot use --docker flag when --from is set")
    _check_new(store, name)
    if settings:
        made = _endpoint(store, settings, parsed.options)
    else:
        made = _load(store, parsed.get("from") or current(parsed.options), parsed.options)
        if made.meta.get("Name") == DEFAULT:
            _describe(made, _DEFAULT_DESCRIPTION)
    _describe(made, parsed.get("description"))
    store.save(name, made)
    return _done(name, "created")


def _check_new(store: ContextStore, name: str) -> None:
    check_name(name)
    if store.exists(name):
        raise Failure(f'context "{name}" already exists')


def update(parsed: Parsed) -> int:
    """`proa context update`."""
    name = parsed.args[0]
    check_name(name)
    store = ContextStore(parsed.options)
    context = store.load(name)
    settings: dict[str, str] = parsed.get("docker", {})
    if settings:
        made = _endpoint(store, settings, parsed.options)
        context.meta["Endpoints"] = {**context.meta["Endpoints"], "docker": made.endpoint}
        context.tls = {key: value for key, value in context.tls.items() if key != "docker"} | made.tls
    _describe(context, parsed.get("description"))
    store.save(name, context)
    return _done(name, "updated")


def use(parsed: Parsed) -> int:
    """`proa context use`: for proa alone; Docker's CLI goes on with the one that it uses."""
    name = parsed.args[0]
    store = ContextStore(parsed.options)
    if name != DEFAULT:
        store.load(name)
    store.choose(name)
    show(f"{name}\n")
    _tell(f'Current context is now "{name}"')
    if name != DEFAULT and (host := _overriding()):
        _tell(
            f'Warning: {host} environment variable overrides the active context. To use "{name}", '
            f"either set the global --context flag, or unset {host} environment variable."
        )
    return 0


def _overriding() -> str:
    """The variable that names a daemon and so hides the chosen context."""
    return next((name for name in ("PROA_HOST", "DOCKER_HOST") if variable(name)), "")


def remove(parsed: Parsed) -> int:
    """`proa context rm`. Raises Failure with all that went wrong."""
    store = ContextStore(parsed.options)
    in_use, force = current(parsed.options), parsed.flag("force")
    errors = []
    for name in parsed.args:
        if name == DEFAULT:
            errors.append('context "default" cannot be removed')
        elif name == in_use and not force:
            errors.append(f'context "{name}" is in use, set -f flag to force remove')
        elif not store.exists(name) and not force:
            errors.append(f'context "{name}" does not exist')
        else:
            if store.choice() == name:
                store.choose(DEFAULT)
            store.remove(name)
            show(f"{name}\n")
    if errors:
        raise Failure("\n".join(errors))
    return 0


def show_current(parsed: Parsed) -> int:
    """`proa context show`."""
    show(f"{current(parsed.options)}\n")
    return 0


def list_contexts(parsed: Parsed) -> int:
    """`proa context ls`."""
    store = ContextStore(parsed.options)
    used = current(parsed.options)
    rows = [_row(store, name, used, parsed.options) for name in {*store.names(), used, DEFAULT}]
    rows.sort(key=lambda row: natural(row["Name"]))
    quiet = parsed.flag("quiet")
    form = Format("{{.Name}}" if quiet else parsed.get("format"), _TABLE)
    fields: dict[str, Callable[[Any], Any]] = {name: _field(name) for name in _HEADERS}
    show(render(rows, form, fields, _HEADERS))
    if not quiet and not parsed.options.context and not parsed.options.hosts and (host := _overriding()):
        _tell(
            f"Warning: {host} environment variable overrides the active context. To use a context, "
            f"either set the global --context flag, or unset {host} environment variable."
        )
    return 0


def _field(name: str) -> "Callable[[Any], Any]":
    return lambda row: row[name]


def _row(store: ContextStore, name: str, used: str, options: Globals) -> "dict[str, Any]":
    description = host = error = ""
    try:
        context = _load(store, name, options)
        description = _DEFAULT_DESCRIPTION if name == DEFAULT else context.description
        host = context.host
    except Failure as exc:
        error = str(exc)
    if len(error) > _ERROR_WIDTH:
        error = f"{error[: _ERROR_WIDTH - 1]}…"
    return {
        "Name": name,
        "Current": name == used,
        "Description": description,
        "DockerEndpoint": host,
        "Error": error,
    }


def inspect(parsed: Parsed) -> int:
    """`proa context inspect`: the current one where none is named."""
    from proa.cli.inspect import renderer

    print_all = renderer(parsed.get("format"))
    store = ContextStore(parsed.options)
    found, errors = [], []
    for name in parsed.args or [current(parsed.options)]:
        try:
            found.append(_inspected(store, name, parsed.options))
        except Failure as exc:
            errors.append(str(exc))
    print_all(found)
    if errors:
        raise Failure("\n".join(errors))
    return 0


def _inspected(store: ContextStore, name: str, options: Globals) -> "dict[str, Any]":
    context = _load(store, name, options)
    meta, tls = (_IN_MEMORY, _IN_MEMORY) if name == DEFAULT else store.folders(name)
    endpoints = dict(context.meta["Endpoints"])
    if "docker" in endpoints:
        endpoints["docker"] = {
            **context.endpoint,
            "SkipTLSVerify": bool(context.endpoint.get("SkipTLSVerify")),
        }
    return {
        "Name": name,
        "Metadata": context.meta.get("Metadata") or {},
        "Endpoints": endpoints,
        "TLSMaterial": {endpoint: list(files) for endpoint, files in context.tls.items()},
        "Storage": {"MetadataPath": meta, "TLSPath": tls},
    }


def export(parsed: Parsed) -> int:
    """`proa context export`."""
    from proa.cli.context_archive import pack

    name = parsed.args[0]
    store = ContextStore(parsed.options)
    archive = pack(_load(store, name, parsed.options))
    target = parsed.args[1] if len(parsed.args) > 1 else f"{name}.dockercontext"
    if target == "-":
        if os.isatty(1):
            raise Failure("cowardly refusing to export to a terminal, please specify a file path")
        show(archive)
        return 0
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(archive)
    except OSError as exc:
        raise Failure(f"open {target}: {(exc.strerror or '').lower()}") from None
    _tell(f'Written file "{target}"')
    return 0


def import_context(parsed: Parsed) -> int:
    """`proa context import`: nothing is kept of an archive that is not whole."""
    from proa.cli.context_archive import read, unpack

    name, source = parsed.args
    store = ContextStore(parsed.options)
    _check_new(store, name)
    store.save(name, unpack(read(source)))
    return _done(name, "imported")


def _long(short: str, verb: str) -> str:
    rows = "\n".join(f"{key:<20}{text}" for key, text in _SETTINGS.items())
    return (
        f"{short}\n\nDocker endpoint config:\n\n{'NAME':<20}DESCRIPTION\n{rows}\n\nExample:\n\n"
        f'$ proa context {verb} my-context --description "some description" '
        '--docker "host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file"'
    )


_DOCKER_FLAGS = (
    ("description", "", "string", "", "Description of the context"),
    ("docker", "", "stringToString", "[]", "set the docker endpoint"),
)

COMMANDS = {
    "context create": Command(
        "context create",
        "[OPTIONS] CONTEXT",
        "Create a context",
        create,
        (*_DOCKER_FLAGS, ("from", "", "string", "", "create context from a named context")),
        minimum=1,
        maximum=1,
        long=_long("Create a context", "create"),
    ),
    "context export": Command(
        "context export",
        "[OPTIONS] CONTEXT [FILE|-]",
        "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        export,
        minimum=1,
        maximum=2,
    ),
    "context import": Command(
        "context import",
        "CONTEXT FILE|-",
        "Import a context from a tar or zip file",
        import_context,
        minimum=2,
        maximum=2,
    ),
    "context inspect": Command(
        "context inspect",
        "[OPTIONS] [CONTEXT] [CONTEXT...]",
        "Display detailed information on one or more contexts",
        inspect,
        (("format", "f", "string", "", INSPECT_FORMAT_HELP),),
    ),
    "context ls": Command(
        "context ls",
        "[OPTIONS]",
        "List contexts",
        list_contexts,
        (
            ("format", "", "string", "", FORMAT_HELP),
            ("quiet", "q", "bool", "", "Only show context names"),
        ),
        maximum=0,
        aliases="proa context ls, proa context list",
    ),
    "context rm": Command(
        "context rm",
        "CONTEXT [CONTEXT...]",
        "Remove one or more contexts",
        remove,
        (("force", "f", "bool", "", "Force the removal of a context in use"),),
        minimum=1,
        aliases="proa context rm, proa context remove",
    ),
    "context show": Command(
        "context show", "", "Print the name of the current context", show_current, maximum=0
    ),
    "context update": Command(
        "context update",
        "[OPTIONS] CONTEXT",
        "Update a context",
        update,
        _DOCKER_FLAGS,
        minimum=1,
        maximum=1,
        long=_long("Update a context", "update"),
    ),
    "context use": Command("context use", "CONTEXT", "Set the current context", use, minimum=1, maximum=1),
}

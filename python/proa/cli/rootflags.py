"""The options before the command's name."""

import os

from proa.cli.failure import BadFlag, Failure, HelpRequested
from proa.cli.flags import PROGRAM, Command, Globals, Parsed, scan

_CERTIFICATES = "${DOCKER_CONFIG:-~/.docker}"


def _never(_: Parsed) -> int:
    return 0


ROOT = Command(
    "",
    "[OPTIONS] COMMAND",
    "A container engine that starts containers in milliseconds",
    _never,
    (
        ("config", "", "string", f'"{_CERTIFICATES}"', "Location of client config files"),
        (
            "context",
            "c",
            "string",
            "",
            "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var)",
        ),
        ("debug", "D", "bool", "", "Enable debug mode"),
        ("host", "H", "list", "", "Daemon socket to connect to"),
        (
            "log-level",
            "l",
            "string",
            '"info"',
            'Set the logging level ("debug", "info", "warn", "error", "fatal")',
        ),
        ("tls", "", "bool", "", "Use TLS; implied by --tlsverify"),
        ("tlscacert", "", "string", f'"{_CERTIFICATES}/ca.pem"', "Trust certs signed only by this CA"),
        ("tlscert", "", "string", f'"{_CERTIFICATES}/cert.pem"', "Path to TLS certificate file"),
        ("tlskey", "", "string", f'"{_CERTIFICATES}/key.pem"', "Path to TLS key file"),
        ("tlsverify", "", "bool", "", "Use TLS and verify the remote"),
        ("version", "v", "bool", "", "Print version information and quit"),
    ),
    interspersed=False,
)


def parse_root(argv: list[str]) -> tuple[Globals, list[str]]:
    """(the options, the command and what follows). Raises Failure, HelpRequested."""
    options = Globals()
    parsed = Parsed(ROOT, options)
    try:
        rest = scan(ROOT.flags, argv, parsed.values, interspersed=False)
    except BadFlag as exc:
        raise Failure(
            f"{exc}\n\nUsage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]\n\n"
            f"Run '{PROGRAM} --help' for more information",
            125,
        ) from None
    if parsed.flag("version"):
        from proa.cli.main import VERSION

        os.write(1, f"proa version {VERSION}\n".encode())
        raise Failure("", 0)
    if parsed.get("log-level", "info") not in (
        "debug",
        "info",
        "warn",
        "warning",
        "error",
        "fatal",
        "panic",
        "trace",
    ):
        raise Failure(f"Unable to parse logging level: {parsed.get('log-level')}")
    options.hosts = parsed.get("host", [])
    for name in ("config", "context", "debug", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey"):
        if name in parsed.values:
            setattr(options, name, parsed.values[name])
    if not rest:
        raise HelpRequested
    return options, rest

"""`registry serve` and `registry gc`: the registry server, a process of its own; no daemon is asked.

This process becomes the server: what the server's composition root takes as flags is listed here for the
help text and handed over as it was given.
"""

import os
import sys

from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed

_ROOT = ("root", "", "string", "/var/lib/proa-registry", "Where repositories, blobs and uploads are kept")

_SERVE = (
    ("addr", "", "string", "127.0.0.1:5000", "Address to listen on (HOST:PORT)"),
    (
        "htpasswd",
        "",
        "string",
        "",
        "File of users and bcrypt hashes (htpasswd -B); without it anyone may come in",
    ),
    ("max-blob-size", "", "int", "68719476736", "The most bytes that a blob may have"),
    ("read-only", "", "bool", "", "Refuse pushes and deletions"),
    _ROOT,
    ("tls-ca", "", "string", "", "Ask clients for certificates signed by this CA"),
    ("tls-cert", "", "string", "", "TLS certificate file"),
    ("tls-key", "", "string", "", "TLS key file"),
    ("upstream", "", "string", "", "Cache what this registry has (a URL, e.g. https://registry-1.docker.io)"),
    ("upstream-password-file", "", "string", "", "File with the password at the upstream"),
    ("upstream-ttl", "", "string", "60", "Seconds for which a cached tag is believed"),
    ("upstream-username", "", "string", "", "User at the upstream"),
)

_GC = (
    ("delete-untagged", "", "bool", "", "Delete manifests that no tag leads to, too"),
    ("grace", "", "string", "86400", "Keep what was pushed or asked for within so many seconds"),
    _ROOT,
)


def become(parsed: Parsed) -> int:
    """Replace this process by the server's. Raises Failure."""
    words = [sys.executable, "-P", "-m", "proa.registryd", parsed.command.path.split()[-1]]
    for name, value in parsed.values.items():
        if value is not False:
            words.append(f"--{name}" if value is True else f"--{name}={value}")
    sys.stdout.flush()
    try:
        os.execv(sys.executable, words)
    except OSError as exc:
        raise Failure(f"cannot start the registry: {exc.strerror}") from exc


COMMANDS = {
    "registry serve": Command(
        "registry serve", "[OPTIONS]", "Serve a registry, or a cache of one", become, _SERVE, maximum=0
    ),
    "registry gc": Command(
        "registry gc", "[OPTIONS]", "Delete blobs that no manifest needs", become, _GC, maximum=0
    ),
}

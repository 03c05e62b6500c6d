"""Plugins of Docker's CLI (`compose` above all): found where that finds them, and run at proa's daemon.

A plugin is a program `docker-NAME` in one of the directories below; it is called with the global options, its
name and what follows, and reaches the daemon by itself. Source: the observed behaviour of docker 28; the
directories are those of docs.docker.com's "Install the Compose plugin".
"""

import os

from proa.cli.context_store import DEFAULT, current
from proa.cli.environment import config_directory
from proa.cli.failure import Failure
from proa.cli.flags import PROGRAM
from proa.cli.transport import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from proa.cli.flags import Globals

_DIRECTORIES = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)

# What there is in Docker's CLI and not here, and why not.
_SWARM = "proa is the engine of one host and has no swarm mode"
ABSENT = {
    "checkpoint": "checkpoints are not there",
    "config": _SWARM,
    "node": _SWARM,
    "plugin": "plugins for volumes are found by their sockets, and not managed",
    "secret": _SWARM,
    "service": _SWARM,
    "stack": _SWARM,
    "swarm": _SWARM,
    "trust": "content trust is not there",
}


def find(name: str, options: "Globals") -> str:
    """The plugin's path; empty where there is none."""
    if not name.isalnum() or not name.islower():
        return ""
    for directory in (f"{config_directory(options)}/cli-plugins", *_DIRECTORIES):
        path = f"{directory}/docker-{name}"
        if os.access(path, os.X_OK):
            return path
    return ""


def run(path: str, words: list[str], options: "Globals") -> "NoReturn":
    """Become the plugin. Raises Failure where no daemon answers or the plugin cannot be executed."""
    # By this the plugin knows that it is one.
    environment = {**os.environ, "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": PROGRAM}
    command = [path]
    if options.config:
        command += ["--config", options.config]
    context = current(options)
    if context != DEFAULT:
        command += ["--context", context]
    for flag in ("tls", "tlsverify"):
        if getattr(options, flag):
            command.append(f"--{flag}")
    for flag in ("tlscacert", "tlscert", "tlskey"):
        if getattr(options, flag):
            command += [f"--{flag}", getattr(options, flag)]
    if context == DEFAULT:
        api = client(options)
        if api.host.startswith("unix://"):
            # It is started where it is the local one.
            api.ping()
        environment["DOCKER_HOST"] = api.host
    try:
        os.execve(path, [*command, *words], environment)
    except OSError as exc:
        raise Failure(f"{path}: {(exc.strerror or '').lower()}", 126) from None

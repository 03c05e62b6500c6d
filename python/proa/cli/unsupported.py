"""Commands of docker that proa knows and does not have yet: one clear line instead of `unknown command`."""

from proa.cli.failure import Failure
from proa.cli.flags import PROGRAM, Command, Parsed

NAMES = {
    "build": "Build an image from a Dockerfile",
}


def refuse(parsed: Parsed) -> int:
    """Say so."""
    raise Failure(f"{PROGRAM} {parsed.command.path}: not supported yet")


COMMANDS = {
    name: Command(name, "[OPTIONS]", short, refuse, interspersed=False) for name, short in NAMES.items()
}

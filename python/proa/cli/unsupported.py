"""Commands of docker that proa knows and does not have yet: one clear line instead of `unknown command`."""

from proa.cli.failure import Failure
from proa.cli.flags import PROGRAM, Command, Parsed

NAMES = {
    "manifest annotate": "Add additional information to a local image manifest",
    "manifest create": "Create a local manifest list for annotating and pushing to a registry",
    "manifest push": "Push a manifest list to a repository",
    "manifest rm": "Delete one or more manifest lists from local storage",
}


def refuse(parsed: Parsed) -> int:
    """Say so."""
    raise Failure(f"{PROGRAM} {parsed.command.path}: not supported yet")


COMMANDS = {
    name: Command(name, "[OPTIONS]", short, refuse, interspersed=False) for name, short in NAMES.items()
}

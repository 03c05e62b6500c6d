"""What the system tells a command, asked of the C module: `import os` alone takes a millisecond."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.flags import Globals


CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"
"""Certificates of a daemon, by their files' names."""


def variable(name: str) -> str:
    """A variable of the environment that this process was started with; empty where there is none."""
    return posix.environ.get(name.encode("utf-8", "surrogateescape"), b"").decode("utf-8", "surrogateescape")


def absolute(path: str) -> str:
    """A path from the root on, without `.` and `..`."""
    from os.path import abspath

    return abspath(path)


def config_directory(options: "Globals") -> str:
    """Where the client's settings are."""
    found = options.config or variable("DOCKER_CONFIG")
    if found:
        return found
    home = variable("HOME")
    if not home:
        from os.path import expanduser

        home = expanduser("~")
    return f"{home}/.docker"


def choice_file(options: "Globals") -> str:
    """The file with the name of the context that `proa context use` chose."""
    return f"{config_directory(options)}/contexts/proa-current"


def exists(path: str) -> bool:
    """Whether a path leads to something."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True

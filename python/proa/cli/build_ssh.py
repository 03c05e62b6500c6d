"""`--ssh`: sockets of agents for the build's commands, and agents of our own for keys in files.

Keys never reach the daemon: OpenSSH's ssh-agent holds them here, as long as the build lasts. It ends with the
pipe that it reads from, so that no end of this process leaves it behind.

Source: the documentation of `docker build`, --ssh; ssh-agent(1), ssh-add(1).
"""

import os
import stat
from contextlib import suppress

from proa.cli.environment import absolute
from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess

_WAIT = ("sh", "-c", "echo; cat >/dev/null; kill $SSH_AGENT_PID")
"""What the agent runs: says that the socket is there, and ends it with the end of its own input."""


class Agents:
    """The agents of one build, by id; the ones of our own end with the block."""

    def __init__(self, wishes: "list[str]") -> None:
        self._wishes = wishes
        self._running: list[subprocess.Popen[bytes]] = []
        self._directories: list[str] = []

    def __enter__(self) -> dict[str, str]:
        """Sockets by id. Raises Failure."""
        try:
            return dict(self._agent(text) for text in self._wishes)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *reason: object) -> None:
        for agent in self._running:
            # The end of its input ends it.
            agent.communicate()
        for directory in self._directories:
            # The agent may do it itself, a moment later.
            with suppress(FileNotFoundError):
                os.unlink(f"{directory}/agent")
            os.rmdir(directory)

    def _agent(self, text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        paths = value.split(",") if equals else [os.environ.get("SSH_AUTH_SOCK", "")]
        if not all(paths):
            raise Failure("ERROR: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
        sockets = [path for path in paths if _is_socket(path)]
        if not sockets:
            return name, self._start(paths)
        if len(paths) > 1:
            raise Failure("ERROR: only single socket allowed")
        return name, absolute(paths[0])

    def _start(self, keys: "list[str]") -> str:
        """An agent with these keys; its socket."""
        import subprocess
        import tempfile

        directory = tempfile.mkdtemp(prefix="proa-ssh-")
        self._directories.append(directory)
        path = f"{directory}/agent"
        try:
            agent = subprocess.Popen(
                ["ssh-agent", "-a", path, *_WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._running.append(agent)
            if agent.stdout is None or not agent.stdout.readline():
                raise Failure("ERROR: ssh-agent could not be started")
            # A passphrase is asked for on the terminal, by ssh-add itself.
            added = subprocess.run(
                ["ssh-add", "-q", "--", *keys], env={**os.environ, "SSH_AUTH_SOCK": path}, check=False
            )
        except FileNotFoundError as exc:
            raise Failure(
                f"ERROR: --ssh with a key needs {exc.filename}: install OpenSSH, or give an agent's socket"
            ) from None
        if added.returncode:
            raise Failure(f"ERROR: could not parse ssh: {', '.join(keys)}: ssh-add failed")
        return path


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as exc:
        raise Failure(f"ERROR: failed to open {path}: {(exc.strerror or '').lower()}") from None

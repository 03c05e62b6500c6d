"""How a command of the CLI ends when it does not end well: the text for stderr and the exit code."""


class Failure(Exception):
    """Ends the command: `str()` goes to stderr (nothing when empty), `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class DaemonError(Failure):
    """The daemon refused: `status` is HTTP's, `reason` its own words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"Error response from daemon: {reason}")
        self.status = status
        self.reason = reason


class ConnectionFailed(Failure):
    """Nothing answers at the daemon's address, or the connection broke."""


class BadFlag(Exception):
    """A flag's value does not parse; the parser adds which flag it was."""


class HelpRequested(Exception):
    """The command line asks for its help text; `shorthand` when by the deprecated -h."""

    def __init__(self, shorthand: bool = False) -> None:
        super().__init__()
        self.shorthand = shorthand

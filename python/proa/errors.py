"""The errors of proa, named by cause; only the API server knows their status numbers.

Message texts match Docker's where Docker has one: clients match on them.
"""


class ProaError(Exception):
    """The root of every error that crosses a room's edge; `str()` is what the user reads."""


class InvalidParameter(ProaError):
    """The request is malformed or asks for what can never be (400)."""


class Unauthorized(ProaError):
    """Credentials are missing or wrong (401)."""


class Forbidden(ProaError):
    """The caller may not do this (403)."""


class NotFound(ProaError):
    """The object does not exist (404)."""


class Conflict(ProaError):
    """The object's state does not allow this (409)."""


class NotModified(ProaError):
    """Nothing to do: it is so already (304)."""


class NotImplemented_(ProaError):
    """proa or this host cannot do this (501)."""


class Unavailable(ProaError):
    """What it needs is not there now: keeper down, shutting down (503)."""


class System(ProaError):
    """The host failed us: a full disk, a failed system call (500)."""


class PortTaken(System):
    """A program of the host has the port, or may not be denied it (500)."""

    def __init__(self, message: str, port: str) -> None:
        """`port` is `address:port/protocol`."""
        super().__init__(message)
        self.port = port


class StartFailed(ProaError):
    """The container's process could not be started; the text carries step, path and errno.

    `code` is the exit code Docker gives a container that failed so: 126, 127 or 128.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

"""The keeper's failures in Docker's words: (step, subject, errno) to one class of proa.errors, totally.

Clients decide by these texts: the docker CLI's `run` exits with 127 for "executable file not found" and
"no such file or directory", with 126 for "permission denied", so the codes here follow the texts, too.

Source: moby daemon/errors.go (translateContainerdStartErr), docker/cli command/container/run.go.
"""

import os
from errno import EACCES, EISDIR, ELOOP, ENOENT, ENOTDIR, EXDEV

from proa.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    PortTaken,
    ProaError,
    StartFailed,
    System,
    Unavailable,
)
from proa.schema.keeper import Failure

NOT_FOUND, NOT_INVOCABLE, FAILED = 127, 126, 128
_SUBPATHS = ("volume subpath ", "look up ")
_WRONG_KIND = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)


def start_failure(failure: Failure) -> ProaError:
    """Why a container was not started."""
    return _refused(failure) or _start_failed("OCI runtime create failed", failure)


def exec_failure(failure: Failure) -> ProaError:
    """Why an exec was not started."""
    return _refused(failure) or _start_failed("OCI runtime exec failed: exec failed", failure)


def failure(failure: Failure) -> ProaError:
    """Why any other request failed."""
    return _refused(failure) or System(_told(failure))


def port_failure(failure: Failure) -> ProaError:
    """Why ports are not held."""
    if failure.step == "ports" and failure.subject.startswith("bind "):
        port = failure.subject.removeprefix("bind ")
        return PortTaken(f"failed to bind host port for {port}: {errno_text(failure.errno)}", port)
    return _refused(failure) or System(_told(failure))


def errno_text(errno: int) -> str:
    """The errno as Go's syscall package writes it, which is how Docker's texts have it."""
    return os.strerror(errno).lower()


def _refused(failure: Failure) -> ProaError | None:
    """What the keeper found before it asked the kernel for anything."""
    match failure.step:
        case "not_found":
            return NotFound(failure.subject)
        case "conflict":
            return Conflict(failure.subject)
        case "invalid":
            return InvalidParameter(failure.subject)
        case "unavailable":
            return Unavailable(failure.subject)
        case _:
            return None


def _start_failed(prefix: str, failure: Failure) -> StartFailed:
    text = f"{prefix}: unable to start container process: {_told(failure)}: unknown"
    return StartFailed(text, _code(text, failure.errno))


def _told(failure: Failure) -> str:
    if failure.step == "exec":
        return _exec_told(failure.subject, failure.errno)
    if failure.step in ("cwd", "chdir"):
        return f'chdir to cwd ("{failure.subject}") set in config.json failed: {errno_text(failure.errno)}'
    if failure.step == "mount" and failure.subject.startswith(_SUBPATHS):
        return _subpath_told(failure.subject, failure.errno)
    told = " ".join(part for part in (failure.step, failure.subject) if part)
    if not failure.errno:
        return told
    hint = _WRONG_KIND if failure.errno == ENOTDIR and "mount" in failure.step else ""
    return f"{told}: {errno_text(failure.errno)}{hint}"


def _subpath_told(subject: str, errno: int) -> str:
    """Of a volume or an image. Source: moby daemon/volume/safepath/errors.go."""
    path = next(subject.removeprefix(words) for words in _SUBPATHS if subject.startswith(words))
    if errno in (EXDEV, ELOOP):
        return f"path concatenation escapes the base directory: {path}"
    return f"cannot access path {path}: {errno_text(errno)}"


def _exec_told(program: str, errno: int) -> str:
    if errno == ENOENT and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH'
    if errno == ENOENT:
        return f'exec: "{program}": stat {program}: no such file or directory'
    if errno in (EACCES, EISDIR):
        return f'exec: "{program}": {errno_text(errno)}'
    return f"exec {program}: {errno_text(errno)}"


def _code(text: str, errno: int) -> int:
    if "executable file not found" in text or errno == ENOENT:
        return NOT_FOUND
    if _WRONG_KIND in text:
        return FAILED
    return NOT_INVOCABLE if errno in (EACCES, EISDIR, ENOTDIR) else FAILED

"""Start the local daemon when nothing listens on its socket: the embedded default.

Command lines that race hold one lock: the first starts the daemon, the others find it running.
"""

import os
import sys

from proa.cli.failure import ConnectionFailed
from proa.cli.transport import unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG_NAME = "proad.log"
LOCK_NAME = "start.lock"

# Held by a daemon as long as it lives.
DAEMON_LOCK_NAME = "proad.lock"

# A daemon that has to look after many containers may take its time.
READY_MS = 60_000

# How often, and how many milliseconds apart, to look for a daemon that something else is starting: as long as
# for one of ours. One that was on its way down lets go of the roots meanwhile, and ours is started again.
ATTEMPTS = 1200
PAUSE_MS = 50
STARTS = 3


def start_and_connect(path: str) -> "Any":
    """A connection to the daemon, started for it. Raises ConnectionFailed with why it did not start."""
    if os.geteuid() != 0:
        raise ConnectionFailed(
            f"Cannot connect to the Docker daemon at unix://{path}. Only root can start it: "
            "rootless mode is not available yet"
        )
    exec_root = os.path.dirname(path)
    try:
        os.makedirs(exec_root, mode=0o700, exist_ok=True)
        lock = os.open(f"{exec_root}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConnectionFailed(f"Cannot start the proa daemon: {exc.strerror}: {exc.filename}") from exc
    try:
        return _start_locked(path, exec_root, lock)
    finally:
        os.close(lock)


def _start_locked(path: str, exec_root: str, lock: int) -> "Any":
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX)
    before = 0
    for _ in range(STARTS):
        found = _look(path)
        if found is not None:
            return found
        ready, before = _start(exec_root)
        if ready or not _is_held(f"{exec_root}/{DAEMON_LOCK_NAME}"):
            break
        found = _look_again(path, f"{exec_root}/{DAEMON_LOCK_NAME}")
        if found is not None:
            return found
    try:
        return unix_socket(path)
    except OSError as exc:
        reason = _last_line(f"{exec_root}/{LOG_NAME}", before)
        text = f"Cannot connect to the Docker daemon at unix://{path}: the daemon did not start"
        raise ConnectionFailed(f"{text}: {reason}" if reason else text) from exc


def _look(path: str) -> "Any":
    """A connection; None where nobody listens. Raises OSError."""
    try:
        return unix_socket(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


def _start(exec_root: str) -> "tuple[bool, int]":
    """Start the daemon; whether it said that it is ready, and where what it writes begins in the log."""
    log = os.open(f"{exec_root}/{LOG_NAME}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(log).st_size
        return _spawn(log), before
    finally:
        os.close(log)


def _spawn(log: int) -> bool:
    """Start the daemon in a session of its own; whether it said that it is ready."""
    import _signal  # type: ignore[import-not-found]

    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # The number that the daemon sees must not be one that the file actions replace.
    os.set_inheritable(writer, True)
    try:
        pid = os.posix_spawn(
            sys.executable,
            _command(writer),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigdef=[_signal.SIGINT, _signal.SIGPIPE],
        )
    finally:
        os.close(writer)
        os.close(null)
    try:
        ready = _is_readable(reader, READY_MS) and bool(os.read(reader, 1))
    finally:
        os.close(reader)
    # A daemon that detaches leaves its first process behind; one that failed is done as well.
    os.waitpid(pid, os.WNOHANG)
    return ready


def _is_readable(fd: int, milliseconds: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _command(ready_fd: int) -> list[str]:
    # -P: nothing in the caller's working directory may shadow a module of a process that runs as root.
    command = [sys.executable, "-P", "-m", "proa.daemon", "--detach", "--ready-fd", str(ready_fd)]
    for name, option in (("PROA_EXEC_ROOT", "--exec-root"), ("PROA_DATA_ROOT", "--data-root")):
        if os.environ.get(name):
            command += [option, os.environ[name]]
    return command


def _is_held(lock: str) -> bool:
    """Whether another daemon is there already, on its way up or down."""
    import fcntl

    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _look_again(path: str, lock: str) -> "Any":
    """A connection to another daemon that is coming up (a service manager's); None where it has gone down, or
    takes too long. Raises OSError.
    """
    import select

    for _ in range(ATTEMPTS):
        found = _look(path)
        if found is not None or not _is_held(lock):
            return found
        select.poll().poll(PAUSE_MS)
    return None


def _last_line(log: str, before: int) -> str:
    """The last thing that the daemon wrote since it was started."""
    try:
        with open(log, "rb") as file:
            file.seek(before)
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line), "")

"""The terminal that the CLI runs on: raw mode with certain restoration, and its size."""

import _signal  # type: ignore[import-not-found]
import posix
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


def size(fd: int = 1) -> tuple[int, int]:
    """(rows, columns) of the terminal at `fd`, zeros when it is none."""
    try:
        columns, rows = posix.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


class RawMode:
    """Bytes in and out as they are, until the block ends, whichever way it ends.

    Signals that would end the process restore the terminal first.
    """

    __slots__ = ("_fd", "_saved")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> "RawMode":
        self._saved = termios.tcgetattr(self._fd)
        mode = termios.tcgetattr(self._fd)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
            if _signal.getsignal(number) == _signal.SIG_DFL:
                _signal.signal(number, self._die)
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Back to what it was; harmless when repeated."""
        saved, self._saved = self._saved, None
        if saved is not None:
            try:
                termios.tcsetattr(self._fd, termios.TCSANOW, saved)
            except termios.error:
                # The terminal went away: there is nothing to restore.
                return

    def _die(self, number: int, _: object) -> None:
        self.restore()
        _signal.signal(number, _signal.SIG_DFL)
        posix.kill(posix.getpid(), number)


def follow_size(resize: "Callable[[int, int], None]") -> None:
    """Call `resize(rows, columns)` now and whenever the terminal changes."""

    def changed(_: int = 0, __: object = None) -> None:
        rows, columns = size()
        if rows or columns:
            resize(rows, columns)

    _signal.signal(_signal.SIGWINCH, changed)
    changed()

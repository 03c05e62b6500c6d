"""Rows of a pull or push on a terminal: one a layer, in the order they came, drawn over as they change.

rich knows a terminal's width and height and how to draw over itself; nothing else of the CLI needs it, so it
is imported where there is a terminal to draw on and something to draw.

Source: the observed output of docker 28.
"""

import os
import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from proa.cli.human import decimal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_APART = 0.05
"""Seconds between two drawings; what changed in between is drawn with the next one, or at the end."""
_BAR = 50


class _Console(Console):
    """Never hides the cursor: Ctrl-C ends this process on the spot, and nobody would show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Rows:
    """The rows that can still change; `close` leaves them as they are."""

    def __init__(self, out: int) -> None:
        self._file = os.fdopen(os.dup(out), "w", encoding="utf-8", errors="replace")
        self._console = _Console(file=self._file, highlight=False, markup=False, emoji=False)
        self._rows: dict[str, str] = {}
        self._live: Live | None = None
        self._drawn = 0.0

    def show(self, layer: str, status: str, detail: "dict[str, Any]") -> None:
        """A row's new content."""
        self._rows[layer] = f"{layer}: {status} {bar(detail.get('current') or 0, detail.get('total') or 0)}"
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        if time.monotonic() - self._drawn >= _APART:
            self._draw()

    def close(self) -> None:
        """Draw the last state; what comes next is below it. Rows of the same name are new ones then."""
        if self._live is None:
            return
        self._draw()
        self._live.stop()
        self._live = None
        self._rows.clear()
        self._file.flush()

    def _draw(self) -> None:
        assert self._live is not None
        lines = (Text(row.rstrip(), no_wrap=True, overflow="crop") for row in self._rows.values())
        self._live.update(Group(*lines), refresh=True)
        self._drawn = time.monotonic()


def bar(current: int, total: int) -> str:
    """Docker's `[====>    ]  1.2MB/3MB`; empty before the first byte."""
    if not current:
        return ""
    if total <= 0:
        return decimal_size(current)
    filled = min(_BAR, current * _BAR // total)
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}] {decimal_size(current):>8}/{decimal_size(total)}"

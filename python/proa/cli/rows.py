"""Rows of a pull or push on a terminal: one a layer, in the order they came, drawn over as they change.

rich knows the terminal's width and how to draw over itself; nothing else of the CLI needs it, so it is
imported where there is a terminal to draw on and something to draw.

Source: the observed output of docker 28.
"""

import os
import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proa.cli.human import decimal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_APART = 0.05
"""Seconds between two drawings; what changed in between is drawn with the next one, or at the end."""
_BAR = 50


class Rows:
    """The rows that can still change; `close` leaves them as they are."""

    def __init__(self, out: int) -> None:
        self._file = os.fdopen(os.dup(out), "w", encoding="utf-8", errors="replace")
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False)
        self._rows: dict[str, tuple[str, int, int]] = {}
        self._live: Live | None = None
        self._drawn = 0.0

    def show(self, layer: str, status: str, detail: "dict[str, Any]") -> None:
        """A row's new content."""
        self._rows[layer] = status, detail.get("current") or 0, detail.get("total") or 0
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
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
        table = Table.grid(padding=(0, 1), pad_edge=False)
        for _ in range(3):
            table.add_column(no_wrap=True)
        for layer, (status, current, total) in self._rows.items():
            line = Text(f"{layer}: {status}")
            if not current:
                table.add_row(line)
            elif total <= 0:
                table.add_row(line, Text(decimal_size(current)))
            else:
                bar = ProgressBar(total, min(current, total), width=_BAR)
                table.add_row(line, bar, Text(f"{decimal_size(current):>8}/{decimal_size(total)}"))
        self._live.update(table, refresh=True)
        self._drawn = time.monotonic()

"""A build on a terminal: its steps in parallel, each with its time, and the last lines of those that run.

rich draws, on a clock of its own, so that times go on while no event comes in; what does not fit the height
of the terminal goes from the top.

Source: the observed output of docker 28 (BuildKit's terminal printer).
"""

import os
import time

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from proa.cli.build_progress import Step, Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PER_SECOND = 10
_OUTPUT_LINES = 6


class _Console(Console):
    """Never hides the cursor: Ctrl-C ends this process on the spot, and nobody would show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Terminal:
    """Draws until it is closed, and leaves the last state standing."""

    def __init__(self, out: int) -> None:
        self._file = os.fdopen(os.dup(out), "w", encoding="utf-8", errors="replace")
        self._console = _Console(file=self._file, highlight=False, markup=False, emoji=False)
        self._steps = Steps(time.monotonic)
        self._picture = Picture(self._steps)
        self._live = Live(self._picture, console=self._console, refresh_per_second=_PER_SECOND)
        self._live.start()

    def show(self, event: "dict[str, Any]") -> None:
        """One event."""
        steps = self._steps
        if "vertex" in event:
            step = steps.vertex(event["vertex"])
            if step is not None and step.ended:
                steps.rest(step)
        elif "output" in event:
            steps.output(event["output"])
        elif "pull" in event:
            steps.pull(event["pull"])
        elif "status" in event:
            if (told := steps.all.get(event["status"]["number"])) is not None:
                told.status = event["status"]["text"]
        elif "miss" in event:
            miss = event["miss"]
            steps.step(miss["number"], miss.get("title", "")).status = f"not cached: {miss['text']}"
        elif "stream" in event:
            self._console.print(Text(event["stream"].rstrip("\n")))
        else:
            steps.note(event)
            if "plan" in event:
                steps.pulled()

    def close(self, failed: bool) -> None:
        """Draw the last state; what is said at the end comes below it."""
        self._picture.finished = True
        self._live.stop()
        self._file.write(self._steps.closing(failed))
        self._file.close()


class Picture:
    """What is drawn: rich asks for it anew each time."""

    def __init__(self, steps: Steps) -> None:
        self.finished = False
        self._steps = steps
        self._begun = steps.clock()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self.lines(options.max_width)
        room = console.height - 2
        if not self.finished and len(lines) > room:
            lines = [lines[0], *lines[len(lines) - room + 1 :]]
        for line in lines:
            yield Text(line, no_wrap=True, overflow="crop")

    def lines(self, width: int) -> list[str]:
        """The head, and the steps with their last lines."""
        steps = list(self._steps.all.values())
        now = self._steps.clock()
        done = sum(step.ended for step in steps)
        total = max(self._steps.total, len(steps))
        state = " FINISHED" if self.finished else ""
        head = f"[+] Building {now - self._begun:.1f}s ({done}/{total}){state}"
        found = [_row(head, "docker:default", width)]
        for step in steps:
            found += self._step(step, now, width)
        return found

    def _step(self, step: Step, now: float, width: int) -> list[str]:
        running = not (step.ended or self.finished)
        seconds = step.seconds if step.ended else now - step.begun
        mark = "ERROR " if step.error else "CACHED " if step.cached else ""
        lines = [_row(f" => {mark}{step.title}", f"{seconds:.1f}s", width)]
        if step.status and (running or step.status.startswith("not cached")):
            lines.append(_row(f" => => {step.status}", "", width))
        if running:
            lines += [_row(f" => => # {_printable(line)}", "", width) for line in step.log[-_OUTPUT_LINES:]]
        return lines


def _row(left: str, right: str, width: int) -> str:
    room = width - len(right) - 1
    left = left.replace("\n", " ")
    if len(left) > room:
        left = left[: max(room - 3, 0)] + "..."
    return f"{left:<{room}} {right}".rstrip()


def _printable(line: str) -> str:
    """A line of a step's output, without what would move the cursor."""
    text = line.partition(" ")[2].rpartition("\r")[2]
    return "".join(letter for letter in text.expandtabs() if letter.isprintable())

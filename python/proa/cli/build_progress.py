"""How a build is shown while it runs: BuildKit's plain lines, steps in parallel on a terminal, or neither.

The daemon's events are those of engine/builds/reporting.py; a daemon that sends Docker's lines instead (the
context was an archive) has them shown as they are.

Source: the observed output of docker 28 (BuildKit's progress printer).
"""

import os
import time

from proa.cli.failure import Failure
from proa.cli.streams import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Display(Protocol):
        """Who is told of a build's events."""

        def show(self, event: dict[str, Any]) -> None:
            """One event."""
            ...

        def close(self, failed: bool) -> None:
            """There will be no more of them."""
            ...


MODES = ("auto", "none", "plain", "quiet", "rawjson", "tty")
_BEGINNING = '#0 building with "default" instance using docker driver'
"""What tools that read BuildKit's lines wait for."""

_KEPT = 200
"""Lines of a step's output that are shown again when it fails."""


class Step:
    """One vertex: its place among those shown, and what came of it."""

    __slots__ = (
        "begun",
        "cached",
        "ended",
        "error",
        "log",
        "number",
        "seconds",
        "status",
        "title",
        "unfinished",
    )

    def __init__(self, number: int, title: str, begun: float) -> None:
        self.number = number
        self.title = title
        self.begun = begun
        self.cached = False
        self.ended = False
        self.error = ""
        self.seconds = 0.0
        self.log: list[str] = []
        self.status = ""
        self.unfinished: dict[int, str] = {}

    @property
    def failed(self) -> bool:
        """Whether it ended by a fault of its own."""
        return self.error not in ("", "canceled")

    def lines(self, stream: int, text: str) -> list[str]:
        """The whole lines that `text` completes; the rest waits for its end."""
        *whole, self.unfinished[stream] = (self.unfinished.get(stream, "") + text).split("\n")
        return [line.rstrip("\r") for line in whole]

    def rest(self) -> list[str]:
        """Lines that never got their end."""
        found = [line for line in self.unfinished.values() if line]
        self.unfinished.clear()
        return found


class Steps:
    """The vertices of one build, in the order in which they were heard of."""

    def __init__(self, clock: "Callable[[], float]") -> None:
        self.clock = clock
        self.all: dict[Any, Step] = {}
        self.total = 0
        self.warnings: list[dict[str, Any]] = []
        self.excerpt = ""

    def step(self, number: "Any", title: str) -> Step:
        """The step of a vertex or of a pull."""
        found = self.all.get(number)
        if found is None:
            found = self.all[number] = Step(len(self.all) + 1, title, self.clock())
        return found

    def vertex(self, event: "dict[str, Any]") -> Step | None:
        """What a `vertex` event says; None where it has nothing to show."""
        number = event["number"]
        if number not in self.all and not event.get("title"):
            return None
        step = self.step(number, event.get("title", ""))
        step.cached = bool(event.get("cached"))
        step.error = event.get("error", "")
        step.seconds = event.get("seconds", 0.0)
        step.ended = step.cached or bool(event.get("done") or "error" in event)
        return step

    def output(self, event: "dict[str, Any]") -> tuple[Step, list[str]] | None:
        """The step and the stamped lines that an `output` event completes."""
        step = self.all.get(event["number"])
        if step is None:
            return None
        return step, self._stamped(step, step.lines(event.get("stream", 1), event["text"]))

    def rest(self, step: Step) -> list[str]:
        """What a step that ended had not ended with a newline."""
        return self._stamped(step, step.rest())

    def pull(self, event: "dict[str, Any]") -> Step:
        """What a `pull` event says: the step stands for the whole pull."""
        reference = event.get("reference", "")
        step = self.step(("pull", reference), f"[internal] pull {reference}")
        layer, status = event.get("id", ""), event.get("status", "")
        step.status = f"{layer}: {status}" if layer else status
        return step

    def pulled(self) -> list[Step]:
        """The pulls, which are done when the plan is there."""
        found = [step for key, step in self.all.items() if isinstance(key, tuple) and not step.ended]
        for step in found:
            step.ended, step.seconds = True, self.clock() - step.begun
        return found

    def note(self, event: "dict[str, Any]") -> None:
        """Events that are shown at the end, and how many steps there are."""
        if "warning" in event:
            self.warnings.append(event)
        elif "failure" in event:
            self.excerpt = event["failure"].get("excerpt", "")
        elif "plan" in event:
            self.total = event["plan"].get("vertices", 0)

    def closing(self, failed: bool) -> str:
        """What follows the steps: the output of those that failed, the Dockerfile's lines, the warnings."""
        text = "".join(_failed_log(step) for step in self.all.values() if step.failed)
        if self.warnings:
            count = len(self.warnings)
            text += f"\n {count} warning{'s' if count != 1 else ''} found:\n"
            text += "".join(f" - {event['warning']}\n" for event in self.warnings)
        return text + (self.excerpt if failed else "")

    def _stamped(self, step: Step, lines: list[str]) -> list[str]:
        stamp = _stamp(self.clock() - step.begun)
        found = [f"{stamp} {line}" for line in lines]
        step.log = (step.log + found)[-_KEPT:]
        return found


def _stamp(seconds: float) -> str:
    digits = 3 if seconds < 10 else 2 if seconds < 100 else 1
    return f"{seconds:.{digits}f}"


def _failed_log(step: Step) -> str:
    rule = "------\n"
    return f"{rule} > {step.title}:\n" + "".join(f"{line}\n" for line in step.log) + rule


class Plain:
    """BuildKit's lines: `#5 [2/5] RUN x`, `#5 0.412 output`, `#5 DONE 1.5s`."""

    def __init__(self, write: "Callable[[str], None]", clock: "Callable[[], float]" = time.monotonic) -> None:
        self._write = write
        self._steps = Steps(clock)
        self._current: Step | None = None
        self._first = True

    def show(self, event: "dict[str, Any]") -> None:
        """One event."""
        steps = self._steps
        if "vertex" in event:
            if (step := steps.vertex(event["vertex"])) is not None:
                self._vertex(step)
        elif "output" in event:
            if (found := steps.output(event["output"])) is not None:
                self._lines(*found)
        elif "pull" in event:
            self._pull(event["pull"])
        elif "status" in event:
            if (told := steps.all.get(event["status"]["number"])) is not None:
                self._lines(told, [event["status"]["text"]])
        elif "miss" in event:
            miss = event["miss"]
            if step := steps.step(miss["number"], miss.get("title", "")):
                self._lines(step, [f"not cached: {miss['text']}"])
        elif "stream" in event:
            self._write(event["stream"])
        else:
            steps.note(event)
            if "plan" in event:
                for step in steps.pulled():
                    self._vertex(step)

    def close(self, failed: bool) -> None:
        """What is said at the end."""
        self._write(self._steps.closing(failed))

    def _vertex(self, step: Step) -> None:
        self._turn_to(step)
        if not step.ended:
            return
        self._print(step, self._steps.rest(step))
        if step.error:
            end = f"ERROR: {step.error}"
        else:
            end = "CACHED" if step.cached else f"DONE {step.seconds:.1f}s"
        self._print(step, [end])
        self._current = None

    def _pull(self, event: "dict[str, Any]") -> None:
        """Its lines without counts of bytes, as a log wants them."""
        if (event.get("progressDetail") or {}).get("current") or not event.get("status"):
            return
        step = self._steps.pull(event)
        self._lines(step, [step.status])

    def _lines(self, step: Step, lines: list[str]) -> None:
        if lines:
            self._turn_to(step)
            self._print(step, lines)

    def _turn_to(self, step: Step) -> None:
        """Name the step that the next lines are of."""
        if step is self._current:
            return
        if self._current is not None:
            self._write(f"#{self._current.number} ...\n")
        if self._first:
            self._write(f"{_BEGINNING}\n")
        self._write(f"\n#{step.number} {step.title}\n")
        self._current, self._first = step, False

    def _print(self, step: Step, lines: list[str]) -> None:
        self._write("".join(f"#{step.number} {line}\n" for line in lines))


class Silent:
    """Shows nothing but why a build failed."""

    def __init__(self, write: "Callable[[str], None]") -> None:
        self._write = write
        self._steps = Steps(time.monotonic)

    def show(self, event: "dict[str, Any]") -> None:
        """One event."""
        if "vertex" in event:
            self._steps.vertex(event["vertex"])
        elif "output" in event:
            self._steps.output(event["output"])
        elif "warning" not in event:
            self._steps.note(event)

    def close(self, failed: bool) -> None:
        """What is said of a failure."""
        if failed:
            self._write(self._steps.closing(failed))


def display_of(mode: str, quiet: bool) -> "Display":
    """The display of a --progress. Raises Failure."""
    mode = mode or os.environ.get("BUILDKIT_PROGRESS", "") or "auto"
    if mode not in MODES:
        raise Failure(f"ERROR: invalid progress mode: {mode}")
    if quiet and mode not in ("auto", "none", "quiet"):
        raise Failure(f"ERROR: progress={mode} and quiet cannot be used together")
    if quiet or mode in ("none", "quiet"):
        return Silent(_to_stderr)
    if mode == "rawjson":
        from proa.cli.build_rawjson import Raw

        return Raw(_to_stderr)
    if mode == "tty" and not os.isatty(2):
        raise Failure("ERROR: failed to get console: provided file is not a console")
    if mode == "plain" or not os.isatty(2):
        return Plain(_to_stderr)
    from proa.cli.build_rows import Terminal

    return Terminal(2)


def _to_stderr(text: str) -> None:
    write_all(2, text.encode("utf-8", "replace"))

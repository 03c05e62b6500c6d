"""Docker's lines of a build, for the classic API: clients and scripts read the ids in them.

    Step 2/3 : RUN x
     ---> Running in 86cc05d34114
     ---> Removed intermediate container 86cc05d34114
     ---> e6eab46eb17d

Instructions that make no layer are told after the step whose files they leave as they are.

Source: moby builder/dockerfile/evaluator.go, dispatchers.go; pkg/streamformatter.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from proa.build import graph
from proa.build.dockerfile.source import Location
from proa.build.lint import Finding
from proa.build.solver import Result
from proa.engine.builds.reporting import Clipped, Events, Send, Tell


class _Line(Struct, frozen=True):
    """An instruction and its stage; without `written` it is the stage's FROM. A trigger has no number."""

    number: int
    text: str
    stage: int
    written: graph.Written | None = None
    triggers: int = 0
    """How many of the base's instructions follow."""


class Lines:
    """Tells one build. Without ids where nobody reads them."""

    def __init__(
        self, send: Send, id_of: Callable[[graph.Outcome, Result], Awaitable[str]], *, quiet: bool
    ) -> None:
        """`id_of` is what the image of a state of a build is called."""
        self._send = send
        self._id_of = id_of
        self._quiet = quiet
        self._graph: graph.Graph | None = None
        self._lines: dict[int, list[_Line]] = {}
        self._total = 0
        self._ids: dict[int, str] = {}
        self._cached: set[int] = set()
        self._running: dict[int, str] = {}
        self._outputs: dict[int, Clipped] = {}

    def planned(self, plans: Sequence[graph.Graph]) -> None:
        """The steps are known."""
        (self._graph, *_) = plans
        number = len(self._graph.arguments)
        for place, stage in enumerate(self._graph.stages):
            own = stage.outcome.written[stage.first :]
            triggers = sum(each.triggered for each in own)
            number += 1
            start = _Line(number, stage.text, place, triggers=triggers)
            self._lines.setdefault(stage.vertex, []).append(start)
            for written in own:
                number += not written.triggered
                shown = 0 if written.triggered else number
                line = _Line(shown, written.text, place, written)
                self._lines.setdefault(written.vertex, []).append(line)
        self._total = number
        for number, text in enumerate(self._graph.arguments, 1):
            self._step(number, text)

    def started(self, vertex: int) -> None:
        """A step begins."""
        if (line := self._first(vertex)) is not None:
            self._step(line.number, line.text)

    def cached(self, vertex: int) -> None:
        """A step was done before."""
        self._cached.add(vertex)
        self.started(vertex)
        if self._first(vertex) is not None:
            self._stream(" ---> Using cache\n")

    def output(self, vertex: int, stream: int, data: bytes) -> None:
        """Output of a step."""
        if stream == 0:
            self._running[vertex] = data.decode()[:12]
            self._stream(f" ---> Running in {self._running[vertex]}\n")
            return
        clipped = self._outputs.setdefault(vertex, Clipped())
        text = clipped.text(stream, data)
        if text:
            self._stream(text)

    def finished(self, vertex: int, error: str | None) -> None:
        """A step has ended."""
        self._outputs.pop(vertex, None)
        container = self._running.pop(vertex, "")
        if container and error is None:
            self._stream(f" ---> Removed intermediate container {container}\n")

    async def had(self, vertex: int, top: Result) -> None:
        """The files are there: what the step's image is called, and what follows without files of its own."""
        if self._quiet:
            return
        first, text = self._first(vertex), ""
        for line in self._lines.get(vertex, ()):
            self._ids[line.stage] = await self._named(line, vertex, top)
            if line is not first:
                text += self._shown(line.number, line.text)
                text += " ---> Using cache\n" if line.written and vertex in self._cached else ""
            text += f" ---> {self._ids[line.stage]}\n"
            if line.triggers:
                text += f"# Executing {line.triggers} build trigger{'s' if line.triggers > 1 else ''}\n"
        if text:
            self._stream(text)

    async def _named(self, line: _Line, vertex: int, top: Result) -> str:
        """The short id of the image after an instruction; empty for one that begins with nothing."""
        assert self._graph is not None
        stage = self._graph.stages[line.stage]
        if line.written is not None:
            found = await self._id_of(stage.outcome.after(line.written), top)
        elif stage.below is not None:
            return self._ids[stage.below]
        else:
            operation = self._graph.vertices[vertex].operation
            found = operation.id if isinstance(operation, graph.Image) else ""
        return found.removeprefix("sha256:")[:12]

    def _first(self, vertex: int) -> _Line | None:
        """The instruction that a vertex is for."""
        lines = self._lines.get(vertex)
        if lines is None or not (lines[0].written is None or lines[0].written.layer):
            return None
        # Nothing begins where a stage stands on another, or on no image at all.
        assert self._graph is not None
        is_image = isinstance(self._graph.vertices[vertex].operation, graph.Image)
        return lines[0] if lines[0].written is not None or is_image else None

    def _step(self, number: int, text: str) -> None:
        self._stream(self._shown(number, text))

    def _shown(self, number: int, text: str) -> str:
        return f"Step {number}/{self._total} : {text}\n" if number else ""

    def pulling(self, reference: str, line: dict[str, Any]) -> None:
        """Progress of a base image's pull."""
        if not self._quiet:
            self._send(line)

    def missed(self, vertex: int, why: str) -> None:
        """Why a step is not in the cache: nothing asks for that here."""

    def warned(self, text: str) -> None:
        """Something that the user should know."""
        self._stream(f"[Warning] {text}\n")

    def found(self, finding: Finding, excerpt: str) -> None:
        """A build check's violation."""
        self.warned(str(finding))

    def failed(self, excerpt: str, lines: Location) -> None:
        """The lines at fault; the error follows."""

    @contextmanager
    def task(self, name: str, title: str) -> Iterator[Tell]:
        """Work of the builder's own; Docker's lines do not speak of it."""
        yield lambda text: None

    def built(self, image_id: str, names: list[str], **more: Any) -> None:
        """The image is there."""
        self._send({"aux": {"ID": image_id}})
        if self._quiet:
            self._send({"stream": f"{image_id}\n"})
            return
        self._stream(f"Successfully built {image_id[7:19]}\n")
        for name in names:
            self._stream(f"Successfully tagged {name}\n")

    def _stream(self, text: str) -> None:
        if text and not self._quiet:
            self._send({"stream": text})


Reporter = Lines | Events

"""How a build tells its client: vertices as events, for whoever shows steps in parallel; or lines.py's.

{"vertex": {"number": 1, "title": "[2/5] RUN x"}}                 it has begun
{"vertex": {"number": 1, "cached": true}}                         it was done before
{"output": {"number": 1, "stream": 1, "text": "..."}}
{"vertex": {"number": 1, "done": true, "seconds": 1.5}}           or "error": "..."
{"status": {"number": "export", "text": "writing image sha256:..."}}   of the builder's own work
{"warning": "...", "rule": ...}                                   see Events.found for more
{"failure": {"excerpt": "...", "lines": [2, 2]}}                  the lines at fault, before the error
{"aux": {"ID": "sha256:..."}}                                     the image
"""

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from proa.build import graph
from proa.build.dockerfile.source import Location
from proa.build.lint import Finding
from proa.build.ports import Watcher
from proa.build.solver import Result
from proa.errors import ProaError

Send = Callable[[dict[str, Any]], None]
Tell = Callable[[str], None]

OUTPUT_LIMIT = 2 << 20
"""Bytes of output of one step that a client is told."""


class Clipped:
    """Text of a step's output, up to the limit."""

    def __init__(self) -> None:
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._left = OUTPUT_LIMIT

    def text(self, stream: int, data: bytes) -> str:
        if self._left <= 0:
            return ""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        self._left -= len(data)
        if self._left <= 0:
            return decoder.decode(data) + "\n[output clipped, log limit 2MiB reached]\n"
        return decoder.decode(data)


class Events:
    """Vertices as events."""

    def __init__(self, send: Send, *, explain: bool = False) -> None:
        self._send = send
        self._explain = explain
        self._vertices: Sequence[graph.Vertex] = ()
        self._begun: dict[int, float] = {}
        self._outputs: dict[int, Clipped] = {}

    def planned(self, plans: Sequence[graph.Graph]) -> None:
        """The steps are known."""
        vertices = [vertex for wanted in plans for vertex in wanted.vertices]
        self._vertices = vertices
        self._send({"plan": {"vertices": len(vertices)}})

    def started(self, vertex: int) -> None:
        """A step begins."""
        self._begun[vertex] = time.monotonic()
        self._send({"vertex": {"number": vertex, "title": self._vertices[vertex].title}})

    def cached(self, vertex: int) -> None:
        """A step was done before."""
        self._send({"vertex": {"number": vertex, "title": self._vertices[vertex].title, "cached": True}})

    def output(self, vertex: int, stream: int, data: bytes) -> None:
        """Output of a step."""
        if stream == 0:
            return  # Which container it is does not matter to anybody.
        clipped = self._outputs.setdefault(vertex, Clipped())
        text = clipped.text(stream, data)
        if text:
            self._send({"output": {"number": vertex, "stream": stream, "text": text}})

    def finished(self, vertex: int, error: str | None) -> None:
        """A step has ended."""
        self._outputs.pop(vertex, None)
        seconds = time.monotonic() - self._begun.pop(vertex, time.monotonic())
        ended: dict[str, Any] = {"number": vertex, "seconds": round(seconds, 3)}
        ended |= {"done": True} if error is None else {"error": error}
        self._send({"vertex": ended})

    async def had(self, vertex: int, top: Result) -> None:
        """A step's files are there."""

    def pulling(self, reference: str, line: dict[str, Any]) -> None:
        """Progress of a base image's pull."""
        self._send({"pull": {"reference": reference, **line}})

    def missed(self, vertex: int, why: str) -> None:
        """Why a step is not in the cache; told where it was asked for."""
        if not self._explain:
            return
        self._send({"miss": {"number": vertex, "title": self._vertices[vertex].title, "text": why}})

    def warned(self, text: str) -> None:
        """Something that the user should know."""
        self._send({"warning": text})

    def found(self, finding: Finding, excerpt: str) -> None:
        """A build check's violation."""
        told = {"rule": finding.rule, "description": finding.message, "url": finding.url}
        self._send({"warning": str(finding), **told, "excerpt": excerpt, "lines": finding.location})

    def failed(self, excerpt: str, lines: Location) -> None:
        """The lines at fault; the error follows."""
        self._send({"failure": {"excerpt": excerpt, "lines": lines}})

    @contextmanager
    def task(self, name: str, title: str) -> Iterator[Tell]:
        """Work of the builder's own, shown as a step; `name` is the number that it has not."""
        begun = time.monotonic()
        self._send({"vertex": {"number": name, "title": title}})
        ended: dict[str, Any] = {"number": name, "done": True}
        try:
            yield lambda text: self._send({"status": {"number": name, "text": text}})
        except ProaError as exc:
            ended = {"number": name, "error": str(exc)}
            raise
        finally:
            self._send({"vertex": {**ended, "seconds": round(time.monotonic() - begun, 3)}})

    def built(self, image_id: str, names: list[str], **more: Any) -> None:
        """The image is there; `more` are further fields: Digest, Images."""
        self._send({"aux": {"ID": image_id, "Names": names, **more}})


class Shifted:
    """One of several graphs of a build; its vertices are told by their places among all."""

    def __init__(self, reporter: Watcher, first: int) -> None:
        self._reporter = reporter
        self._first = first

    def started(self, vertex: int) -> None:
        """A step begins."""
        self._reporter.started(self._first + vertex)

    def cached(self, vertex: int) -> None:
        """A step was done before."""
        self._reporter.cached(self._first + vertex)

    def missed(self, vertex: int, why: str) -> None:
        """Why a step is not in the cache."""
        self._reporter.missed(self._first + vertex, why)

    def output(self, vertex: int, stream: int, data: bytes) -> None:
        """Output of a step."""
        self._reporter.output(self._first + vertex, stream, data)

    def finished(self, vertex: int, error: str | None) -> None:
        """A step has ended."""
        self._reporter.finished(self._first + vertex, error)

    async def had(self, vertex: int, top: Result) -> None:
        """A step's files are there."""
        await self._reporter.had(self._first + vertex, top)

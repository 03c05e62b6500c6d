"""`--progress=rawjson`: a build's events as BuildKit's client writes them, a line each.

    {"vertexes": [{"digest", "name", "started", "completed", "cached", "error"}]}
    {"statuses": [{"id", "vertex", "name", "timestamp", "started", "completed"}]}
    {"logs": [{"vertex", "stream", "data", "timestamp"}]}
    {"warnings": [{"vertex", "level", "short", "detail", "url"}]}

Bytes are base64. A vertex's digest is one of what it is called: nothing else here knows it.

Source: BuildKit client/graph.go, SolveStatus; buildx's documentation of --progress.
"""

from binascii import b2a_base64
from hashlib import sha256

from proa.cli.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def now() -> str:
    """The time as Go writes it."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Raw:
    """The display of --progress=rawjson."""

    def __init__(self, write: "Callable[[str], None]", clock: "Callable[[], str]" = now) -> None:
        self._write = write
        self._clock = clock
        self._vertices: dict[Any, dict[str, Any]] = {}

    def show(self, event: "dict[str, Any]") -> None:
        """One event."""
        if "vertex" in event:
            self._vertex(event["vertex"])
        elif "status" in event:
            told = event["status"]
            text, at = told["text"].removesuffix(" done"), self._clock()
            status = {"id": text, "vertex": self._digest(told["number"]), "name": text, "timestamp": at}
            self._line("statuses", {**status, "started": at, "completed": at})
        elif "output" in event:
            told = event["output"]
            data = _bytes(told["text"])
            log = {"vertex": self._digest(told["number"]), "stream": told["stream"], "data": data}
            self._line("logs", {**log, "timestamp": self._clock()})
        elif "warning" in event:
            detail = [_bytes(event["description"])] if event.get("description") else None
            told = {"short": _bytes(event["warning"]), "detail": detail, "url": event.get("url")}
            self._line("warnings", {"vertex": "", "level": 1, **told})

    def close(self, failed: bool) -> None:
        """Nothing was kept."""

    def _vertex(self, told: "dict[str, Any]") -> None:
        number = told["number"]
        if number not in self._vertices:
            name = told.get("title", "")
            digest = "sha256:" + sha256(f"{number} {name}".encode()).hexdigest()
            self._vertices[number] = {"digest": digest, "name": name, "started": self._clock()}
        vertex = self._vertices[number]
        if told.get("done") or told.get("cached") or told.get("error"):
            vertex["completed"] = self._clock()
        vertex |= {name: told[name] for name in ("cached", "error") if told.get(name)}
        self._line("vertexes", vertex)

    def _digest(self, number: "Any") -> str:
        return str(self._vertices.get(number, {}).get("digest", ""))

    def _line(self, kind: str, told: "dict[str, Any]") -> None:
        told = {name: value for name, value in told.items() if value is not None}
        self._write(encode({kind: [told]}).decode() + "\n")


def _bytes(text: str) -> str:
    return b2a_base64(text.encode("utf-8", "replace"), newline=False).decode()

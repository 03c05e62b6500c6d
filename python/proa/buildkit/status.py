"""What a build tells, as BuildKit's status: vertices, what they have said, and how far they are.

Source: engine/builds/reporting.py (Events), for what comes in; moby/buildkit
api/services/control/control.proto.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from proa.buildkit import messages

_DEFINITION = "definition"
_CONTEXT = "[internal] load build context"
"""The engine has nothing to do for it: here it has come from the client, which is a step of its own."""


RECEIVED = "received"
"""The number of the step that receives the client's context."""
_KEPT = 1 << 20
"""Bytes of what a build has told that are kept when it is over, for whoever asks late."""


class Status:
    """Everything that one build has told, and will."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._told: list[bytes] = []
        self._followers = 0
        self._vertices: dict[Any, Any] = {}
        self._over = False
        self._more = asyncio.Event()
        self._failed_lines: list[int] = []
        self._warnings: list[dict[str, Any]] = []
        self.image: dict[str, Any] = {}
        """The event about the image, once there is one."""

    def failure_details(self, code: int, message: str, name: str, text: str) -> bytes:
        """A google.rpc.Status with the lines of the Dockerfile at fault; empty where none were told."""
        if not (self._failed_lines and text):
            return b""
        source = messages.Source(info=_source(name, text), ranges=[_range(self._failed_lines)])
        detail = messages.AnyMessage(
            type_url="type.googleapis.com/errdefs.Source", value=source.SerializeToString()
        )
        found: bytes = messages.RpcStatus(code=code, message=message, details=[detail]).SerializeToString()
        return found

    def lint_result(self, name: str, text: str) -> bytes:
        """What the checks have found, as BuildKit's frontend tells it."""
        return msgspec.json.encode(
            {
                "warnings": [
                    {
                        "ruleName": told.get("rule", ""),
                        "url": told.get("url", ""),
                        "detail": told.get("description", told["warning"]),
                        "location": {"sourceIndex": 0, "ranges": [_lines(told["lines"])]},
                    }
                    for told in self._warnings
                ],
                "sources": [{"filename": name, "language": "Dockerfile", "data": text.encode()}],
            }
        )

    def close(self) -> None:
        """Nothing follows."""
        self._over = True
        self._more.set()
        self._forget()

    def _forget(self) -> None:
        """What nobody follows any more is kept within bounds, the end of it."""
        if self._followers or not self._over:
            return
        size = 0
        for place, told in enumerate(reversed(self._told)):
            size += len(told)
            if size > _KEPT:
                del self._told[: len(self._told) - place]
                return

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """StatusResponses, from the first to the last."""
        place = 0
        self._followers += 1
        try:
            while True:
                while place < len(self._told):
                    place += 1
                    yield self._told[place - 1]
                if self._over:
                    return
                self._more.clear()
                await self._more.wait()
        finally:
            self._followers -= 1
            self._forget()

    # ---- events --------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> None:
        """One event of the build."""
        for kind, take in self._TAKERS.items():
            if kind in event:
                take(self, event)
                return

    def _vertex(self, event: dict[str, Any]) -> None:
        told = event["vertex"]
        number = told["number"]
        if not self._known(number, told.get("title")):
            return
        vertex = self._vertices[number]
        if told.get("cached"):
            vertex.cached = True
        if told.get("error"):
            vertex.error = told["error"]
        if told.get("cached") or told.get("done") or told.get("error"):
            vertex.completed.CopyFrom(_now())
        self._tell(vertexes=[vertex])

    def _known(self, number: Any, title: str | None) -> bool:
        """Steps that have no title are not shown."""
        if number in self._vertices:
            return True
        if not title or (title == _CONTEXT and number != RECEIVED):
            return False
        digest = "sha256:" + hashlib.sha256(f"{self._ref} {number}".encode()).hexdigest()
        self._vertices[number] = messages.Vertex(digest=digest, name=title, started=_now())
        return True

    def _output(self, event: dict[str, Any]) -> None:
        told = event["output"]
        if (vertex := self._vertices.get(told["number"])) is not None:
            log = messages.VertexLog(
                vertex=vertex.digest, timestamp=_now(), stream=told["stream"], msg=told["text"].encode()
            )
            self._tell(logs=[log])

    def _status(self, event: dict[str, Any]) -> None:
        told = event["status"]
        if (vertex := self._vertices.get(told["number"])) is not None:
            self._tell(statuses=[_status_of(vertex, told["text"].removesuffix(" done"))])

    def _pull(self, event: dict[str, Any]) -> None:
        told = event["pull"]
        number = f"pull {told['reference']}"
        if number not in self._vertices:
            self._known(number, f"[internal] pull {told['reference']}")
            self._tell(vertexes=[self._vertices[number]])
        layer, words = told.get("id"), told.get("status", "")
        if not layer or words not in ("Downloading", "Extracting", "Pull complete"):
            return
        detail = told.get("progressDetail") or {}
        status = messages.VertexStatus(
            ID=layer,
            vertex=self._vertices[number].digest,
            name=words.lower(),
            current=detail.get("current", 0),
            total=detail.get("total", 0),
            timestamp=_now(),
            started=_now(),
        )
        if words == "Pull complete":
            status.completed.CopyFrom(_now())
        self._tell(statuses=[status])

    def _plan(self, event: dict[str, Any]) -> None:
        """Every base is here."""
        for number, vertex in self._vertices.items():
            if str(number).startswith("pull ") and not vertex.HasField("completed"):
                vertex.completed.CopyFrom(_now())
                self._tell(vertexes=[vertex])

    def _warning(self, event: dict[str, Any]) -> None:
        if "lines" in event:
            self._warnings.append(event)
        vertex = self._vertices.get(_DEFINITION)
        warning = messages.VertexWarning(
            vertex=vertex.digest if vertex is not None else "",
            level=1,
            short=event["warning"].encode(),
            detail=[line.encode() for line in (event.get("description"), event.get("excerpt")) if line],
            url=event.get("url", ""),
        )
        self._tell(warnings=[warning])

    def _failure(self, event: dict[str, Any]) -> None:
        self._failed_lines = event["failure"]["lines"]

    def _aux(self, event: dict[str, Any]) -> None:
        self.image = event["aux"]

    _TAKERS = {
        "vertex": _vertex,
        "output": _output,
        "status": _status,
        "pull": _pull,
        "plan": _plan,
        "warning": _warning,
        "failure": _failure,
        "aux": _aux,
    }

    def _tell(self, **parts: Any) -> None:
        self._told.append(messages.StatusResponse(**parts).SerializeToString())
        self._more.set()


def _status_of(vertex: Any, text: str) -> Any:
    now = _now()
    return messages.VertexStatus(ID=text, vertex=vertex.digest, timestamp=now, started=now, completed=now)


def _source(name: str, text: str) -> Any:
    return messages.SourceInfo(filename=name, data=text.encode(), language="Dockerfile")


def _range(lines: Sequence[int]) -> Any:
    start, end = (messages.Position(line=line) for line in lines)
    return messages.Range(start=start, end=end)


def _lines(lines: Sequence[int]) -> dict[str, Any]:
    start, end = ({"line": line, "character": 0} for line in lines)
    return {"start": start, "end": end}


def _now() -> Any:
    nanoseconds = time.time_ns()
    return messages.Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)

"""`docker build --cache-from IMAGE` as the classic builder has it: an image of the store, by its history.

As far as an image's history begins like the build's, its layers are those of the steps. A COPY ends it: its
line does not say what was copied. Images that say more of themselves are in importing.py.

Source: moby image/cache/cache.go (isValidParent, isValidConfig).
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from proa.build import graph
from proa.engine.builds.records import Blob, Offer
from proa.engine.images.records import ImageRecord, parse_time
from proa.schema.oci import Descriptor, History

_NOP: Final = "/bin/sh -c #(nop)"


def claims(wanted: graph.Graph, record: ImageRecord) -> dict[int, Offer]:
    """The steps that an image has, by vertex."""
    outcome = wanted.outcome
    below = outcome.base_history
    history = list(record.file.history or ())
    diff_ids = [layer.diff_id for layer in record.content]
    base = list((outcome.base.rootfs.diff_ids if outcome.base and outcome.base.rootfs else None) or ())
    if history[: len(below)] != below or diff_ids[: len(base)] != base:
        return {}
    blobs = [Blob(Descriptor(digest=layer.digest), layer.diff_id) for layer in record.content]
    found: dict[int, Offer] = {}
    place = len(base)
    pairs = zip(outcome.steps, history[len(below) :], strict=False)
    for step, known in takewhile(lambda pair: _same(wanted.vertices, *pair), pairs):
        if step.vertex is not None and place < len(blobs):
            place += 1
            found[step.vertex] = Offer(tuple(blobs[:place]), parse_time(known.created))
    return found


def _same(vertices: Sequence[graph.Vertex], step: graph.Step, known: History) -> bool:
    """Whether a line of a history is this step's, whichever builder wrote it."""
    if (step.vertex is None) != known.empty_layer:
        return False
    if step.vertex is not None:
        operation = vertices[step.vertex].operation
        by_text = isinstance(operation, graph.Directory) or (
            isinstance(operation, graph.Run) and not operation.mounts
        )
        if not by_text:
            return False
    ours, theirs = _text(step.created_by), _text(known.created_by)
    # What an argument's value is, the commands that see it say.
    return ours == theirs or (ours.startswith("ARG ") and theirs.startswith("ARG "))


def _text(created_by: str) -> str:
    text = created_by.removesuffix(" # buildkit")
    text = text.removeprefix(_NOP) if text.startswith(_NOP) else text.removeprefix("RUN ")
    return " ".join(text.split())

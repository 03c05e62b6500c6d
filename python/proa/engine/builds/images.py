"""What a build comes to as an image: its configuration, its history, its layers, its names."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from proa.build import graph
from proa.build.solver import Layer as BuildLayer
from proa.build.solver import Solution
from proa.engine.builds.records import inline
from proa.engine.durations import rfc3339
from proa.engine.images.importing import config_document
from proa.engine.images.store import ImageRecord, ImageStore, Layer, decode_image_file
from proa.engine.ports import EventSink
from proa.schema.build_cache import INLINE
from proa.schema.reference import Digest, Reference

COMMENT = "buildkit.dockerfile.v0"


class BuiltImages:
    """Makes images of solutions."""

    def __init__(self, store: ImageStore, events: EventSink) -> None:
        self._store = store
        self._events = events

    async def make(
        self,
        solution: Solution,
        names: Sequence[Reference],
        labels: Mapping[str, str],
        created_ns: int | None,
        *,
        inline_cache: bool = False,
    ) -> ImageRecord:
        """The image of a solution, known and named. `created_ns` is SOURCE_DATE_EPOCH's, None for now.

        With `inline_cache` it says itself which step made which of its layers.
        """
        outcome = solution.graph.outcome
        built = await solution.layers()
        layers = self._layers(built)
        times = [layer.created_ns for layer in built]
        described = document(outcome, layers, labels, created_ns, times)
        if inline_cache:
            described[INLINE] = inline(_cached(solution, times, created_ns))
        blob = msgspec.json.encode(described)
        with self._store.database.transaction():
            record = self._store.add(blob, decode_image_file(blob), layers)
            for name in names:
                self._store.write_name(name, record.id)
        self._store.publish(record)
        self._store.syncing.later()
        for name in names:
            self._store.publish_name(name, record.id)
            self._events.emit("image", "tag", record.id, {"name": name.familiar})
        return record

    def record_base(self, record: ImageRecord, solution: Solution) -> None:
        """Let the image that the target's stage began with be the parent, as the classic builder has it."""
        base = solution.graph.outcome.base
        parent = next((image for image in self._store.all() if image.file == base), None)
        if parent is not None:
            self._store.lineage.record(record.id, parent.id)

    def _layers(self, built: Sequence[BuildLayer]) -> list[Layer]:
        """Base first; those of images have the blobs that they have there."""
        layers = []
        for layer in built:
            known = self._known(layer.chain_id)
            diff_id = Digest(layer.diff_id) if known is None else known.diff_id
            digest = known.digest if known else self._blob(diff_id) or diff_id
            layers.append(Layer(digest, diff_id, Digest(layer.chain_id)))
        return layers

    def _blob(self, diff_id: Digest) -> Digest | None:
        """A blob that came from a cache or went to one."""
        rows = self._store.database.query("SELECT digest FROM blobs WHERE diff_id = ? LIMIT 1", (diff_id,))
        return Digest(rows[0][0]) if rows else None

    def _known(self, chain_id: str) -> Layer | None:
        rows = self._store.database.query(
            "SELECT digest, diff_id FROM image_layers WHERE chain_id = ? LIMIT 1", (chain_id,)
        )
        return Layer(Digest(rows[0][0]), Digest(rows[0][1]), Digest(chain_id)) if rows else None


def _cached(
    solution: Solution, times: Sequence[int], epoch_ns: int | None
) -> list[tuple[str, int, int, bool]]:
    """The steps of an image as its own cache has them."""
    vertices = [step.vertex for step in solution.graph.outcome.steps if step.vertex is not None]
    first = len(times) - len(vertices)
    return [
        (
            solution.keys[vertex],
            first + number,
            times[first + number] if epoch_ns is None else epoch_ns,
            graph.stands_alone(solution.graph.vertices[vertex].operation),
        )
        for number, vertex in enumerate(vertices)
    ]


def document(
    outcome: graph.Outcome,
    layers: Sequence[Layer],
    labels: Mapping[str, str],
    created_ns: int | None,
    times: Sequence[int],
) -> dict[str, Any]:
    """The config blob. The history has one step with a layer for each layer.

    A step was created when its layer was (`times`, base first), one without with the layer before it: built
    again from the cache, an image is the one that it was.
    """
    config = outcome.config
    if labels:
        config = replace(config, labels={**(config.labels or {}), **labels})
    made = sum(step.vertex is not None for step in outcome.steps)
    own = list(times[len(times) - made :])
    now = outcome.base.created if outcome.base and outcome.base.created else rfc3339(0)
    steps = []
    for step in outcome.steps:
        if step.vertex is not None:
            now = rfc3339(own.pop(0))
        described = {"created": now, "created_by": step.created_by, "comment": COMMENT}
        steps.append(described if step.vertex is not None else {**described, "empty_layer": True})
    if created_ns is not None:
        now = rfc3339(created_ns)
        steps = [{**step, "created": now} for step in steps]
    found: dict[str, Any] = {
        "architecture": outcome.platform.architecture,
        "config": config_document(config),
        "created": now,
        "history": [*msgspec.to_builtins(outcome.base_history), *steps],
        "os": outcome.platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    if outcome.author:
        found["author"] = outcome.author
    if outcome.platform.variant:
        found["variant"] = outcome.platform.variant
    return found

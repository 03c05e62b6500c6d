"""What a build comes to as an image: its configuration, its history, its layers, its names."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from proa.build import graph
from proa.build.platforms import host_platform, shown
from proa.build.solver import Layer as BuildLayer
from proa.build.solver import Solution
from proa.content import digest_of
from proa.engine.builds.blobs import LayerBlobs
from proa.engine.builds.outputs import ImageWish, index_of, manifest_of
from proa.engine.builds.records import inline
from proa.engine.durations import rfc3339
from proa.engine.images.importing import config_document
from proa.engine.images.records import ImageRecord, Layer, StoredManifest, decode_image_file
from proa.engine.images.store import ImageStore, Lease
from proa.engine.ports import EventSink
from proa.schema.build_cache import INLINE
from proa.schema.oci import Descriptor, Platform
from proa.schema.reference import Digest, Reference

COMMENT = "buildkit.dockerfile.v0"


class BuiltImages:
    """Makes images of solutions."""

    def __init__(self, store: ImageStore, events: EventSink, blobs: LayerBlobs) -> None:
        self._store = store
        self._events = events
        self._blobs = blobs

    async def make(
        self,
        solution: Solution,
        names: Sequence[Reference],
        labels: Mapping[str, str],
        created_ns: int | None,
        *,
        inline_cache: bool = False,
        wish: ImageWish | None = None,
    ) -> ImageRecord:
        """The image of a solution, known and named. `created_ns` is SOURCE_DATE_EPOCH's, None for now.

        With `inline_cache` it says itself which step made which of its layers.
        """
        with self._store.lease() as lease:
            return await self._make(
                solution, names, labels, created_ns, lease, inline_cache, wish or ImageWish()
            )

    async def _make(
        self,
        solution: Solution,
        names: Sequence[Reference],
        labels: Mapping[str, str],
        created_ns: int | None,
        lease: Lease,
        inline_cache: bool,
        wish: ImageWish,
    ) -> ImageRecord:
        outcome = solution.graph.outcome
        built = await solution.layers()
        layers = self._layers(built)
        times = [layer.created_ns for layer in built]
        described = document(outcome, layers, labels, created_ns, times)
        if inline_cache:
            described[INLINE] = inline(_cached(solution, times, created_ns))
        blob = msgspec.json.encode(described)
        manifest = None
        if wish.given:
            layers, manifest = await self._formed(wish, blob, layers, solution.graph, lease)
        with self._store.database.transaction():
            record = self._store.add(blob, decode_image_file(blob), layers)
            if manifest is not None:
                self._store.keep_manifest(record.id, manifest)
            elif outcome.steps:
                self._store.drop_manifest(record.id)
            for name in self._names(names, wish, manifest):
                self._store.write_name(name, record.id)
        self._store.publish(record)
        self._store.syncing.later()
        for name in self._names(names, wish, manifest):
            self._store.publish_name(name, record.id)
        for name in names:
            self._events.emit("image", "tag", record.id, {"name": name.familiar})
        return record

    def _names(
        self, names: Sequence[Reference], wish: ImageWish, manifest: StoredManifest | None
    ) -> list[Reference]:
        """The names, and those by digest that were wished for."""
        if manifest is None or not wish.canonical:
            return list(names)
        return [*names, *(by_digest(name, manifest) for name in names)]

    async def _formed(
        self, wish: ImageWish, config: bytes, layers: Sequence[Layer], wanted: graph.Graph, lease: Lease
    ) -> tuple[list[Layer], StoredManifest]:
        """(the layers with the blobs that are wished for, the manifest).

        Only base images' layers may be as they came: what the store has of others is chance.
        """
        platform = wanted.outcome.platform
        below = len(layers) - sum(step.vertex is not None for step in wanted.outcome.steps)
        images = [each.operation.id for each in wanted.vertices if isinstance(each.operation, graph.Image)]
        blobs = [
            await self._blobs.blob(
                layer.chain_id, layer.diff_id, wish.compression, lease, images if number < below else ()
            )
            for number, layer in enumerate(layers)
        ]
        formed = [
            replace(layer, digest=Digest(blob.descriptor.digest))
            for layer, blob in zip(layers, blobs, strict=True)
        ]
        described = Descriptor(digest=digest_of(config), size=len(config))
        return formed, manifest_of(wish, described, [blob.descriptor for blob in blobs], shown(platform))

    def index(
        self,
        images: Sequence[tuple[Platform, ImageRecord]],
        names: Sequence[Reference],
        wish: ImageWish,
    ) -> Digest:
        """Have names mean several images, which were made with manifests; the host's comes first.

        Returns the index's digest.
        """
        main = main_of(images)
        kept = [(platform, self._store.manifest(record.id), record) for platform, record in images]
        listed = [(platform, manifest, record) for platform, manifest, record in kept if manifest]
        data = index_of(wish, [(platform, shown(platform), manifest) for platform, manifest, _ in listed])
        with self._store.database.transaction():
            for name in names:
                self._store.write_name(name, main.id)  # takes the names of the index before along
                for _, manifest, record in listed:
                    self._store.write_name(by_digest(name, manifest), record.id)
                self._store.indexes.record(name, main.id, data)
        for name in names:
            self._store.publish_name(name, main.id)
            for _, manifest, record in listed:
                self._store.publish_name(by_digest(name, manifest), record.id)
            self._events.emit("image", "tag", main.id, {"name": name.familiar})
        return digest_of(data)

    def manifest_digest(self, record: ImageRecord) -> str:
        """Of the manifest that an image was made with; empty where it has none yet."""
        manifest = self._store.manifest(record.id)
        return digest_of(manifest.data) if manifest else ""

    async def id_of(self, outcome: graph.Outcome, top: BuildLayer | None, created_ns: int | None) -> str:
        """What an image would be called that nobody has made yet."""
        built = await top.stack() if top else []
        times = [layer.created_ns for layer in built]
        return digest_of(msgspec.json.encode(document(outcome, self._layers(built), {}, created_ns, times)))

    async def keep_steps(self, record: ImageRecord, solution: Solution, created_ns: int | None) -> None:
        """Let there be an image of every instruction, each the parent of the next: the classic builder's way.

        The first's is the image that the target's stage began with; all go with the last one.
        """
        outcome = solution.graph.outcome
        built = await solution.layers()
        layers, times = self._layers(built), [layer.created_ns for layer in built]
        below = len(layers) - sum(step.vertex is not None for step in outcome.steps)
        base = next((image for image in self._store.all() if image.file == outcome.base), None)
        parent = base.id if base else ""
        made = []
        with self._store.database.transaction():
            for written in outcome.written[:-1]:
                so_far = outcome.after(written)
                count = below + sum(step.vertex is not None for step in so_far.steps)
                blob = msgspec.json.encode(document(so_far, layers[:count], {}, created_ns, times[:count]))
                if digest_of(blob) not in (record.id, parent):
                    made.append(self._store.add(blob, decode_image_file(blob), layers[:count]))
                    parent = self._descend(made[-1].id, parent)
            self._descend(record.id, parent)
        for each in made:
            self._store.publish(each)

    def _descend(self, image_id: str, parent: str) -> str:
        """Record a parent, where there is one; returns the image."""
        if parent:
            self._store.lineage.record(image_id, parent)
        return image_id

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


def by_digest(name: Reference, manifest: StoredManifest) -> Reference:
    """The name of an image in a repository that nothing else can mean."""
    return Reference(name.domain, name.path, "", digest_of(manifest.data))


def main_of(images: Sequence[tuple[Platform, ImageRecord]]) -> ImageRecord:
    """The image that runs here, or the first."""
    here = shown(host_platform())
    return next((record for platform, record in images if shown(platform) == here), images[0][1])


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

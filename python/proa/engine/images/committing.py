"""docker commit, the image's half: a writable layer becomes an image on top of the container's.

The upper directory is packed as it lies, in one pass: tar, digest, compression, digest. The blob is then
unpacked again, so that the layer's directory is what anybody gets who pulls the image.

Source: moby daemon/containerd-less images: daemon/images/image_commit.go, image/image.go (NewChildImage).
"""

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import proa_native
from msgspec import Struct

from proa.engine.images.importing import config_document
from proa.engine.images.intake import Intake, Unpacked
from proa.engine.images.records import ImageRecord, Layer, decode_image_file, host_architecture
from proa.engine.images.store import ImageStore
from proa.engine.ports import EventSink
from proa.errors import NotFound, System
from proa.schema.image import ImageConfig
from proa.schema.reference import Digest, Reference

EMPTY_LAYER: Final = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The diff_id of a tar without entries: such a layer is none."""


class Committed(Struct, frozen=True, kw_only=True):
    """What there is to say of a container's new image."""

    container_id: str
    parent: str
    """The image's id; empty for a container without one."""
    upper: str
    config: ImageConfig
    command: Sequence[str]
    author: str
    comment: str
    version: str
    """The engine's."""


class Packing:
    """A commit under way: its intake stays open from the packing to the image."""

    def __init__(self, store: ImageStore, events: EventSink, executor: Executor | None) -> None:
        self._store = store
        self._events = events
        self._executor = executor

    def check_parent(self, image_id: str) -> None:
        """Raises NotFound where the container's image is gone."""
        self._parent(image_id)

    def intake(self) -> Intake:
        """Where one commit has its files."""
        return Intake(self._store, self._executor)

    async def pack(self, intake: Intake, upper: str) -> tuple[Path, str]:
        """The writable layer as a blob in scratch, and its diff_id; nobody may write to it meanwhile."""
        blob = intake.scratch / "layer"
        return blob, await intake.run(_pack, upper, blob)

    async def image(
        self, intake: Intake, packed: tuple[Path, str], wish: Committed, name: Reference | None
    ) -> Digest:
        """The image of what was packed, known and named. Raises System."""
        parent = self._parent(wish.parent)
        blob, diff_id = packed
        layers: list[Unpacked | Layer] = [*(parent.content if parent else ())]
        empty = diff_id == EMPTY_LAYER
        if not empty:
            layers.append(await intake.unpack(blob))
        data = msgspec.json.encode(_document(wish, parent, [layer.diff_id for layer in layers], empty=empty))
        record, _ = await intake.commit(data, decode_image_file(data), layers, [name] if name else [])
        if parent is not None:
            self._store.lineage.record(record.id, parent.id)
        if name:
            self._events.emit("image", "tag", record.id, {"name": name.familiar})
        return record.id

    def _parent(self, image_id: str) -> ImageRecord | None:
        record = self._store.by_id(image_id) if image_id else None
        if image_id and record is None:
            raise NotFound(f"unrecognized image ID {image_id}")
        return record


def _pack(upper: str, blob: Path) -> str:
    try:
        with blob.open("xb", buffering=0) as target:
            os.fchmod(target.fileno(), 0o600)
            return str(proa_native.pack_layer(upper, target.fileno(), compression="none").diff_id)
    except OSError as exc:
        raise System(exc.strerror or str(exc)) from exc


def _document(
    wish: Committed, parent: ImageRecord | None, diff_ids: Sequence[str], *, empty: bool
) -> dict[str, Any]:
    """The config blob."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    step: dict[str, Any] = {"created": now, "created_by": " ".join(wish.command)}
    step |= {key: text for key, text in (("author", wish.author), ("comment", wish.comment)) if text}
    if empty:
        step["empty_layer"] = True
    architecture, variant = (parent.architecture, parent.variant) if parent else host_architecture()
    known = msgspec.to_builtins(parent.file.history or ()) if parent else ()
    document: dict[str, Any] = {
        "architecture": architecture,
        "config": config_document(wish.config),
        "container": wish.container_id,
        "created": now,
        "docker_version": wish.version,
        "history": [*known, step],
        "os": parent.os if parent else "linux",
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    if wish.author:
        document["author"] = wish.author
    if variant:
        document["variant"] = variant
    return document

"""docker import: any tar becomes an image of one layer.

The stream is unpacked as it arrives; its bytes, in the compression they come with, are the layer's blob.

Source: moby daemon/images/image_import.go.
"""

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

import msgspec
import proa_native

from proa.engine.images.changes import apply_changes
from proa.engine.images.intake import Intake, Unpacked, unpack_from
from proa.engine.images.store import ImageStore, decode_image_file, host_architecture
from proa.engine.ports import EventSink
from proa.errors import InvalidParameter
from proa.schema.image import ImageConfig
from proa.schema.reference import Reference, parse_reference, parse_tag


class Importer:
    """Makes images of plain tars."""

    def __init__(self, store: ImageStore, events: EventSink, executor: Executor | None) -> None:
        self._store = store
        self._events = events
        self._executor = executor

    async def import_(
        self,
        body: AsyncIterator[bytes],
        *,
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream, the image's id last. Raises InvalidParameter, System."""
        name = target_name(repo, tag)
        config = apply_changes(ImageConfig(), changes)
        architecture, variant, os_ = parse_platform(platform)
        async with Intake(self._store, self._executor) as intake:
            blob, draft = intake.scratch / "layer", intake.draft()

            def unpack(feed: proa_native.ByteFeed) -> Unpacked:
                with blob.open("xb", buffering=0) as copy:
                    os.fchmod(copy.fileno(), 0o600)
                    return unpack_from(feed, blob, draft, copy_fd=copy.fileno())

            layer = await intake.receive(body, unpack)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            document: dict[str, Any] = {
                "architecture": architecture,
                "comment": message,
                "config": config_document(config),
                "created": now,
                "history": [{"created": now, "comment": message}],
                "os": os_,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            }
            if variant:
                document["variant"] = variant
            data = msgspec.json.encode(document)
            record, _ = await intake.commit(data, decode_image_file(data), [layer], [name] if name else [])
        if name:
            self._events.emit("image", "tag", record.id, {"name": name.familiar})
        self._events.emit("image", "import", record.id, {"name": record.id})
        yield msgspec.json.encode({"status": record.id}) + b"\n"


def config_document(config: ImageConfig) -> dict[str, Any]:
    """The config as a config blob has it: what is not set is left out."""
    built: dict[str, Any] = msgspec.to_builtins(config)
    return {key: value for key, value in built.items() if value is not None and value != ""}


def target_name(repo: str, tag: str) -> Reference | None:
    """The name to give; None where none was asked for. Raises InvalidParameter."""
    if not repo:
        return None
    reference = parse_reference(repo)
    if reference.digest:
        raise InvalidParameter("cannot import digest reference")
    if tag:
        return Reference(reference.domain, reference.path, parse_tag(tag))
    return reference.with_default_tag()


def parse_platform(text: str) -> tuple[str, str, str]:
    """`os[/arch[/variant]]` to (architecture, variant, os), the host's where empty."""
    architecture, variant = host_architecture()
    if not text:
        return architecture, variant, "linux"
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(part.isalnum() for part in parts):
        raise InvalidParameter(f'"{text}" is an invalid platform specifier')
    aliases = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm"}
    if len(parts) == 1:
        if parts[0] == "linux":
            return architecture, variant, "linux"
        return aliases.get(parts[0], parts[0]), "", "linux"
    if parts[0] != "linux":
        raise InvalidParameter(f"operating system is not supported: {parts[0]}")
    return aliases.get(parts[1], parts[1]), parts[2] if len(parts) > 2 else "", "linux"

"""docker import: any tar becomes an image of one layer.

The stream, a client's or a URL's, is unpacked as it arrives; its bytes, in the compression they come with,
are the layer's blob.

Source: moby daemon/images/image_import.go, daemon/server/router/image (fromSrc).
"""

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import proa_native
from msgspec import Struct

from proa.build.changes import apply_changes
from proa.engine.images.intake import Intake, Unpacked, unpack_from
from proa.engine.images.progress import Progress, streamed
from proa.engine.images.records import decode_image_file, host_architecture
from proa.engine.images.store import ImageStore
from proa.engine.platforms import parse_platform
from proa.engine.ports import EventSink
from proa.errors import InvalidParameter
from proa.registry import Remote
from proa.schema.image import ImageConfig
from proa.schema.reference import Digest, Reference, parse_reference, parse_tag


class Web(Protocol):
    """Where an import's URL leads."""

    def open_url(self, url: str) -> AbstractAsyncContextManager[Remote]: ...


class Import(Struct, frozen=True, kw_only=True):
    """What is to be made of a tar."""

    name: Reference | None
    message: str
    config: ImageConfig
    architecture: str
    variant: str
    os: str

    @classmethod
    def of(cls, repo: str, tag: str, message: str, changes: Sequence[str], platform: str) -> "Import":
        """What the API's client asks for. Raises InvalidParameter."""
        architecture, variant, os_ = parse_platform(platform, host_architecture())
        if os_ != "linux":
            raise InvalidParameter("operating system is not supported")
        return cls(
            name=target_name(repo, tag),
            message=message,
            config=apply_changes(ImageConfig(), changes),
            architecture=architecture,
            variant=variant,
            os=os_,
        )


class Importer:
    """Makes images of plain tars."""

    def __init__(self, store: ImageStore, events: EventSink, executor: Executor | None, web: Web) -> None:
        self._store = store
        self._events = events
        self._executor = executor
        self._web = web

    async def import_(self, body: AsyncIterator[bytes], wanted: Import) -> AsyncIterator[bytes]:
        """Progress as Docker's JSON stream, the image's id last. Raises InvalidParameter, System."""
        yield msgspec.json.encode({"status": await self._image(body, wanted)}) + b"\n"

    async def import_url(self, url: str, wanted: Import) -> AsyncIterator[bytes]:
        """The same of what a URL has, which is read as it is unpacked. Raises classes of proa.errors."""

        async def work(progress: Progress) -> None:
            async with self._web.open_url(url) as remote:
                progress.message(f"Downloading from {url}")
                image_id = await self._image(_counted(remote, progress), wanted)
            progress.message(image_id)

        async for lines in streamed(work):
            yield lines

    async def _image(self, body: AsyncIterator[bytes], wanted: Import) -> Digest:
        async with Intake(self._store, self._executor) as intake:
            blob, draft = intake.scratch / "layer", intake.draft()

            def unpack(feed: proa_native.ByteFeed) -> Unpacked:
                with blob.open("xb", buffering=0) as copy:
                    os.fchmod(copy.fileno(), 0o600)
                    return unpack_from(feed, blob, draft, copy_fd=copy.fileno())

            layer = await intake.receive(body, unpack)
            data = msgspec.json.encode(_document(wanted, layer.diff_id))
            names = [wanted.name] if wanted.name else []
            record, _ = await intake.commit(data, decode_image_file(data), [layer], names)
        for name in names:
            self._events.emit("image", "tag", record.id, {"name": name.familiar})
        self._events.emit("image", "import", record.id, {"name": record.id})
        return record.id


async def _counted(remote: Remote, progress: Progress) -> AsyncIterator[bytes]:
    done = 0
    async for chunk in remote.chunks:
        done += len(chunk)
        progress.count("Importing", "", done, remote.length or 0)
        yield chunk


def _document(wanted: Import, diff_id: Digest) -> dict[str, Any]:
    """The config blob."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    document: dict[str, Any] = {
        "architecture": wanted.architecture,
        "comment": wanted.message,
        "config": config_document(wanted.config),
        "created": now,
        "history": [{"created": now, "comment": wanted.message}],
        "os": wanted.os,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    if wanted.variant:
        document["variant"] = wanted.variant
    return document


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

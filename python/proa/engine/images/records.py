"""What is known of one image: its config, its layers, where they lie; and how configs and times are read.

Owns no state: the store keeps these, in the database and in memory.

Source: OCI image specification, config.md (configs, chain ids).
"""

import platform
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter
from proa.schema.image import ImageConfig
from proa.schema.oci import ImageFile
from proa.schema.reference import Digest, id_prefix

_image_file = msgspec.json.Decoder(ImageFile)

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}


def host_architecture() -> tuple[str, str]:
    """(architecture, variant) of this host in OCI words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, (machine, ""))


class Layer(Struct, frozen=True):
    """One layer of an image."""

    digest: Digest
    """The blob as it came."""
    diff_id: Digest
    chain_id: Digest


class ImageRecord(Struct, frozen=True, kw_only=True):
    """An image that is there, whole. Implements engine.ports.ContainerImage."""

    id: Digest
    config_blob: bytes
    file: ImageFile
    config: ImageConfig
    added_ns: int
    content: tuple[Layer, ...]
    """Base first."""
    sizes: tuple[int, ...]
    """Bytes of each layer's files, base first."""
    layers: tuple[str, ...]
    """Directories of the unpacked layers, top first."""

    @property
    def os(self) -> str:
        return self.file.os or "linux"

    @property
    def architecture(self) -> str:
        return self.file.architecture

    @property
    def variant(self) -> str:
        return self.file.variant

    @property
    def chain_id(self) -> str:
        """The top layer's; empty for an image without layers."""
        return self.content[-1].chain_id if self.content else ""

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def created_ns(self) -> int:
        """Nanoseconds since 1970; 0 where the image does not say."""
        return parse_time(self.file.created)


class StoredManifest(Struct, frozen=True):
    """The manifest that an image was pulled by, as it came."""

    media_type: str
    data: bytes


def parse_time(text: str | None) -> int:
    """RFC 3339 to nanoseconds since 1970; 0 for what is not a time (as in images that hide theirs)."""
    if not text:
        return 0
    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    zone = rest[len(digits) :] if dot else ""
    try:
        seconds = int(datetime.fromisoformat((whole + zone).replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0
    return max(0, seconds * 10**9 + int(digits[:9].ljust(9, "0") or 0))


def decode_image_file(blob: bytes) -> ImageFile:
    """A config blob. Raises InvalidParameter where it is none."""
    try:
        return _image_file.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid image config: {exc}") from exc


def chain_ids(diff_ids: Iterable[str]) -> list[Digest]:
    """Chain id of each layer, base first: the digest of the chain below, a space, and the diff_id."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(Digest(diff_id if text is None else "sha256:" + sha256(text.encode()).hexdigest()))
    return chain


def is_id_of(record: ImageRecord, ref: str) -> bool:
    """Whether the image was named by its id or a prefix of it."""
    digits = id_prefix(ref)
    return bool(digits) and record.id.startswith(f"sha256:{digits}")

"""Manifests as a registry reads them: what they refer to. They are kept as they came, to the byte.

Source: OCI image-spec 1.1 (manifest.md, image-index.md); Docker image manifest v2, schema 2.
"""

from typing import Final

import msgspec
from msgspec import Struct

from proa.distribution.failures import Code, Refusal
from proa.distribution.names import check_digest
from proa.schema.oci import INDEXES, MANIFESTS, Descriptor

SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes of a manifest: the least that the specification asks a registry to take."""

SCHEMA_1: Final = frozenset(
    (
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
)


class Document(Struct, frozen=True, kw_only=True, rename="camel"):
    """A manifest or an index; what it is, its media type says."""

    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Referrers(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer of the referrers API: an index."""

    schema_version: int = 2
    media_type: str = "application/vnd.oci.image.index.v1+json"
    manifests: list[Descriptor] = []


class Parsed(Struct, frozen=True, kw_only=True):
    """What a stored manifest is known by."""

    media_type: str
    blobs: tuple[Descriptor, ...]
    """That the repository must have."""
    children: tuple[Descriptor, ...]
    """Manifests that the repository must have."""
    elsewhere: tuple[Descriptor, ...]
    """Blobs with URLs of their own, which nobody needs to push."""
    subject: str
    artifact_type: str
    annotations: dict[str, str] | None


_decode = msgspec.json.Decoder(Document).decode


def parse(data: bytes, content_type: str) -> Parsed:
    """Read a manifest that came as `content_type`. Raises Refusal: malformed, ambiguous, schema 1."""
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        document = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _invalid(f"manifest invalid: {exc}") from exc
    if media_type in SCHEMA_1 or document.schema_version == 1:
        raise _invalid("manifest invalid: Docker's schema 1 is not supported, push schema 2 or OCI")
    if document.schema_version != 2:
        raise _invalid(f"manifest invalid: unrecognized schema version {document.schema_version}")
    if document.media_type and media_type and document.media_type != media_type:
        raise _invalid(
            f"manifest invalid: mediaType in manifest is {document.media_type!r}, Content-Type {media_type!r}"
        )
    media_type = media_type or document.media_type
    if media_type in MANIFESTS:
        return _image(document, media_type)
    if media_type in INDEXES:
        return _index(document, media_type)
    raise _invalid(f"manifest invalid: unsupported media type {media_type!r}")


def _image(document: Document, media_type: str) -> Parsed:
    if document.config is None or document.layers is None:
        raise _invalid("manifest invalid: an image manifest needs config and layers")
    if document.manifests is not None:
        raise _invalid("manifest invalid: it has layers and manifests, which is ambiguous")
    layers = [_checked(layer) for layer in document.layers]
    return Parsed(
        media_type=media_type,
        blobs=(_checked(document.config), *(layer for layer in layers if not layer.urls)),
        children=(),
        elsewhere=tuple(layer for layer in layers if layer.urls),
        subject=_checked(document.subject).digest if document.subject else "",
        artifact_type=document.artifact_type or document.config.media_type,
        annotations=document.annotations,
    )


def _index(document: Document, media_type: str) -> Parsed:
    if document.manifests is None:
        raise _invalid("manifest invalid: an index needs manifests")
    if document.config is not None or document.layers is not None:
        raise _invalid("manifest invalid: it has layers and manifests, which is ambiguous")
    return Parsed(
        media_type=media_type,
        blobs=(),
        children=tuple(_checked(child) for child in document.manifests),
        elsewhere=(),
        subject=_checked(document.subject).digest if document.subject else "",
        artifact_type=document.artifact_type,
        annotations=document.annotations,
    )


def _checked(descriptor: Descriptor) -> Descriptor:
    check_digest(descriptor.digest)
    if descriptor.size < 0:
        raise _invalid(f"manifest invalid: {descriptor.digest} has a negative size")
    return descriptor


def _invalid(message: str) -> Refusal:
    return Refusal(Code.MANIFEST_INVALID, message)

"""What comes under a name: a manifest or an index, taken only if it says one thing.

Pure. A document that could be read as two kinds, that contradicts its Content-Type or that holds a malformed
digest is refused before anybody acts on it (CVE-2021-41190, CVE-2024-3727).

Source: OCI image specification 1.1 (image-index.md, manifest.md); Docker manifest v2 schema 2.
"""

from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter, System
from proa.schema import oci
from proa.schema.reference import Digest, Reference, parse_digest

MANIFEST_MAX: Final = 4 * 1024 * 1024
"""Bytes of a manifest or an index."""
ACCEPT: Final = ", ".join((oci.INDEX, oci.MANIFEST, oci.DOCKER_MANIFEST_LIST, oci.DOCKER_MANIFEST))
_SCHEMA_1: Final = frozenset(
    (
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
)
_KNOWN: Final = oci.INDEXES | oci.MANIFESTS


class _Shape(Struct, frozen=True, kw_only=True, rename="camel"):
    """The members that tell what a document is."""

    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_shape = msgspec.json.Decoder(_Shape).decode
_decode_index = msgspec.json.Decoder(oci.Index).decode
_decode_manifest = msgspec.json.Decoder(oci.Manifest).decode


def read_manifest(data: bytes, content_type: str, ref: Reference) -> tuple[str, oci.Index | oci.Manifest]:
    """(media type, content) of a document. Raises InvalidParameter."""
    declared = content_type.partition(";")[0].strip().lower()
    if declared in _SCHEMA_1:
        raise schema_1(ref)
    try:
        shape = _decode_shape(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid manifest of {ref.familiar}: {exc}") from None
    if shape.fs_layers is not msgspec.UNSET or shape.schema_version == 1:
        raise schema_1(ref)
    media_type = _media_type(shape, declared, ref)
    try:
        content = _decode_index(data) if media_type in oci.INDEXES else _decode_manifest(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid manifest of {ref.familiar}: {exc}") from None
    for descriptor in (
        content.manifests if isinstance(content, oci.Index) else (content.config, *content.layers)
    ):
        parse_digest(descriptor.digest)
        if descriptor.size < 0:
            raise InvalidParameter(f"invalid manifest of {ref.familiar}: negative size")
    return media_type, content


def _media_type(shape: _Shape, declared: str, ref: Reference) -> str:
    is_index = shape.manifests is not msgspec.UNSET
    is_manifest = shape.layers is not msgspec.UNSET or shape.config is not msgspec.UNSET
    if is_index and is_manifest:
        raise InvalidParameter(
            f"ambiguous manifest of {ref.familiar}: it has both 'manifests' and 'layers' or 'config'"
        )
    if not is_index and not is_manifest:
        raise InvalidParameter(
            f"unsupported manifest format of {ref.familiar}: {shape.media_type or declared}"
        )
    inner = shape.media_type
    if declared in _KNOWN:
        if inner and inner != declared:
            raise InvalidParameter(
                f"ambiguous manifest of {ref.familiar}: mediaType {inner!r} under the type {declared!r}"
            )
        media_type = declared
    else:
        media_type = inner or (oci.INDEX if is_index else oci.MANIFEST)
    if media_type not in _KNOWN:
        raise InvalidParameter(f"unsupported manifest format of {ref.familiar}: {media_type}")
    if (media_type in oci.INDEXES) != is_index:
        raise InvalidParameter(f"ambiguous manifest of {ref.familiar}: it is no {media_type}")
    return media_type


def verified(data: bytes, wanted: str, told: str, ref: Reference) -> Digest:
    """The digest of `data`, which must be the one asked for and the one the registry says it is.

    Raises System in Docker's words.
    """
    digest = Digest(f"sha256:{sha256(data).hexdigest()}")
    for expected in (wanted, told if told.startswith("sha256:") else ""):
        if expected and expected != digest:
            raise System(
                f"manifest verification failed for digest {expected[:80]} of {ref.familiar}: got {digest}"
            )
    return digest


def schema_1(ref: Reference) -> InvalidParameter:
    """Docker's words for an image of before 2016."""
    return InvalidParameter(
        "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support "
        "is disabled by default and will be removed in an upcoming release. Suggest the author of "
        f"{ref.canonical} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. "
        "More information at https://docs.docker.com/go/deprecated-image-specs/"
    )

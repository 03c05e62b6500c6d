"""What an image that was built is to be like on the wire: its manifest, its layers' compression, annotations.

Without such a wish an image has no manifest before it is pushed or saved. Those of several platforms always
have: their manifests are what the index names.

Source: BuildKit's documentation, "Image and registry exporters"; docs/annotations.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from proa.content import digest_of
from proa.engine.builds.blobs import Compression
from proa.engine.builds.caching import compression_of
from proa.engine.images.records import StoredManifest
from proa.errors import InvalidParameter
from proa.schema.oci import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
    Platform,
)

_ANNOTATION: Final = "annotation"
_KINDS: Final = {
    "": "manifest",
    "manifest": "manifest",
    "index": "index",
    "manifest-descriptor": "descriptor",
}
_WISHES: Final = ("compression", "compression-level", "force-compression", "oci-mediatypes", "name-canonical")


class Annotation(Struct, frozen=True):
    """`kind` is manifest, index or descriptor; an empty platform is all of them."""

    kind: str
    platform: str
    name: str
    value: str


class ImageWish(Struct, frozen=True, kw_only=True):
    """What is asked of an image's form; `given` where anything is."""

    given: bool = False
    compression: Compression = Compression()
    oci: bool = False
    canonical: bool = False
    annotations: tuple[Annotation, ...] = ()

    def annotated(self, kind: str, platform: str) -> dict[str, str]:
        """The annotations of one document."""
        return {
            each.name: each.value
            for each in self.annotations
            if each.kind == kind and each.platform in ("", platform)
        }


def wish_of(fields: Mapping[str, str], platforms: Sequence[str]) -> ImageWish:
    """The fields of an exporter, by BuildKit's names. Raises InvalidParameter."""
    annotations = tuple(
        _annotation(name, value) for name, value in fields.items() if name.startswith(_ANNOTATION)
    )
    several = len(platforms) > 1
    for each in annotations:
        if each.kind != "manifest" and not several:
            raise InvalidParameter(f"{each.kind} annotations not supported for single platform export")
        if each.platform and each.platform not in platforms:
            raise InvalidParameter(f"annotations for {each.platform}: the platform is not built")
    compression = compression_of(fields)
    oci = fields.get("oci-mediatypes", "")
    return ImageWish(
        given=several or bool(annotations) or any(fields.get(name) for name in _WISHES),
        compression=compression,
        # Docker's own types have neither annotations nor a word for zstd.
        oci=several or bool(annotations) or compression.kind != "gzip" or oci in ("true", "1"),
        canonical=fields.get("name-canonical") in ("true", "1", ""),
        annotations=annotations,
    )


def _annotation(field: str, value: str) -> Annotation:
    """`annotation.K`, `annotation-index.K`, `annotation-manifest[linux/amd64].K`. Raises InvalidParameter."""
    head, _, name = field.removeprefix(_ANNOTATION).partition(".")
    kind, _, platform = head.removeprefix("-").partition("[")
    if kind not in _KINDS or not name:
        raise InvalidParameter(f"unknown annotation type in {field!r}")
    return Annotation(_KINDS[kind], platform.removesuffix("]"), name, value)


def manifest_of(
    wish: ImageWish, config: Descriptor, layers: Sequence[Descriptor], platform: str
) -> StoredManifest:
    """An image's manifest; `config` has digest and size, `layers` OCI's media types."""
    oci = wish.oci or not all(layer.media_type.endswith("+gzip") for layer in layers)
    media_type = MANIFEST if oci else DOCKER_MANIFEST
    if not oci:
        layers = [msgspec.structs.replace(layer, media_type=DOCKER_LAYER) for layer in layers]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": msgspec.structs.replace(config, media_type=CONFIG if oci else DOCKER_CONFIG),
        "layers": layers,
    }
    if annotations := wish.annotated("manifest", platform):
        document["annotations"] = annotations
    return StoredManifest(media_type, msgspec.json.encode(document))


def index_of(wish: ImageWish, images: Sequence[tuple[Platform, str, StoredManifest]]) -> bytes:
    """The index of images: (platform, the same as text, manifest) of each."""
    manifests = [
        Descriptor(
            media_type=manifest.media_type,
            digest=digest_of(manifest.data),
            size=len(manifest.data),
            platform=platform,
            annotations=wish.annotated("descriptor", text) or None,
        )
        for platform, text, manifest in images
    ]
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    if annotations := wish.annotated("index", ""):
        document["annotations"] = annotations
    return msgspec.json.encode(document)

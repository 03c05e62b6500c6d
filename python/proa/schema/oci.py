"""Images on the wire and on disk: index, manifest, config, and the manifest.json of docker archives.

Source: OCI image specification 1.1 (image-index.md, manifest.md, config.md, image-layout.md); Docker image
specification v1.3. Unknown fields are passed over: other builders add their own.
"""

from typing import Final

from msgspec import Struct, field

from proa.schema.image import ImageConfig

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

INDEXES: Final = frozenset((INDEX, DOCKER_MANIFEST_LIST))
MANIFESTS: Final = frozenset((MANIFEST, DOCKER_MANIFEST))

ANNOTATION_NAME: Final = "io.containerd.image.name"
ANNOTATION_REF: Final = "org.opencontainers.image.ref.name"


class Platform(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""
    os_version: str = field(default="", name="os.version")
    os_features: list[str] | None = field(default=None, name="os.features")
    variant: str = ""


class Descriptor(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where content is and what it is; digests are checked when they are used (Digest)."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    urls: list[str] | None = None
    artifact_type: str = ""


class Index(Struct, frozen=True, kw_only=True, rename="camel"):
    """index.json, image indexes and Docker's manifest lists."""

    schema_version: int = 2
    media_type: str = INDEX
    manifests: list[Descriptor] = []


class Manifest(Struct, frozen=True, kw_only=True, rename="camel"):
    """One image of one platform; layers base first."""

    schema_version: int = 2
    media_type: str = MANIFEST
    config: Descriptor = Descriptor()
    layers: list[Descriptor] = []


class RootFS(Struct, frozen=True, kw_only=True):
    """diff_ids base first."""

    type: str = "layers"
    diff_ids: list[str] | None = None


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a build, base first; `empty_layer` ones have no diff_id."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config blob: its digest is the image's id, so that it is kept as it came, never re-encoded."""

    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = field(default="", name="os.version")
    config: ImageConfig | None = None
    rootfs: RootFS | None = None
    history: list[History] | None = None
    parent: str = ""
    comment: str = ""
    docker_version: str = ""


class ArchiveImage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """An element of a docker archive's manifest.json: paths within the archive."""

    config: str = ""
    repo_tags: list[str] | None = None
    layers: list[str] | None = None
    parent: str = ""
    """The id of the image of the same archive that this one was made from."""


def layer_media_type(head: bytes) -> str:
    """The OCI media type of a layer blob, by its first bytes."""
    if head.startswith(b"\x1f\x8b"):
        return f"{LAYER}+gzip"
    return f"{LAYER}+zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else LAYER

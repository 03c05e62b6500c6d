"""Images: inspect, list, history, delete.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.container import HealthConfig
from proa.schema.container_state import DriverData, OCIDescriptor, OCIPlatform
from proa.schema.presence import SHOWN_BOOL, SHOWN_INT, SHOWN_NULL, SHOWN_STR


class ImageConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Configuration of the image. These fields are used as defaults when starting a container
    from the image.
    """

    user: str = ""
    exposed_ports: dict[str, dict[str, object]] | None = None
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool | None = None
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    shell: list[str] | None = None


class ImageManifestSize(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes here: of blobs, and with what is unpacked of them."""

    content: int = 0
    total: int = 0


class ImageUnpackedSize(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes here that containers use."""

    unpacked: int = 0


class ImageManifestData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What there is to a manifest that is an image's."""

    platform: OCIPlatform = OCIPlatform()
    containers: list[str] = []
    size: ImageUnpackedSize = ImageUnpackedSize()


class AttestationManifestData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What there is to a manifest that says something of another one."""

    for_: str = field(default="", name="For")


class ImageManifestSummary(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ImageManifestSummary represents a summary of an image manifest."""

    id: str = field(default_factory=str, name="ID")
    descriptor: OCIDescriptor = field(default_factory=OCIDescriptor)
    available: bool = SHOWN_BOOL
    size: ImageManifestSize = field(default_factory=ImageManifestSize)
    kind: str = SHOWN_STR
    image_data: ImageManifestData | None = None
    attestation_data: AttestationManifestData | None = None


class ImageInspect(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Information about an image in the local image cache."""

    id: str = SHOWN_STR
    descriptor: OCIDescriptor | None = None
    manifests: list[ImageManifestSummary] | None = None
    repo_tags: list[str] | None = SHOWN_NULL
    repo_digests: list[str] | None = SHOWN_NULL
    parent: str = SHOWN_STR
    comment: str = SHOWN_STR
    created: str | None = None
    docker_version: str = SHOWN_STR
    author: str = SHOWN_STR
    config: ImageConfig | None = SHOWN_NULL
    architecture: str = SHOWN_STR
    variant: str | None = None
    os: str = SHOWN_STR
    os_version: str | None = None
    size: int = SHOWN_INT
    graph_driver: DriverData | None = SHOWN_NULL
    root_fs: dict[str, object] | None = field(default_factory=type(None), name="RootFS")
    metadata: dict[str, object] | None = SHOWN_NULL


class ImageSummary(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ImageSummary."""

    id: str = SHOWN_STR
    parent_id: str = SHOWN_STR
    repo_tags: list[str] | None = SHOWN_NULL
    repo_digests: list[str] | None = SHOWN_NULL
    created: int = SHOWN_INT
    size: int = SHOWN_INT
    shared_size: int = SHOWN_INT
    labels: dict[str, str] | None = SHOWN_NULL
    containers: int = SHOWN_INT
    manifests: list[ImageManifestSummary] | None = None
    descriptor: OCIDescriptor | None = None


class ImageHistoryResponseItem(Struct, frozen=True, kw_only=True, rename="pascal"):
    """individual image layer information in response to ImageHistory operation."""

    id: str = ""
    created: int = 0
    created_by: str = ""
    tags: list[str] | None = None
    size: int = 0
    comment: str = ""


class ImageDeleteResponseItem(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ImageDeleteResponseItem."""

    untagged: str = ""
    deleted: str = ""


class ErrorDetail(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ErrorDetail."""

    code: int = field(default=0, name="code")
    message: str = field(default="", name="message")


class ProgressDetail(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ProgressDetail."""

    current: int = field(default=0, name="current")
    total: int = field(default=0, name="total")


class CreateImageInfo(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """CreateImageInfo."""

    id: str = field(default="", name="id")
    error: str | None = field(default=None, name="error")
    error_detail: ErrorDetail | None = field(default=None, name="errorDetail")
    status: str = field(default="", name="status")
    progress: str | None = field(default=None, name="progress")
    progress_detail: ProgressDetail | None = field(default=None, name="progressDetail")


class PushImageInfo(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """PushImageInfo."""

    error: str | None = field(default=None, name="error")
    error_detail: ErrorDetail | None = field(default=None, name="errorDetail")
    status: str = field(default="", name="status")
    progress: str | None = field(default=None, name="progress")
    progress_detail: ProgressDetail | None = field(default=None, name="progressDetail")

"""What the engine says of a container: inspect, list, wait, top.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.network import NetworkSettings
from proa.schema.presence import SHOWN_BOOL, SHOWN_INT, SHOWN_NULL, SHOWN_STR


class HealthcheckResult(Struct, frozen=True, kw_only=True, rename="pascal"):
    """HealthcheckResult stores information about a single run of a healthcheck probe."""

    start: str = ""
    end: str = ""
    exit_code: int = 0
    output: str = ""


class Health(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Health stores information about the container's healthcheck results."""

    status: str = ""
    failing_streak: int = 0
    log: list[HealthcheckResult] | None = None


class ContainerState(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ContainerState stores container's running state. It's part of ContainerJSONBase and will
    be returned by the 'inspect' command.
    """

    status: str = SHOWN_STR
    running: bool = SHOWN_BOOL
    paused: bool = SHOWN_BOOL
    restarting: bool = SHOWN_BOOL
    oom_killed: bool = field(default_factory=bool, name="OOMKilled")
    dead: bool = SHOWN_BOOL
    pid: int = SHOWN_INT
    exit_code: int = SHOWN_INT
    error: str = SHOWN_STR
    started_at: str = SHOWN_STR
    finished_at: str = SHOWN_STR
    health: Health | None = None


class MountPoint(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """MountPoint represents a mount point configuration inside the container. This is used for
    reporting the mountpoints in use by a container.
    """

    type: str = ""
    name: str = ""
    source: str = SHOWN_STR
    destination: str = SHOWN_STR
    driver: str = ""
    mode: str = SHOWN_STR
    rw: bool = field(default_factory=bool, name="RW")
    propagation: str = SHOWN_STR


class DriverData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Information about the storage driver used to store the container's and image's filesystem."""

    name: str = ""
    data: dict[str, str] | None = None


class OCIPlatform(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Describes the platform which the image in the manifest runs on, as defined in the [OCI
    Image Index Specification](https://github.com/opencontainers/image-spec/blob/v1.0.1/image-
    index.md).
    """

    architecture: str = field(default_factory=str, name="architecture")
    os: str = field(default_factory=str, name="os")
    os_version: str = field(default="", name="os.version")
    os_features: list[str] | None = field(default=None, name="os.features")
    variant: str = field(default="", name="variant")


class OCIDescriptor(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """A descriptor struct containing digest, media type, and size, as defined in the [OCI
    Content Descriptors Specification](https://github.com/opencontainers/image-
    spec/blob/v1.0.1/descriptor.md).
    """

    media_type: str = field(default_factory=str, name="mediaType")
    digest: str = field(default_factory=str, name="digest")
    size: int = field(default_factory=int, name="size")
    urls: list[str] | None = field(default=None, name="urls")
    annotations: dict[str, str] | None = field(default=None, name="annotations")
    data: str | None = field(default=None, name="data")
    platform: OCIPlatform | None = field(default=None, name="platform")
    artifact_type: str | None = field(default=None, name="artifactType")


class ContainerInspectResponse(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ContainerInspectResponse."""

    id: str = SHOWN_STR
    created: str | None = SHOWN_NULL
    path: str = SHOWN_STR
    args: list[str] | None = SHOWN_NULL
    state: ContainerState | None = SHOWN_NULL
    image: str = SHOWN_STR
    resolv_conf_path: str = SHOWN_STR
    hostname_path: str = SHOWN_STR
    hosts_path: str = SHOWN_STR
    log_path: str | None = SHOWN_NULL
    name: str = SHOWN_STR
    restart_count: int = SHOWN_INT
    driver: str = SHOWN_STR
    platform: str = SHOWN_STR
    image_manifest_descriptor: OCIDescriptor | None = None
    mount_label: str = SHOWN_STR
    process_label: str = SHOWN_STR
    app_armor_profile: str = SHOWN_STR
    exec_ids: list[str] | None = field(default_factory=type(None), name="ExecIDs")
    host_config: HostConfig | None = SHOWN_NULL
    graph_driver: DriverData | None = SHOWN_NULL
    size_rw: int | None = None
    size_root_fs: int | None = None
    mounts: list[MountPoint] | None = SHOWN_NULL
    config: ContainerConfig | None = SHOWN_NULL
    network_settings: NetworkSettings | None = SHOWN_NULL


class Port(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """An open port on a container."""

    ip: str = field(default="", name="IP")
    private_port: int = SHOWN_INT
    public_port: int = 0
    type: str = SHOWN_STR


class ContainerSummary(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ContainerSummary."""

    id: str = SHOWN_STR
    names: list[str] | None = SHOWN_NULL
    image: str = SHOWN_STR
    image_id: str = field(default_factory=str, name="ImageID")
    image_manifest_descriptor: OCIDescriptor | None = None
    command: str = SHOWN_STR
    created: int = SHOWN_INT
    ports: list[Port] | None = SHOWN_NULL
    size_rw: int | None = None
    size_root_fs: int | None = None
    labels: dict[str, str] | None = SHOWN_NULL
    state: str = SHOWN_STR
    status: str = SHOWN_STR
    host_config: dict[str, object] | None = SHOWN_NULL
    network_settings: dict[str, object] | None = SHOWN_NULL
    mounts: list[MountPoint] | None = SHOWN_NULL


class ContainerCreateResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """OK response to ContainerCreate operation."""

    id: str = ""
    warnings: list[str] | None = None


class ContainerUpdateResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Response for a successful container-update."""

    warnings: list[str] | None = None


class ContainerTopResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Container 'top' response."""

    titles: list[str] | None = None
    processes: list[list[str] | None] | None = None


class ContainerWaitExitError(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """container waiting error, if any."""

    message: str = ""


class ContainerWaitResponse(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """OK response to ContainerWait operation."""

    status_code: int = SHOWN_INT
    error: ContainerWaitExitError | None = None


class FilesystemChange(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Change in the container's filesystem."""

    path: str = ""
    kind: int = 0

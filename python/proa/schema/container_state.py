"""What the engine says of a container: inspect, list, wait, top.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.network import NetworkSettings


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


class ContainerState(Struct, frozen=True, kw_only=True, rename="pascal"):
    """ContainerState stores container's running state. It's part of ContainerJSONBase and will
    be returned by the 'inspect' command.
    """

    status: str = ""
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = field(default=False, name="OOMKilled")
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    health: Health | None = None


class MountPoint(Struct, frozen=True, kw_only=True, rename="pascal"):
    """MountPoint represents a mount point configuration inside the container. This is used for
    reporting the mountpoints in use by a container.
    """

    type: str = ""
    name: str = ""
    source: str = ""
    destination: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = field(default=False, name="RW")
    propagation: str = ""


class DriverData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Information about the storage driver used to store the container's and image's filesystem."""

    name: str = ""
    data: dict[str, str] | None = None


class OCIPlatform(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Describes the platform which the image in the manifest runs on, as defined in the [OCI
    Image Index Specification](https://github.com/opencontainers/image-spec/blob/v1.0.1/image-
    index.md).
    """

    architecture: str = field(default="", name="architecture")
    os: str = field(default="", name="os")
    os_version: str = field(default="", name="os.version")
    os_features: list[str] | None = field(default=None, name="os.features")
    variant: str = field(default="", name="variant")


class OCIDescriptor(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A descriptor struct containing digest, media type, and size, as defined in the [OCI
    Content Descriptors Specification](https://github.com/opencontainers/image-
    spec/blob/v1.0.1/descriptor.md).
    """

    media_type: str = field(default="", name="mediaType")
    digest: str = field(default="", name="digest")
    size: int = field(default=0, name="size")
    urls: list[str] | None = field(default=None, name="urls")
    annotations: dict[str, str] | None = field(default=None, name="annotations")
    data: str | None = field(default=None, name="data")
    platform: OCIPlatform | None = field(default=None, name="platform")
    artifact_type: str | None = field(default=None, name="artifactType")


class ContainerInspectResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """ContainerInspectResponse."""

    id: str = ""
    created: str | None = None
    path: str = ""
    args: list[str] | None = None
    state: ContainerState | None = None
    image: str = ""
    resolv_conf_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    log_path: str | None = None
    name: str = ""
    restart_count: int = 0
    driver: str = ""
    platform: str = ""
    image_manifest_descriptor: OCIDescriptor | None = None
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str = ""
    exec_ids: list[str] | None = field(default=None, name="ExecIDs")
    host_config: HostConfig | None = None
    graph_driver: DriverData | None = None
    size_rw: int | None = None
    size_root_fs: int | None = None
    mounts: list[MountPoint] | None = None
    config: ContainerConfig | None = None
    network_settings: NetworkSettings | None = None


class Port(Struct, frozen=True, kw_only=True, rename="pascal"):
    """An open port on a container."""

    ip: str = field(default="", name="IP")
    private_port: int = 0
    public_port: int = 0
    type: str = ""


class ContainerSummary(Struct, frozen=True, kw_only=True, rename="pascal"):
    """ContainerSummary."""

    id: str = ""
    names: list[str] | None = None
    image: str = ""
    image_id: str = field(default="", name="ImageID")
    image_manifest_descriptor: OCIDescriptor | None = None
    command: str = ""
    created: int = 0
    ports: list[Port] | None = None
    size_rw: int | None = None
    size_root_fs: int | None = None
    labels: dict[str, str] | None = None
    state: str = ""
    status: str = ""
    host_config: dict[str, object] | None = None
    network_settings: dict[str, object] | None = None
    mounts: list[MountPoint] | None = None


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


class ContainerWaitExitError(Struct, frozen=True, kw_only=True, rename="pascal"):
    """container waiting error, if any."""

    message: str = ""


class ContainerWaitResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """OK response to ContainerWait operation."""

    status_code: int = 0
    error: ContainerWaitExitError | None = None


class FilesystemChange(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Change in the container's filesystem."""

    path: str = ""
    kind: int = 0

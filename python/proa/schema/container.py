"""What a client asks for: the create/update bodies and their parts.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.integers import Int64
from proa.schema.network import NetworkingConfig, PortBinding
from proa.schema.presence import SHOWN_BOOL, SHOWN_INT, SHOWN_NULL, SHOWN_STR


class DeviceMapping(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A device mapping between the host and container."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A request for devices to be sent to device drivers."""

    driver: str = ""
    count: Int64 = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str] | None] | None = None
    options: dict[str, str] | None = None


class ThrottleDevice(Struct, frozen=True, kw_only=True, rename="pascal"):
    """ThrottleDevice."""

    path: str = ""
    rate: Int64 = 0


class Ulimit(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Ulimit."""

    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class MountBindOptions(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Optional configuration for the bind type."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class MountVolumeDriverConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Map of driver specific options."""

    name: str = ""
    options: dict[str, str] | None = None


class MountVolumeOptions(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Optional configuration for the volume type."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: MountVolumeDriverConfig | None = None
    subpath: str = ""


class MountImageOptions(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Optional configuration for the image type."""

    subpath: str = ""


class MountTmpfsOptions(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Optional configuration for the tmpfs type."""

    size_bytes: Int64 = 0
    mode: Int64 = 0
    options: list[list[str] | None] | None = None


class Mount(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Mount."""

    target: str = ""
    source: str = ""
    type: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: MountBindOptions | None = None
    volume_options: MountVolumeOptions | None = None
    image_options: MountImageOptions | None = None
    tmpfs_options: MountTmpfsOptions | None = None


class RestartPolicy(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The behavior to apply when the container exits. The default is not to restart."""

    name: str = ""
    maximum_retry_count: Int64 = 0


class LogConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The logging configuration for this container."""

    type: str = ""
    config: dict[str, str] | None = None


class HealthConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """A test to perform to check that the container is healthy. Healthcheck commands should be
    side-effect free.
    """

    test: list[str] | None = None
    interval: Int64 = 0
    timeout: Int64 = 0
    retries: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0


class HostConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Container configuration that depends on the host we are running on."""

    cpu_shares: Int64 = SHOWN_INT
    memory: Int64 = SHOWN_INT
    cgroup_parent: str = SHOWN_STR
    blkio_weight: Int64 = SHOWN_INT
    blkio_weight_device: list[dict[str, object] | None] | None = SHOWN_NULL
    blkio_device_read_bps: list[ThrottleDevice] | None = SHOWN_NULL
    blkio_device_write_bps: list[ThrottleDevice] | None = SHOWN_NULL
    blkio_device_read_iops: list[ThrottleDevice] | None = field(
        default_factory=type(None), name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: list[ThrottleDevice] | None = field(
        default_factory=type(None), name="BlkioDeviceWriteIOps"
    )
    cpu_period: Int64 = SHOWN_INT
    cpu_quota: Int64 = SHOWN_INT
    cpu_realtime_period: Int64 = SHOWN_INT
    cpu_realtime_runtime: Int64 = SHOWN_INT
    cpuset_cpus: str = SHOWN_STR
    cpuset_mems: str = SHOWN_STR
    devices: list[DeviceMapping] | None = SHOWN_NULL
    device_cgroup_rules: list[str] | None = SHOWN_NULL
    device_requests: list[DeviceRequest] | None = SHOWN_NULL
    kernel_memory_tcp: Int64 = field(default=0, name="KernelMemoryTCP")
    memory_reservation: Int64 = SHOWN_INT
    memory_swap: Int64 = SHOWN_INT
    memory_swappiness: Int64 | None = SHOWN_NULL
    nano_cpus: Int64 = SHOWN_INT
    oom_kill_disable: bool | None = SHOWN_NULL
    init: bool | None = None
    pids_limit: Int64 | None = SHOWN_NULL
    ulimits: list[Ulimit] | None = SHOWN_NULL
    cpu_count: Int64 = SHOWN_INT
    cpu_percent: Int64 = SHOWN_INT
    io_maximum_iops: Int64 = field(default_factory=int, name="IOMaximumIOps")
    io_maximum_bandwidth: Int64 = field(default_factory=int, name="IOMaximumBandwidth")
    binds: list[str] | None = SHOWN_NULL
    container_id_file: str = field(default_factory=str, name="ContainerIDFile")
    log_config: LogConfig | None = field(default_factory=LogConfig)
    network_mode: str = SHOWN_STR
    port_bindings: dict[str, list[PortBinding] | None] | None = SHOWN_NULL
    restart_policy: RestartPolicy | None = field(default_factory=RestartPolicy)
    auto_remove: bool = SHOWN_BOOL
    volume_driver: str = SHOWN_STR
    volumes_from: list[str] | None = SHOWN_NULL
    mounts: list[Mount] | None = None
    console_size: list[Int64] | None = field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = SHOWN_NULL
    cap_drop: list[str] | None = SHOWN_NULL
    cgroupns_mode: str = SHOWN_STR
    dns: list[str] | None = SHOWN_NULL
    dns_options: list[str] | None = SHOWN_NULL
    dns_search: list[str] | None = SHOWN_NULL
    extra_hosts: list[str] | None = SHOWN_NULL
    group_add: list[str] | None = SHOWN_NULL
    ipc_mode: str = SHOWN_STR
    cgroup: str = SHOWN_STR
    links: list[str] | None = SHOWN_NULL
    oom_score_adj: Int64 = SHOWN_INT
    pid_mode: str = SHOWN_STR
    privileged: bool = SHOWN_BOOL
    publish_all_ports: bool = SHOWN_BOOL
    readonly_rootfs: bool = SHOWN_BOOL
    security_opt: list[str] | None = SHOWN_NULL
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(default_factory=str, name="UTSMode")
    userns_mode: str = SHOWN_STR
    shm_size: Int64 = SHOWN_INT
    sysctls: dict[str, str] | None = None
    runtime: str | None = None
    isolation: str = SHOWN_STR
    masked_paths: list[str] | None = SHOWN_NULL
    readonly_paths: list[str] | None = SHOWN_NULL
    proa_rootfs: str = ""
    """proa's own: absolute host directory to run from, through an ephemeral overlay (no image)."""
    proa_timeout: Int64 = 0
    """proa's own: nanoseconds after which the container is killed, 0 for never."""


class ContainerConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Configuration for a container that is portable between hosts."""

    hostname: str = SHOWN_STR
    domainname: str = SHOWN_STR
    user: str = SHOWN_STR
    attach_stdin: bool = SHOWN_BOOL
    attach_stdout: bool = SHOWN_BOOL
    attach_stderr: bool = SHOWN_BOOL
    exposed_ports: dict[str, dict[str, object] | None] | None = None
    tty: bool = SHOWN_BOOL
    open_stdin: bool = SHOWN_BOOL
    stdin_once: bool = SHOWN_BOOL
    env: list[str] | None = SHOWN_NULL
    cmd: list[str] | None = SHOWN_NULL
    healthcheck: HealthConfig | None = None
    args_escaped: bool | None = None
    image: str = SHOWN_STR
    volumes: dict[str, dict[str, object] | None] | None = SHOWN_NULL
    working_dir: str = SHOWN_STR
    entrypoint: list[str] | None = SHOWN_NULL
    network_disabled: bool | None = None
    mac_address: str | None = None
    on_build: list[str] | None = SHOWN_NULL
    labels: dict[str, str] | None = SHOWN_NULL
    stop_signal: str | None = None
    stop_timeout: Int64 | None = None
    shell: list[str] | None = None


class ContainerCreateRequest(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /containers/create."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ContainerUpdateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /containers/{id}/update: limits to change, zero or None leaves one as it is."""

    cpu_shares: Int64 = 0
    memory: Int64 = 0
    blkio_weight: Int64 = 0
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    nano_cpus: Int64 = 0
    pids_limit: Int64 | None = None
    restart_policy: RestartPolicy | None = None

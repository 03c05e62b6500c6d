"""What a client asks for: the create/update bodies and their parts.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.network import NetworkingConfig, PortBinding


class DeviceMapping(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A device mapping between the host and container."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A request for devices to be sent to device drivers."""

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str] | None] | None = None
    options: dict[str, str] | None = None


class ThrottleDevice(Struct, frozen=True, kw_only=True, rename="pascal"):
    """ThrottleDevice."""

    path: str = ""
    rate: int = 0


class Ulimit(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Ulimit."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class MountBindOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Optional configuration for the bind type."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class MountVolumeDriverConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Map of driver specific options."""

    name: str = ""
    options: dict[str, str] | None = None


class MountVolumeOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Optional configuration for the volume type."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: MountVolumeDriverConfig | None = None
    subpath: str = ""


class MountImageOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Optional configuration for the image type."""

    subpath: str = ""


class MountTmpfsOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Optional configuration for the tmpfs type."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str] | None] | None = None


class Mount(Struct, frozen=True, kw_only=True, rename="pascal"):
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
    maximum_retry_count: int = 0


class LogConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The logging configuration for this container."""

    type: str = ""
    config: dict[str, str] | None = None


class HealthConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A test to perform to check that the container is healthy. Healthcheck commands should be
    side-effect free.
    """

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class HostConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Container configuration that depends on the host we are running on."""

    cpu_shares: int = 0
    memory: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[dict[str, object] | None] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(
        default=None, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: list[ThrottleDevice] | None = field(
        default=None, name="BlkioDeviceWriteIOps"
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = 0
    oom_kill_disable: bool | None = None
    init: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")
    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig | None = None
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy | None = None
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | None = None
    console_size: list[int] | None = None
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str | None = None
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    proa_rootfs: str = ""
    """proa's own: absolute host directory to run from, through an ephemeral overlay (no image)."""
    proa_timeout: int = 0
    """proa's own: nanoseconds after which the container is killed, 0 for never."""


class ContainerConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Configuration for a container that is portable between hosts."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, object] | None] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool | None = None
    image: str = ""
    volumes: dict[str, dict[str, object] | None] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool | None = None
    mac_address: str | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    shell: list[str] | None = None


class ContainerCreateRequest(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /containers/create."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ContainerUpdateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /containers/{id}/update: limits to change, zero or None leaves one as it is."""

    cpu_shares: int = 0
    memory: int = 0
    blkio_weight: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    memory_swap: int = 0
    nano_cpus: int = 0
    pids_limit: int | None = None
    restart_policy: RestartPolicy | None = None

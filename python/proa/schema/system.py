"""Version, info, events, errors.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.build import BuildCacheRecord
from proa.schema.container_state import ContainerSummary
from proa.schema.image import ImageSummary
from proa.schema.presence import SHOWN_BOOL, SHOWN_INT, SHOWN_NULL, SHOWN_STR
from proa.schema.volume import Volume


class ErrorResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Represents an error."""

    message: str = field(default="", name="message")


class IDResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Response to an API call that returns just an Id."""

    id: str = ""


class SystemVersion(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Response of Engine API: GET '/version'."""

    platform: dict[str, str] | None = field(default_factory=lambda: {"Name": ""})
    components: list[dict[str, object] | None] | None = None
    version: str = SHOWN_STR
    api_version: str = SHOWN_STR
    min_api_version: str = field(default="", name="MinAPIVersion")
    git_commit: str = SHOWN_STR
    go_version: str = SHOWN_STR
    os: str = SHOWN_STR
    arch: str = SHOWN_STR
    kernel_version: str = ""
    experimental: bool = False
    build_time: str = ""


class PluginsInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Available plugins per type."""

    volume: list[str] | None = None
    network: list[str] | None = None
    authorization: list[str] | None = None
    log: list[str] | None = None


class Runtime(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Runtime describes an [OCI compliant](https://github.com/opencontainers/runtime-spec)
    runtime.
    """

    path: str = field(default="", name="path")
    runtime_args: list[str] | None = field(default=None, name="runtimeArgs")
    status: dict[str, str] | None = field(default=None, name="status")


class Commit(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Commit holds the Git-commit (SHA1) that a binary was built from, as reported in the
    version-string of external tools, such as containerd, or runC.
    """

    id: str = field(default="", name="ID")


class IndexInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """IndexInfo contains information about a registry."""

    name: str = ""
    mirrors: list[str] | None = None
    secure: bool = False
    official: bool = False


class RegistryServiceConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """RegistryServiceConfig stores daemon registry services configuration."""

    insecure_registry_cid_rs: list[str] | None = field(default=None, name="InsecureRegistryCIDRs")
    index_configs: dict[str, IndexInfo | None] | None = None
    mirrors: list[str] | None = None


class SwarmInfo(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Represents generic information about swarm."""

    node_id: str = field(default_factory=str, name="NodeID")
    node_addr: str = SHOWN_STR
    local_node_state: str = SHOWN_STR
    control_available: bool = SHOWN_BOOL
    error: str = SHOWN_STR
    remote_managers: list[dict[str, object] | None] | None = SHOWN_NULL
    nodes: int | None = None
    managers: int | None = None
    cluster: dict[str, object] | None = None


class ContainerdInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Information for connecting to the containerd instance that is used by the daemon. This is
    included for debugging purposes only.
    """

    address: str = ""
    namespaces: dict[str, object] | None = None


class FirewallInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Information about the daemon's firewalling configuration."""

    driver: str = ""
    info: list[list[str] | None] | None = None


class SystemInfo(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """SystemInfo."""

    id: str = field(default_factory=str, name="ID")
    containers: int = SHOWN_INT
    containers_running: int = SHOWN_INT
    containers_paused: int = SHOWN_INT
    containers_stopped: int = SHOWN_INT
    images: int = SHOWN_INT
    driver: str = SHOWN_STR
    driver_status: list[list[str] | None] | None = SHOWN_NULL
    docker_root_dir: str = SHOWN_STR
    plugins: PluginsInfo | None = field(default_factory=PluginsInfo)
    memory_limit: bool = SHOWN_BOOL
    swap_limit: bool = SHOWN_BOOL
    kernel_memory_tcp: bool = field(default=False, name="KernelMemoryTCP")
    cpu_cfs_period: bool = SHOWN_BOOL
    cpu_cfs_quota: bool = SHOWN_BOOL
    cpu_shares: bool = field(default_factory=bool, name="CPUShares")
    cpu_set: bool = field(default_factory=bool, name="CPUSet")
    pids_limit: bool = SHOWN_BOOL
    oom_kill_disable: bool = SHOWN_BOOL
    i_pv4_forwarding: bool = SHOWN_BOOL
    debug: bool = SHOWN_BOOL
    n_fd: int = SHOWN_INT
    n_goroutines: int = SHOWN_INT
    system_time: str = SHOWN_STR
    logging_driver: str = SHOWN_STR
    cgroup_driver: str = SHOWN_STR
    cgroup_version: str = ""
    n_events_listener: int = SHOWN_INT
    kernel_version: str = SHOWN_STR
    operating_system: str = SHOWN_STR
    os_version: str = field(default_factory=str, name="OSVersion")
    os_type: str = field(default_factory=str, name="OSType")
    architecture: str = SHOWN_STR
    ncpu: int = field(default_factory=int, name="NCPU")
    mem_total: int = SHOWN_INT
    index_server_address: str = SHOWN_STR
    registry_config: RegistryServiceConfig | None = SHOWN_NULL
    generic_resources: list[dict[str, object] | None] | None = SHOWN_NULL
    http_proxy: str = SHOWN_STR
    https_proxy: str = SHOWN_STR
    no_proxy: str = SHOWN_STR
    name: str = SHOWN_STR
    labels: list[str] | None = SHOWN_NULL
    experimental_build: bool = SHOWN_BOOL
    server_version: str = SHOWN_STR
    runtimes: dict[str, Runtime | None] | None = SHOWN_NULL
    default_runtime: str = SHOWN_STR
    swarm: SwarmInfo | None = field(default_factory=SwarmInfo)
    live_restore_enabled: bool = SHOWN_BOOL
    isolation: str = SHOWN_STR
    init_binary: str = SHOWN_STR
    containerd_commit: Commit | None = field(default_factory=Commit)
    runc_commit: Commit | None = field(default_factory=Commit)
    init_commit: Commit | None = field(default_factory=Commit)
    security_options: list[str] | None = SHOWN_NULL
    product_license: str = ""
    default_address_pools: list[dict[str, object] | None] | None = None
    firewall_backend: FirewallInfo | None = None
    discovered_devices: list[dict[str, object] | None] | None = None
    warnings: list[str] | None = SHOWN_NULL
    cdi_spec_dirs: list[str] | None = field(default_factory=type(None), name="CDISpecDirs")
    containerd: ContainerdInfo | None = None


class SystemDataUsage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Disk usage by kind; None for a kind that was not asked for. Sizes in bytes."""

    layers_size: int = 0
    images: list[ImageSummary] | None = None
    containers: list[ContainerSummary] | None = None
    volumes: list[Volume] | None = None
    build_cache: list[BuildCacheRecord] | None = None


class EventActor(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Actor describes something that generates events, like a container, network, or a volume."""

    id: str = field(default="", name="ID")
    attributes: dict[str, str] | None = None


class EventMessage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """EventMessage represents the information an event contains."""

    type: str = ""
    action: str = ""
    actor: EventActor | None = None
    scope: str = field(default="", name="scope")
    time: int = field(default=0, name="time")
    time_nano: int = field(default=0, name="timeNano")

"""Version, info, events, errors.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field


class ErrorResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Represents an error."""

    message: str = field(default="", name="message")


class IDResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Response to an API call that returns just an Id."""

    id: str = ""


class SystemVersion(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Response of Engine API: GET '/version'."""

    platform: dict[str, object] | None = None
    components: list[dict[str, object] | None] | None = None
    version: str = ""
    api_version: str = ""
    min_api_version: str = field(default="", name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = ""
    arch: str = ""
    kernel_version: str = ""
    experimental: bool = False
    build_time: str = ""


class PluginsInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Available plugins per type."""

    volume: list[str] | None = None
    network: list[str] | None = None
    authorization: list[str] | None = None
    log: list[str] | None = None


class Runtime(Struct, frozen=True, kw_only=True, rename="pascal"):
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


class SwarmInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Represents generic information about swarm."""

    node_id: str = field(default="", name="NodeID")
    node_addr: str = ""
    local_node_state: str = ""
    control_available: bool = False
    error: str = ""
    remote_managers: list[dict[str, object] | None] | None = None
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


class SystemInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """SystemInfo."""

    id: str = field(default="", name="ID")
    containers: int = 0
    containers_running: int = 0
    containers_paused: int = 0
    containers_stopped: int = 0
    images: int = 0
    driver: str = ""
    driver_status: list[list[str] | None] | None = None
    docker_root_dir: str = ""
    plugins: PluginsInfo | None = None
    memory_limit: bool = False
    swap_limit: bool = False
    kernel_memory_tcp: bool = field(default=False, name="KernelMemoryTCP")
    cpu_cfs_period: bool = False
    cpu_cfs_quota: bool = False
    cpu_shares: bool = field(default=False, name="CPUShares")
    cpu_set: bool = field(default=False, name="CPUSet")
    pids_limit: bool = False
    oom_kill_disable: bool = False
    i_pv4_forwarding: bool = False
    debug: bool = False
    n_fd: int = 0
    n_goroutines: int = 0
    system_time: str = ""
    logging_driver: str = ""
    cgroup_driver: str = ""
    cgroup_version: str = ""
    n_events_listener: int = 0
    kernel_version: str = ""
    operating_system: str = ""
    os_version: str = field(default="", name="OSVersion")
    os_type: str = field(default="", name="OSType")
    architecture: str = ""
    ncpu: int = field(default=0, name="NCPU")
    mem_total: int = 0
    index_server_address: str = ""
    registry_config: RegistryServiceConfig | None = None
    generic_resources: list[dict[str, object] | None] | None = None
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str = ""
    labels: list[str] | None = None
    experimental_build: bool = False
    server_version: str = ""
    runtimes: dict[str, Runtime | None] | None = None
    default_runtime: str = ""
    swarm: SwarmInfo | None = None
    live_restore_enabled: bool = False
    isolation: str = ""
    init_binary: str = ""
    containerd_commit: Commit | None = None
    runc_commit: Commit | None = None
    init_commit: Commit | None = None
    security_options: list[str] | None = None
    product_license: str = ""
    default_address_pools: list[dict[str, object] | None] | None = None
    firewall_backend: FirewallInfo | None = None
    discovered_devices: list[dict[str, object] | None] | None = None
    warnings: list[str] | None = None
    cdi_spec_dirs: list[str] | None = field(default=None, name="CDISpecDirs")
    containerd: ContainerdInfo | None = None


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

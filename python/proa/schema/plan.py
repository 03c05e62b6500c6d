"""The plan: one container resolved to what the kernel must be told, as the keeper takes it.

Encoded once, at create, as MessagePack; mirror of native/src/plan.rs, where the fields are explained.

Source of the words: the OCI runtime specification, config.md and config-linux.md.
"""

from typing import Literal

from msgspec import Struct

Propagation = Literal["private", "rprivate", "slave", "rslave", "shared", "rshared"]


class Overlay(Struct, frozen=True, kw_only=True, tag_field="type", tag="overlay"):
    """An overlay root: `lower` top layer first; `upper` and `work` exist."""

    lower: tuple[str, ...]
    upper: str
    work: str
    volatile: bool = False
    late: bool = False


class NewNamespace(Struct, frozen=True, tag_field="type", tag="new"):
    """A namespace of the container's own."""


class HostNamespace(Struct, frozen=True, tag_field="type", tag="host"):
    """The keeper's namespace."""


class ContainerNamespace(Struct, frozen=True, tag_field="type", tag="container"):
    """The namespace of another running container."""

    id: str


class NoNetwork(Struct, frozen=True, tag_field="type", tag="none"):
    """A new network namespace with only lo."""


class PreparedNetwork(Struct, frozen=True, tag_field="type", tag="prepared"):
    """A namespace that a net_prepare made ready under `key`; this start takes it."""

    key: int


Namespace = NewNamespace | HostNamespace | ContainerNamespace
Network = NoNetwork | HostNamespace | ContainerNamespace | PreparedNetwork


class IdMap(Struct, frozen=True, kw_only=True):
    """One line of uid_map or gid_map."""

    container_id: int
    host_id: int
    size: int


class UserNamespace(Struct, frozen=True, kw_only=True):
    """A new user namespace."""

    uid_map: tuple[IdMap, ...]
    gid_map: tuple[IdMap, ...]


class Namespaces(Struct, frozen=True, kw_only=True):
    """How each namespace comes about; the mount namespace is always new."""

    pid: Namespace = NewNamespace()
    ipc: Namespace = NewNamespace()
    uts: Namespace = NewNamespace()
    cgroup: Namespace = NewNamespace()
    net: Network = NoNetwork()
    user: UserNamespace | None = None


class Bind(Struct, frozen=True, kw_only=True, tag_field="type", tag="bind"):
    """A bind mount of the absolute host path `source`."""

    source: str
    target: str
    readonly: bool = False
    recursive: bool = True
    recursive_readonly: bool = False
    recursive_readonly_forced: bool = False
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False
    propagation: Propagation = "rprivate"
    engine_file: bool = False
    subpath: str = ""
    idmap: bool = False
    late: bool = False


class Layers(Struct, frozen=True, kw_only=True, tag_field="type", tag="layers"):
    """The layers of an image as a tree of their own, `lower` top layer first, or what is at `subpath` in it.

    Read-only without `upper` and `work`, which come together.
    """

    lower: tuple[str, ...]
    target: str
    subpath: str = ""
    readonly: bool = False
    upper: str | None = None
    work: str | None = None
    volatile: bool = False


class Tmpfs(Struct, frozen=True, kw_only=True, tag_field="type", tag="tmpfs"):
    """A tmpfs; `options` are tmpfs's own (size=, mode=, ...)."""

    target: str
    options: tuple[str, ...] = ()
    readonly: bool = False
    nosuid: bool = True
    nodev: bool = True
    noexec: bool = True
    copy_up: bool = False


class Proc(Struct, frozen=True, kw_only=True, tag_field="type", tag="proc"):
    """procfs of the container's pid namespace."""

    target: str = "/proc"


class Sysfs(Struct, frozen=True, kw_only=True, tag_field="type", tag="sysfs"):
    """sysfs of the container's network namespace."""

    target: str = "/sys"
    readonly: bool = True


class CgroupMount(Struct, frozen=True, kw_only=True, tag_field="type", tag="cgroup"):
    """The container's own cgroup tree."""

    target: str = "/sys/fs/cgroup"
    readonly: bool = True


class Mqueue(Struct, frozen=True, kw_only=True, tag_field="type", tag="mqueue"):
    """POSIX message queues of the container's ipc namespace."""

    target: str = "/dev/mqueue"


class Dev(Struct, frozen=True, kw_only=True, tag_field="type", tag="dev"):
    """The fresh /dev, with /dev/pts, /dev/shm (`shm_size` bytes, 0 for none) and the standard nodes."""

    shm_size: int = 64 << 20
    shm_source: str | None = None


Mount = Bind | Layers | Tmpfs | Proc | Sysfs | CgroupMount | Mqueue | Dev


class Device(Struct, frozen=True, kw_only=True):
    """A node made in /dev."""

    path: str
    kind: Literal["char", "block", "fifo"]
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0


class WeightDevice(Struct, frozen=True, kw_only=True):
    """A block device's relative weight."""

    major: int
    minor: int
    weight: int


class ThrottleDevice(Struct, frozen=True, kw_only=True):
    """A block device's rate: bytes or operations per second."""

    major: int
    minor: int
    rate: int


class DeviceRule(Struct, frozen=True, kw_only=True):
    """One line of the device list; the last match wins. None is `*`."""

    allow: bool
    kind: Literal["a", "b", "c"]
    major: int | None
    minor: int | None
    access: str


class Resources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits; None leaves the kernel's default. Units as in native/src/plan.rs."""

    memory_limit: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: int | None = None
    blkio_weight: int | None = None
    blkio_weight_device: tuple[WeightDevice, ...] = ()
    blkio_throttle_read_bps: tuple[ThrottleDevice, ...] = ()
    blkio_throttle_write_bps: tuple[ThrottleDevice, ...] = ()
    blkio_throttle_read_iops: tuple[ThrottleDevice, ...] = ()
    blkio_throttle_write_iops: tuple[ThrottleDevice, ...] = ()
    devices: tuple[DeviceRule, ...] = ()


class Cgroup(Struct, frozen=True, kw_only=True):
    """The cgroup to make, by its path below every hierarchy's root."""

    path: str
    resources: Resources = Resources()


class Capabilities(Struct, frozen=True, kw_only=True):
    """Capability sets as bit masks; inheritable is always empty."""

    bounding: int
    effective: int
    permitted: int
    ambient: int = 0


class Rlimit(Struct, frozen=True, kw_only=True):
    """`resource` is the RLIMIT_* number."""

    resource: int
    soft: int
    hard: int


class Process(Struct, frozen=True, kw_only=True):
    """What is executed, and as whom; also the whole of an exec."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int | None = None
    capabilities: Capabilities
    no_new_privileges: bool = False
    seccomp: bytes | None = None
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int | None = None
    tty: bool = False
    console_size: tuple[int, int] = (0, 0)


class Log(Struct, frozen=True, kw_only=True):
    """A json-file log; max_size in bytes (0 never rotates), max_files counts the current one."""

    path: str
    max_size: int
    max_files: int


class Stdio(Struct, frozen=True, kw_only=True):
    """How the keeper holds the standard streams."""

    open_stdin: bool = False
    stdin_once: bool = False
    log: Log | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """One container, resolved."""

    id: str
    hostname: str
    domainname: str = ""
    rootfs: Overlay
    readonly_rootfs: bool = False
    rootfs_propagation: Propagation = "rprivate"
    namespaces: Namespaces
    mounts: tuple[Mount, ...]
    devices: tuple[Device, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    cgroup: Cgroup
    process: Process
    init: bool = False
    stdio: Stdio
    timeout_ns: int = 0

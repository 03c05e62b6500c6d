"""What resolution takes and gives: facts of the host, of the image and of other containers in, one
`Resolved` out. All of it is data; nothing here reads the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from proa.network import EndpointWish, NetworkWish
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.container_state import MountPoint
from proa.schema.image import ImageConfig
from proa.schema.plan import Plan


class Host(Struct, frozen=True, kw_only=True):
    """What this machine offers; read once at daemon start by `host.read_host`."""

    hostname: str
    cpus: int
    """Processors that containers may use (online ones)."""
    memory: int
    """Bytes of RAM."""
    capabilities: int
    """The daemon's own bounding set: more than this no container can get."""
    rlimits: dict[int, int]
    """RLIMIT_* number to the hard limit that cannot be passed; -1 unlimited."""
    may_raise_rlimits: bool
    """CAP_SYS_RESOURCE is there: rlimits above are no bound, negative oom_score_adj works."""
    oom_score_adj: int
    """The daemon's own value: without CAP_SYS_RESOURCE no process can go below it."""
    cgroup_version: str
    """`1`, `2` or `hybrid`."""
    controllers: frozenset[str]
    swap_accounting: bool
    """Memory plus swap can be limited."""
    blkio_weight: bool = True
    """Shares of block I/O can be weighed: by the BFQ scheduler on v1."""
    cpuset_cpus: str
    cpuset_mems: str
    devices_root: str = "/dev"


class Peer(Struct, frozen=True, kw_only=True):
    """Another container, as namespace modes and VolumesFrom need it."""

    id: str
    name: str
    running: bool
    host_config: HostConfig
    plan: Plan
    mount_points: tuple[MountPoint, ...]


class ImageMount(Struct, frozen=True, kw_only=True):
    """An image that is mounted: held until the container is removed."""

    id: str
    directory: str
    """The container's own, for what is written: gets `fs` and `work`. Empty: it is read-only."""


class Storage(Struct, frozen=True, kw_only=True):
    """What `--storage-opt` wants of the writable layer."""

    size: int = 0
    """Bytes; 0 is no limit."""
    tmpfs: bool = False
    """In memory, and gone with the host's next boot."""


class FoundImage(Protocol):
    """An image, as a mount needs it."""

    @property
    def id(self) -> str: ...
    @property
    def layers(self) -> tuple[str, ...]: ...


class VolumeWish(Struct, frozen=True, kw_only=True):
    """A volume that the container mounts: to be created if missing and referenced until it is removed."""

    name: str
    target: str
    """Where the container mounts it: copy-up takes the image's files from there."""
    anonymous: bool = False
    """Made for this container alone: `rm -v` and `--rm` remove it."""
    copy_up: bool = True
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    subpath: str = ""


class Resolved(Struct, frozen=True, kw_only=True):
    """A create request, resolved. The engine stores it and starts from it, any number of times.

    Of `plan` three things are placeholders that the start fills in: `rootfs` (empty directories),
    `namespaces.net` (NoNetwork where `network.mode` is bridge) and the id of a peer that `peers` names.
    """

    config: ContainerConfig
    host_config: HostConfig
    plan: Plan
    warnings: tuple[str, ...]
    mount_points: tuple[MountPoint, ...]
    volumes: tuple[VolumeWish, ...]
    network: NetworkWish
    bind_directories: tuple[str, ...] = ()
    """Host directories that `-v` makes where they are missing, at every start (root:root, 0755)."""
    images: tuple[ImageMount, ...] = ()
    storage: Storage | None = None
    peers: tuple[str, ...] = ()
    """Ids of containers whose namespaces this one joins: they must run when it starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Everything a resolution may ask for."""

    id: str
    """The new container's id, 64 hex digits."""
    directory: str
    """The container's own directory: holds hostname, hosts, resolv.conf and the log."""
    config: DaemonConfig
    host: Host
    image: ImageConfig | None
    """None with ProaRootfs."""
    read: Callable[[Sequence[str]], Sequence[bytes | None]]
    """Files of the image as the container would see them; None where missing."""
    peer: Callable[[str], Peer]
    """Another container by name, id or prefix; raises NotFound."""
    volume_path: Callable[[str], str]
    """Where a volume of this name has its data, existing or not."""
    endpoint_faults: Callable[[EndpointWish], Sequence[str]]
    """What the network that an endpoint names cannot give it; nothing of one that is not there yet."""
    find_image: Callable[[str], FoundImage]
    """An image to mount, by what the user typed; raises NotFound."""
    seccomp: Callable[[bytes | None, int], bytes]
    """proa_native.compile_seccomp behind a cache; None is the built-in profile."""

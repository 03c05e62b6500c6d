"""Builds as clients ask for them, and the cache as df and prune show it.

Source: the Docker Engine API v1.51, ImageBuild, BuildPrune, BuildCache. `ProaBuild` is proa's own: what a
client on the same host says instead of sending the context.
"""

from msgspec import Struct, field

from proa.schema.container import Ulimit


class ProaBuild(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The JSON body of a build whose context is a directory of the daemon's host.

    Paths are absolute. `secrets` are by id, base64; `contexts` by name: a directory, URL or docker-image://.
    """

    context: str = ""
    dockerfile_path: str = ""
    dockerfile_text: str | None = None
    contexts: dict[str, str] = {}
    secrets: dict[str, bytes] = {}
    ssh: dict[str, str] = {}
    """Sockets of agents, by id."""
    entitlements: list[str] = []
    no_cache_filter: list[str] = []
    source_date_epoch: int | None = None
    cache_from: list[dict[str, str]] = []
    cache_to: list[dict[str, str]] = []
    """Fields of --cache-from and --cache-to: type, ref, src, dest, mode and the rest."""
    output: dict[str, str] = {}
    """Fields of --output, by BuildKit's names: compression, annotation.K, rewrite-timestamp and the rest."""
    explain_cache: bool = False
    check: bool = False
    """Only check the Dockerfile."""


class BuildOptions(Struct, frozen=True, kw_only=True):
    """A build, whichever way it was asked for."""

    local: ProaBuild = ProaBuild()
    dockerfile: str = "Dockerfile"
    remote: str = ""
    tags: tuple[str, ...] = ()
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    target: str = ""
    platform: str = ""
    arguments: dict[str, str] = {}
    labels: dict[str, str] = {}
    cache_from: tuple[str, ...] = ()
    """Images of the store, as the classic builder looks at them."""
    network_mode: str = "default"
    extra_hosts: tuple[str, ...] = ()
    cgroup_parent: str = ""
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    events: bool = False
    """Report vertices as events (proa's CLI) instead of Docker's lines."""


class BuildCacheRecord(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One entry of the cache, for df and prune; sizes in bytes, times as RFC 3339."""

    id: str = field(name="ID")
    parents: list[str] | None = None
    type: str = "regular"
    description: str = ""
    in_use: bool = False
    shared: bool = False
    size: int = 0
    created_at: str = ""
    last_used_at: str | None = None
    usage_count: int = 0


class BuildPruneReport(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a prune of the cache removed."""

    caches_deleted: list[str] | None = None
    space_reclaimed: int = 0

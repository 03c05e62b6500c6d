"""The daemon's configuration: /etc/proa/daemon.json with dockerd's key names, and flags over it.

Everything an instance owns on the host (bridge, nft table, cgroup parent) has its name derived here, so
that several daemons with roots of their own live side by side.
"""

from functools import cache
from hashlib import sha256
from typing import Any

from msgspec import Struct

DATA_ROOT = "/var/lib/proa"
EXEC_ROOT = "/run/proa"
CONFIG_FILE = "/etc/proa/daemon.json"
SOCKET_NAME = "proad.sock"


class DaemonConfig(Struct, frozen=True, kw_only=True, rename="kebab"):
    """daemon.json; a key missing there has the default here."""

    data_root: str = DATA_ROOT
    exec_root: str = EXEC_ROOT
    pidfile: str = ""
    hosts: tuple[str, ...] = ()
    """`unix:///path`, `tcp://host:port`; empty for the default socket below exec_root."""
    group: str = ""
    """Group that owns the unix socket (mode 0660); empty for root alone (0600)."""
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    debug: bool = False
    log_level: str = "info"
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    """`max-size` and `max-file`; unset means 20m and 5: capped by default."""
    bridge: str = ""
    """Name of the default bridge; empty for one derived from exec_root; `none` for no default bridge."""
    bip: str = ""
    """Address and prefix of the default bridge; empty picks a free range of default_address_pools."""
    mtu: int = 0
    icc: bool = True
    """Containers on the default bridge reach each other."""
    ip: str = ""
    """Host address of ports that are published without one; empty for all."""
    ipv6: bool = False
    """IPv6 on the default bridge, from fixed_cidr_v6 or an address pool."""
    fixed_cidr: str = ""
    """Part of the default bridge's subnet that containers' addresses come from."""
    fixed_cidr_v6: str = ""
    default_address_pools: tuple[dict[str, str | int], ...] = ()
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    ip_forward: bool = True
    ip_masq: bool = True
    iptables: bool = True
    """Whether proa writes firewall rules (nftables) at all."""
    cgroup_parent: str = ""
    default_cgroupns_mode: str = "private"
    default_ipc_mode: str = "private"
    default_network_opts: dict[str, dict[str, str]] = {}
    """By network driver: options of networks that do not say otherwise."""
    default_runtime: str = "proa"
    default_shm_size: str = "64M"
    default_ulimits: dict[str, dict[str, int | str]] = {}
    init: bool = False
    labels: tuple[str, ...] = ()
    live_restore: bool = True
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """Path of a JSON profile, `unconfined`, or empty for the built-in default."""
    shutdown_timeout: int = 15
    storage_driver: str = "overlay2"
    userns_remap: str = ""
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    certs_dir: str = ""
    """proa's own: the directory with <host:port>/ca.crt and <host>/hosts.toml, instead of those in /etc."""
    proxies: dict[str, str] = {}
    """`http-proxy`, `https-proxy` and `no-proxy` for registries, over those of the environment."""
    max_concurrent_downloads: int = 3
    """Layers that are downloaded from one registry and unpacked at a time; Docker's number."""
    max_concurrent_uploads: int = 5
    """Layers of one push."""
    max_download_attempts: int = 5
    """How often in a row a layer's download may break without a byte."""
    image_gc_high: str = ""
    """proa's own: bytes of images (`20g`) past which the ones used longest ago go; empty for never."""
    image_gc_low: str = ""
    """proa's own: bytes of images that a collection leaves; empty for four fifths of image_gc_high."""
    image_gc_min_age: str = "2m"
    """proa's own: how long an image is left alone after its last use."""
    image_gc_keep: tuple[str, ...] = ()
    """proa's own: patterns of names, as `images --filter reference=` has them, whose images never go."""
    builder: dict[str, Any] = {}
    """`gc` as in dockerd (build_gc.py): nothing of the build cache goes by itself unless that is enabled."""
    network_pool_size: int = 16
    """proa's own: network namespaces held ready for the default bridge."""

    @property
    def instance(self) -> str:
        """Empty for the default exec_root, else six hex digits that mark this instance's names."""
        return "" if self.exec_root == EXEC_ROOT else _mark(self.exec_root)

    @property
    def bridge_name(self) -> str:
        """Name of the default bridge (at most 15 characters)."""
        return self.bridge or ("proa0" if not self.instance else f"proa-{self.instance}")

    @property
    def firewall_table(self) -> str:
        """Name of the nft table."""
        return "proa" if not self.instance else f"proa_{self.instance}"

    @property
    def cgroup_root(self) -> str:
        """Path of this instance's cgroup below every hierarchy's root."""
        return self.cgroup_parent or ("/proa" if not self.instance else f"/proa-{self.instance}")

    @property
    def listen(self) -> tuple[str, ...]:
        """Where the API is served."""
        return self.hosts or (f"unix://{self.exec_root}/{SOCKET_NAME}",)


@cache
def _mark(exec_root: str) -> str:
    return sha256(exec_root.encode()).hexdigest()[:6]

"""What the daemon says of itself and its host: version, info, events. Implements proa.api.ports.System."""

import asyncio
import os
import platform
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from msgspec import structs

from proa.engine.durations import rfc3339
from proa.engine.events import Events
from proa.engine.registry import Registry
from proa.engine.resolve import Host
from proa.engine.resolve.logs import LOG_DRIVERS
from proa.engine.state import Status
from proa.engine.usage import DiskUsage
from proa.schema.config import DaemonConfig
from proa.schema.system import (
    EventMessage,
    IndexInfo,
    PluginsInfo,
    RegistryServiceConfig,
    Runtime,
    SwarmInfo,
    SystemDataUsage,
    SystemInfo,
    SystemVersion,
)

API_VERSION = "1.51"
MIN_API_VERSION = "1.24"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class System:
    """The daemon's own verbs."""

    def __init__(
        self,
        *,
        config: DaemonConfig,
        host: Host,
        registry: Registry,
        count_images: Callable[[], int],
        events: Events,
        version: str,
        usage: DiskUsage,
    ) -> None:
        self.config = config
        self._host = host
        self._registry = registry
        self._count_images = count_images
        self._events = events
        self._version = version
        self._usage = usage
        self._id = _daemon_id(Path(config.data_root))
        self._started = rfc3339(time.time_ns())

    async def version(self) -> SystemVersion:
        """GET /version."""
        kernel, arch = os.uname().release, architecture()
        details = {
            "ApiVersion": API_VERSION,
            "Arch": arch,
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": _language(),
            "KernelVersion": kernel,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
        }
        return SystemVersion(
            platform={"Name": "proa"},
            components=[{"Name": "Engine", "Version": self._version, "Details": details}],
            version=self._version,
            api_version=API_VERSION,
            min_api_version=MIN_API_VERSION,
            go_version=_language(),
            os="linux",
            arch=arch,
            kernel_version=kernel,
        )

    async def disk_usage(self, kinds: Sequence[str]) -> SystemDataUsage:
        """GET /system/df; all kinds where none is asked for. Raises InvalidParameter."""
        return await self._usage.count(kinds)

    async def info(self) -> SystemInfo:
        """GET /info."""
        states = [container.state.status for container in self._registry]
        running = sum(status in (Status.RUNNING, Status.RESTARTING) for status in states)
        paused = states.count(Status.PAUSED)
        return structs.replace(
            _configured(_of_host(self._host), self.config),
            id=self._id,
            containers=len(states),
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(states) - running - paused,
            images=self._count_images(),
            n_fd=len(os.listdir("/proc/self/fd")),
            n_goroutines=len(asyncio.all_tasks()),
            n_events_listener=self._events.listeners,
            system_time=rfc3339(time.time_ns()),
            server_version=self._version,
            security_options=self._security_options(),
            warnings=self._warnings(),
        )

    async def events(
        self, since_ns: int, until_ns: int, filters: Mapping[str, Sequence[str]]
    ) -> AsyncIterator[EventMessage]:
        """GET /events."""
        return await self._events.stream(since_ns, until_ns, filters)

    def _security_options(self) -> list[str]:
        profile = self.config.seccomp_profile or "builtin"
        options = [f"name=seccomp,profile={profile}"]
        if self.config.default_cgroupns_mode == "private":
            options.append("name=cgroupns")
        if self.config.no_new_privileges:
            options.append("name=no-new-privileges")
        return options

    def _warnings(self) -> list[str] | None:
        missing = {
            "memory": "WARNING: No memory limit support",
            "cpu": "WARNING: No cpu cfs quota support",
            "cpuset": "WARNING: No cpuset support",
            "pids": "WARNING: No pids limit support",
        }
        told = [text for name, text in missing.items() if name not in self._host.controllers]
        if not self._host.swap_accounting:
            told.append("WARNING: No swap limit support")
        if not _flag("/proc/sys/net/ipv4/ip_forward"):
            told.append("WARNING: IPv4 forwarding is disabled")
        return told or None


def _of_host(host: Host) -> SystemInfo:
    """What the machine and its kernel are, and what any proa is on them."""
    controllers = host.controllers
    return SystemInfo(
        driver="overlay2",
        plugins=PluginsInfo(
            volume=["local"],
            network=["bridge", "host", "ipvlan", "macvlan", "null"],
            log=list(LOG_DRIVERS),
        ),
        memory_limit="memory" in controllers,
        swap_limit=host.swap_accounting,
        cpu_cfs_period="cpu" in controllers,
        cpu_cfs_quota="cpu" in controllers,
        cpu_shares="cpu" in controllers,
        cpu_set="cpuset" in controllers,
        pids_limit="pids" in controllers,
        oom_kill_disable="memory" in controllers and host.cgroup_version != "2",
        i_pv4_forwarding=_flag("/proc/sys/net/ipv4/ip_forward"),
        cgroup_driver="cgroupfs",
        cgroup_version="2" if host.cgroup_version == "2" else "1",
        kernel_version=os.uname().release,
        operating_system=_os_release("PRETTY_NAME"),
        os_version=_os_release("VERSION_ID"),
        os_type="linux",
        architecture=os.uname().machine,
        ncpu=host.cpus,
        mem_total=host.memory,
        index_server_address="https://index.docker.io/v1/",
        name=host.hostname,
        runtimes={"proa": Runtime(path="proa"), "runc": Runtime(path="proa")},
        swarm=SwarmInfo(local_node_state="inactive"),
        live_restore_enabled=True,
        init_binary="proa-init",
    )


def _configured(info: SystemInfo, config: DaemonConfig) -> SystemInfo:
    """The same with what the configuration says."""
    return structs.replace(
        info,
        driver_status=[
            ["Backing Filesystem", _filesystem(config.data_root)],
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        docker_root_dir=config.data_root,
        debug=config.debug,
        logging_driver=config.log_driver,
        registry_config=_registries(config),
        http_proxy=_proxy(config, "http-proxy"),
        https_proxy=_proxy(config, "https-proxy"),
        no_proxy=_proxy(config, "no-proxy"),
        labels=list(config.labels),
        default_runtime=config.default_runtime,
        default_address_pools=[dict(pool) for pool in config.default_address_pools] or None,
    )


def architecture() -> str:
    """This machine's, in Go's words."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def _language() -> str:
    return (
        f"python{platform.python_version()}"
        if sys.implementation.name == "cpython"
        else sys.implementation.name
    )


def _registries(config: DaemonConfig) -> RegistryServiceConfig:
    mirrors = [f"{url.rstrip('/')}/" for url in config.registry_mirrors]
    networks = [name for name in config.insecure_registries if "/" in name]
    hosts = [name for name in config.insecure_registries if "/" not in name]
    return RegistryServiceConfig(
        insecure_registry_cid_rs=["::1/128", "127.0.0.0/8", *networks],
        index_configs={
            "docker.io": IndexInfo(name="docker.io", mirrors=mirrors, secure=True, official=True),
            **{name: IndexInfo(name=name, mirrors=[], secure=False, official=False) for name in hosts},
        },
        mirrors=mirrors,
    )


def _proxy(config: DaemonConfig, key: str) -> str:
    """A proxy setting, without the password that it may hold."""
    name = key.replace("-", "_")
    url = config.proxies.get(key) or os.environ.get(name.upper()) or os.environ.get(name, "")
    scheme, separator, rest = url.rpartition("://")
    userinfo, at, host = rest.rpartition("@")
    return f"{scheme}{separator}xxxxx:xxxxx@{host}" if at and userinfo else url


def _daemon_id(data_root: Path) -> str:
    """Made once, kept in the data root."""
    path = data_root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        id_ = str(uuid.uuid4())
        path.write_text(id_)
        return id_


def _filesystem(directory: str) -> str:
    """Type of the file system below a directory, in Docker's words. Source: proc(5), mountinfo."""
    best, found = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point, kind = fields[4], fields[fields.index("-") + 1]
        below = directory == point or directory.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(best):
            best, found = point, kind
    return {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "overlay": "overlayfs"}.get(found, found)


def _os_release(key: str) -> str:
    return platform.freedesktop_os_release().get(key, "")


def _flag(path: str) -> bool:
    try:
        return Path(path).read_text().strip() == "1"
    except OSError:
        return False

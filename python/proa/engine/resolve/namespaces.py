"""Namespaces: private, the host's, or another container's; hostname, shared memory, user namespace.

Source: moby's api/types/container (IpcMode and its kin), runconfig/hostconfig_unix.go (conflicts).
"""

import re
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from proa.engine.resolve.model import Context, Peer
from proa.errors import Conflict, InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerConfig, HostConfig
from proa.schema.plan import (
    ContainerNamespace,
    HostNamespace,
    IdMap,
    Namespace,
    NewNamespace,
    UserNamespace,
)

SUBUID = "/etc/subuid"
SUBGID = "/etc/subgid"
_DEFAULT_MAP = (100_000, 65_536)
"""Host id of the container's root, and how many follow, where /etc/subuid does not say."""


class Resolution(Struct, frozen=True, kw_only=True):
    """The namespaces but the network's, with what hangs on them."""

    pid: Namespace
    ipc: Namespace
    uts: Namespace
    cgroup: Namespace
    user: UserNamespace | None
    shm_source: str | None
    """Host directory that is /dev/shm."""
    has_shm: bool
    peers: tuple[Peer, ...]


def check_modes(host_config: HostConfig) -> None:
    """Every mode is one that Docker knows."""
    for name, mode, words in (
        ("PID", host_config.pid_mode, ("", "host", "container:")),
        ("UTS", host_config.uts_mode, ("", "host")),
        ("user namespace", host_config.userns_mode, ("", "host", "private")),
        ("cgroup namespace", host_config.cgroupns_mode, ("", "host", "private")),
    ):
        if mode not in words and not ("container:" in words and _container(mode)):
            raise InvalidParameter(f"invalid {name} mode: {mode}")
    ipc = host_config.ipc_mode
    if ipc not in ("", "none", "private", "shareable", "host") and not _container(ipc):
        raise InvalidParameter(f"invalid IPC mode: {ipc}")


def resolve_namespaces(
    host_config: HostConfig,
    context: Context,
    *,
    subordinate: Callable[[str, str], tuple[int, int]] | None = None,
) -> Resolution:
    """Of a host configuration whose modes are filled in and checked."""
    peers: list[Peer] = []
    ipc, shm_source = _ipc(host_config.ipc_mode, context, peers)
    pid: Namespace = HostNamespace() if host_config.pid_mode == "host" else NewNamespace()
    if name := _container(host_config.pid_mode):
        peer = context.peer(name)
        peers.append(peer)
        pid = ContainerNamespace(peer.id)
    return Resolution(
        pid=pid,
        ipc=ipc,
        uts=HostNamespace() if host_config.uts_mode == "host" else NewNamespace(),
        cgroup=HostNamespace() if host_config.cgroupns_mode == "host" else NewNamespace(),
        user=_user(host_config, context.config, subordinate or subordinate_ids),
        shm_source=shm_source,
        has_shm=host_config.ipc_mode != "none",
        peers=tuple(peers),
    )


def check_hostname(config: ContainerConfig, host_config: HostConfig) -> None:
    """A hostname needs a UTS namespace of one's own."""
    if host_config.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    for what, name in (("hostname", config.hostname), ("domainname", config.domainname)):
        # They become words of /etc/hosts.
        if len(name.encode()) > 64 or not name.isprintable() or " " in name or "#" in name:
            raise InvalidParameter(f"invalid {what} format: {name}")


def subordinate_ids(path: str, name: str) -> tuple[int, int]:
    """(first, count) of `name`'s line in /etc/subuid or /etc/subgid; the default where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                match = re.fullmatch(r"([^:]+):(\d{1,10}):(\d{1,10})", line.strip())
                if match and match[1] == name and int(match[3]):
                    return int(match[2]), int(match[3])
    except FileNotFoundError:
        pass
    return _DEFAULT_MAP


def container_of(mode: str) -> str:
    """What `container:<name>` names; empty for another mode."""
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


_container = container_of


def with_ids(host_config: HostConfig, context: Context) -> HostConfig:
    """The containers that modes name, by id: they may be renamed, and their names given to others."""

    def by_id(mode: str) -> str:
        name = container_of(mode)
        return f"container:{context.peer(name).id}" if name else mode

    return replace(
        host_config,
        network_mode=by_id(host_config.network_mode),
        pid_mode=by_id(host_config.pid_mode),
        ipc_mode=by_id(host_config.ipc_mode),
    )


def _ipc(mode: str, context: Context, peers: list[Peer]) -> tuple[Namespace, str | None]:
    if mode == "host":
        return HostNamespace(), "/dev/shm"
    name = _container(mode)
    if not name:
        return NewNamespace(), None
    peer = context.peer(name)
    if peer.host_config.ipc_mode not in ("shareable", "host"):
        raise Conflict(
            f"can't join IPC of container {peer.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    peers.append(peer)
    return ContainerNamespace(peer.id), None


def _user(
    host_config: HostConfig, config: DaemonConfig, subordinate: Callable[[str, str], tuple[int, int]]
) -> UserNamespace | None:
    mode = host_config.userns_mode
    if mode == "host" or not (mode == "private" or config.userns_remap):
        return None
    if host_config.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host "
            "namespace when running privileged mode"
        )
    if host_config.pid_mode == "host":
        raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")
    if host_config.network_mode == "host":
        raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
    name = config.userns_remap.partition(":")[0]
    name = "dockremap" if name in ("", "default") else name
    first_uid, uids = subordinate(SUBUID, name)
    first_gid, gids = subordinate(SUBGID, name)
    return UserNamespace(
        uid_map=(IdMap(container_id=0, host_id=first_uid, size=uids),),
        gid_map=(IdMap(container_id=0, host_id=first_gid, size=gids),),
    )

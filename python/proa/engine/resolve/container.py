"""A create request, resolved: every part's answer put together into one plan.

Order matters for the texts: configuration first, then the host configuration, then what needs the
image's files or another container.
"""

import msgspec

from proa.engine.resolve import (
    capabilities,
    devices,
    health,
    identity,
    lifecycle,
    limits,
    logs,
    namespaces,
    networks,
    process,
    rlimits,
    security,
)
from proa.engine.resolve.model import Context, Peer, Resolved, Storage
from proa.engine.resolve.mounts import UserMounts, depth, resolve_mounts
from proa.errors import InvalidParameter, NotFound
from proa.schema.container import (
    ContainerConfig,
    ContainerCreateRequest,
    HostConfig,
    RestartPolicy,
)
from proa.schema.plan import (
    Bind,
    Cgroup,
    CgroupMount,
    ContainerNamespace,
    Dev,
    HostNamespace,
    Log,
    Mount,
    Mqueue,
    Namespaces,
    NoNetwork,
    Overlay,
    Plan,
    Proc,
    Process,
    Stdio,
    Sysfs,
)
from proa.schema.plan import Network as PlanNetwork
from proa.sizes import parse_size

ENGINE_FILES = {"/etc/hostname": "hostname", "/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf"}
"""Target inside to file name in the container's directory."""

NO_ROOTFS = Overlay(lower=(), upper="", work="")
"""The placeholder that start replaces."""

_CONFIG_FIELDS = ContainerConfig.__struct_fields__


class _Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the pieces of a resolution found, on the way to the plan."""

    config: ContainerConfig
    host_config: HostConfig
    options: security.SecurityOptions
    spaces: namespaces.Resolution
    net: PlanNetwork
    net_peer: Peer | None
    user_mounts: UserMounts
    log: Log | None


def resolve(request: ContainerCreateRequest, context: Context) -> Resolved:
    """The whole of a create request.

    Raises InvalidParameter or Conflict, in Docker's words. Never NotFound: of a create
    that means the image, and clients pull it then.
    """
    try:
        return _resolve(request, context)
    except NotFound as exc:
        raise InvalidParameter(str(exc)) from exc


def _resolve(request: ContainerCreateRequest, context: Context) -> Resolved:
    warnings: list[str] = []
    asked = request.host_config or HostConfig()
    config = _config(request, context)
    _check_host_config(asked, context)
    host_config = _fill(asked, request, context)
    host_config = limits.check_resources(host_config, context.host, warnings)
    options = security.parse_options(asked, context.config, warnings)
    masked, readonly = security.paths(asked, options)
    shown_log, log = logs.resolve_log(asked, context.config, f"{context.directory}/{context.id}-json.log")
    host_config = msgspec.structs.replace(
        host_config, masked_paths=masked, readonly_paths=readonly, log_config=shown_log
    )
    namespaces.check_hostname(request, host_config)
    wish, net_peer = networks.resolve_network(
        request, _with_hostname(config, host_config, context), host_config, context
    )
    if wish.mode == "host" and host_config.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    config = _with_hostname(config, host_config, context, net_peer)
    spaces = namespaces.resolve_namespaces(host_config, context)
    host_config = namespaces.with_ids(host_config, context)
    parts = _Parts(
        config=config,
        host_config=host_config,
        options=options,
        spaces=spaces,
        net=_plan_network(wish.mode, net_peer),
        net_peer=net_peer,
        user_mounts=resolve_mounts(config, host_config, context),
        log=log,
    )
    plan = _plan(parts, context, warnings)
    peers = [p.id for p in (*spaces.peers, *((net_peer,) if net_peer else ()))]
    return Resolved(
        config=config,
        host_config=host_config,
        plan=plan,
        warnings=tuple(warnings),
        mount_points=parts.user_mounts.points,
        volumes=parts.user_mounts.volumes,
        images=parts.user_mounts.images,
        storage=_storage(asked.storage_opt),
        network=wish,
        bind_directories=parts.user_mounts.directories,
        peers=tuple(dict.fromkeys(peers)),
    )


# ---- configuration ------------------------------------------------------------------------------


def _config(request: ContainerCreateRequest, context: Context) -> ContainerConfig:
    own = ContainerConfig(**{name: getattr(request, name) for name in _CONFIG_FIELDS})
    config = process.merge(own, context.image)
    process.arguments(config)
    process.check_environment(config.env)
    if config.stop_signal:
        lifecycle.signal_number(config.stop_signal)
    health.check_health(config.healthcheck)
    for argument in process.arguments(config):
        process.refuse_nul("argument", argument)
    return msgspec.structs.replace(config, working_dir=process.working_directory(config.working_dir))


def _with_hostname(
    config: ContainerConfig, host_config: HostConfig, context: Context, net_peer: Peer | None = None
) -> ContainerConfig:
    """The hostname as it will be: the peer's, the host's, or the short id."""
    if net_peer is not None:
        return msgspec.structs.replace(
            config, hostname=net_peer.plan.hostname, domainname=net_peer.plan.domainname
        )
    if config.hostname:
        return config
    shares = host_config.network_mode == "host" or host_config.uts_mode == "host"
    return msgspec.structs.replace(config, hostname=context.host.hostname if shares else context.id[:12])


def _check_host_config(host_config: HostConfig, context: Context) -> None:
    lifecycle.check_restart_policy(
        host_config.restart_policy or RestartPolicy(), auto_remove=host_config.auto_remove
    )
    lifecycle.check_timeout(host_config.proa_timeout)
    namespaces.check_modes(host_config)
    if host_config.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host_config.isolation}' on linux")
    if host_config.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    known = ("", "proa", "runc", "io.containerd.runc.v2", context.config.default_runtime)
    if (host_config.runtime or "") not in known:
        raise InvalidParameter(f"unknown or invalid runtime name: {host_config.runtime}")
    size = host_config.console_size
    if size is not None and (len(size) != 2 or not all(0 <= n < 65536 for n in size)):
        raise InvalidParameter("invalid console size: it is [height, width]")
    if host_config.proa_rootfs and not host_config.proa_rootfs.startswith("/"):
        raise InvalidParameter(
            f"the rootfs '{host_config.proa_rootfs}' is invalid, it needs to be an absolute path"
        )


def _storage(options: dict[str, str] | None) -> Storage | None:
    """`size`, as Docker has it, and `backing=tmpfs`, which is proa's own."""
    if not options:
        return None
    for name in options:
        if name not in ("size", "backing"):
            raise InvalidParameter(f"unknown option {name}")
    backing = options.get("backing", "disk")
    if backing not in ("disk", "tmpfs"):
        raise InvalidParameter(f"invalid storage option backing={backing}: it is disk or tmpfs")
    try:
        size = parse_size(options.get("size", "0"))
    except ValueError as exc:
        raise InvalidParameter(str(exc)) from exc
    return Storage(size=size, tmpfs=backing == "tmpfs")


def _fill(asked: HostConfig, request: ContainerCreateRequest, context: Context) -> HostConfig:
    """The defaults that inspect shows."""
    config = context.config
    return msgspec.structs.replace(
        asked,
        network_mode=networks.network_mode(request, asked),
        ipc_mode=asked.ipc_mode or config.default_ipc_mode,
        cgroupns_mode=asked.cgroupns_mode or config.default_cgroupns_mode,
        pids_limit=asked.pids_limit if (asked.pids_limit or 0) > 0 else None,
        shm_size=asked.shm_size or parse_size(config.default_shm_size),
        restart_policy=_restart_policy(asked.restart_policy),
        ulimits=rlimits.merged(asked, config),
        runtime=asked.runtime or config.default_runtime,
        console_size=asked.console_size or [0, 0],
        init=True if asked.init is None and config.init else asked.init,
    )


def _restart_policy(policy: RestartPolicy | None) -> RestartPolicy:
    if policy is None or not policy.name:
        return RestartPolicy(name="no")
    return policy


# ---- the plan -----------------------------------------------------------------------------------


def _plan(parts: _Parts, context: Context, warnings: list[str]) -> Plan:
    host_config, spaces = parts.host_config, parts.spaces
    nodes, rules = devices.resolve_devices(host_config, context.host)
    own_uts = not isinstance(spaces.uts, HostNamespace)
    return Plan(
        id=context.id,
        hostname=parts.config.hostname,
        domainname=parts.config.domainname,
        rootfs=NO_ROOTFS,
        readonly_rootfs=host_config.readonly_rootfs,
        rootfs_propagation=parts.user_mounts.rootfs_propagation,
        namespaces=Namespaces(
            pid=spaces.pid,
            ipc=spaces.ipc,
            uts=spaces.uts,
            cgroup=spaces.cgroup,
            net=parts.net,
            user=spaces.user,
        ),
        mounts=_mounts(parts, context),
        devices=nodes,
        masked_paths=security.check_paths("masked", host_config.masked_paths),
        readonly_paths=security.check_paths("read-only", host_config.readonly_paths),
        sysctls=security.resolve_sysctls(
            host_config.sysctls,
            own_ipc=not isinstance(spaces.ipc, HostNamespace),
            own_net=not isinstance(parts.net, HostNamespace),
            own_uts=own_uts,
            defaults=isinstance(parts.net, NoNetwork) and spaces.user is None,
        ),
        cgroup=Cgroup(
            path=_cgroup_path(host_config, context), resources=limits.to_resources(host_config, rules)
        ),
        process=_process(parts, context, warnings),
        init=bool(host_config.init),
        stdio=Stdio(open_stdin=parts.config.open_stdin, stdin_once=parts.config.stdin_once, log=parts.log),
        timeout_ns=host_config.proa_timeout,
    )


def _process(parts: _Parts, context: Context, warnings: list[str]) -> Process:
    config, host_config = parts.config, parts.host_config
    who = identity.identify(config.user, host_config.group_add or (), context.read)
    bounding = capabilities.bounding_set(host_config, context.host, warnings)
    rows, columns = host_config.console_size or (0, 0)
    return Process(
        args=process.arguments(config),
        env=process.environment(config, who.home, tty=config.tty),
        cwd=config.working_dir or "/",
        uid=who.uid,
        gid=who.gid,
        groups=who.groups,
        capabilities=capabilities.of_process(bounding, who.uid),
        no_new_privileges=parts.options.no_new_privileges,
        seccomp=security.seccomp_program(
            parts.options, context.config, bounding, context.seccomp, privileged=host_config.privileged
        ),
        rlimits=rlimits.to_rlimits(host_config.ulimits, context.host, warnings),
        oom_score_adj=rlimits.oom_score_adj(host_config.oom_score_adj, context.host, warnings),
        tty=config.tty,
        console_size=(rows, columns),
    )


def _mounts(parts: _Parts, context: Context) -> tuple[Mount, ...]:
    """Kernel file systems first, then the user's and the engine's files, parents before children."""
    host_config, taken = parts.host_config, {m.target for m in parts.user_mounts.mounts}
    writable = host_config.privileged
    base: list[Mount] = [Proc()]
    if "/dev" not in taken:
        shm = host_config.shm_size if parts.spaces.has_shm else 0
        base.append(Dev(shm_size=shm, shm_source=parts.spaces.shm_source))
        if "/dev/mqueue" not in taken:
            base.append(Mqueue())
    if "/sys" not in taken:
        base.append(Sysfs(readonly=not writable))
    if "/sys/fs/cgroup" not in taken:
        base.append(CgroupMount(readonly=not (writable or parts.options.writable_cgroups)))
    files = [bind for bind in _engine_files(parts, context) if bind.target not in taken]
    return (*base, *sorted((*parts.user_mounts.mounts, *files), key=lambda mount: depth(mount.target)))


def _engine_files(parts: _Parts, context: Context) -> list[Bind]:
    """hostname, hosts and resolv.conf: one's own, or those of the container whose network is joined."""
    if parts.net_peer is not None:
        return [m for m in parts.net_peer.plan.mounts if isinstance(m, Bind) and m.engine_file]
    return [
        Bind(
            source=f"{context.directory}/{name}",
            target=target,
            readonly=parts.host_config.readonly_rootfs,
            recursive=False,
            engine_file=True,
        )
        for target, name in ENGINE_FILES.items()
    ]


def _plan_network(mode: str, peer: Peer | None) -> PlanNetwork:
    if peer is not None:
        return ContainerNamespace(peer.id)
    return HostNamespace() if mode == "host" else NoNetwork()


def _cgroup_path(host_config: HostConfig, context: Context) -> str:
    parent = host_config.cgroup_parent or context.config.cgroup_root
    cleaned = process.clean_path("/" + parent)
    if "\0" in cleaned or cleaned == "/":
        raise InvalidParameter(f"invalid cgroup-parent: {parent}")
    return f"{cleaned}/{context.id}"

"""`docker ps`: which containers, newest first, and one summary each; from memory alone.

Source: moby daemon/list.go; container/state.go (String).
"""

import time
from collections.abc import Callable, Iterable
from operator import attrgetter

from proa.engine.container import Container
from proa.engine.durations import human
from proa.engine.list_filter import ListFilter
from proa.engine.state import State, Status
from proa.schema.container import ContainerConfig
from proa.schema.container_state import ContainerSummary, Port
from proa.schema.network import NetworkSettings, PortBinding

ImageName = Callable[[Container], str]
"""The name to show for a container's image: as asked for, or the id where the name went elsewhere."""


def select(containers: Iterable[Container], wanted: ListFilter, *, all_: bool, limit: int) -> list[Container]:
    """Those that are asked for, newest first."""
    found: list[Container] = []
    newest_first = sorted(containers, key=attrgetter("record.created_ns"), reverse=True)
    for container in wanted.between(newest_first):
        if limit > 0 and len(found) == limit:
            break
        if (all_ or limit > 0 or wanted.all or container.state.running) and wanted(container):
            found.append(container)
    return found


def summary(container: Container, image_name: ImageName, size: tuple[int, int] | None) -> ContainerSummary:
    """One line of the list; `size` is (bytes written, bytes in all)."""
    record, state = container.record, container.state
    resolved = record.resolved
    host_config: dict[str, object] = {"NetworkMode": resolved.host_config.network_mode}
    if resolved.host_config.annotations:
        host_config["Annotations"] = resolved.host_config.annotations
    networks = state.sandbox.networks() if state.sandbox is not None else {}
    return ContainerSummary(
        id=record.id,
        names=[f"/{record.name}"],
        image=image_name(container),
        image_id=record.image_id,
        command=command(resolved.config, resolved.plan.process.args),
        created=record.created_ns // 1_000_000_000,
        ports=ports(settings_of(container)),
        size_rw=size[0] if size else None,
        size_root_fs=size[1] if size else None,
        labels=resolved.config.labels or {},
        state=str(state.status),
        status=status(state, container.health.status if container.health else "", time.time_ns()),
        host_config=host_config,
        network_settings={"Networks": networks},
        mounts=list(resolved.mount_points),
    )


def status(state: State, health: str, now_ns: int) -> str:
    """`Up 3 seconds (healthy)`, `Exited (0) 2 minutes ago`, ..."""
    if state.status is Status.RESTARTING:
        return f"Restarting ({state.exit_code}) {human(now_ns - state.finished_ns)} ago"
    if state.alive:
        up = f"Up {human(now_ns - state.started_ns)}"
        if state.status is Status.PAUSED:
            return f"{up} (Paused)"
        if health in ("", "none"):
            return up
        return f"{up} (health: starting)" if health == "starting" else f"{up} ({health})"
    if state.status is Status.REMOVING:
        return "Removal In Progress"
    if state.status is Status.DEAD:
        return "Dead"
    if not state.finished_ns:
        return "Created"
    return f"Exited ({state.exit_code}) {human(now_ns - state.finished_ns)} ago"


def command(config: ContainerConfig, args: Iterable[str]) -> str:
    """The command line on one line; arguments with spaces are quoted."""
    program, *rest = [*args] or [""]
    return " ".join([program, *(f"'{arg}'" if " " in arg else arg for arg in rest)])


def ports(settings: NetworkSettings | None) -> list[Port]:
    """Published and exposed ports of a running container."""
    found: list[Port] = []
    for spec, bindings in ((settings.ports if settings else None) or {}).items():
        number, _, protocol = spec.partition("/")
        if not bindings:
            found.append(Port(private_port=int(number), type=protocol or "tcp"))
        found.extend(_published(int(number), protocol or "tcp", binding) for binding in bindings or ())
    return found


def settings_of(container: Container) -> NetworkSettings | None:
    """The networks of one that runs."""
    sandbox = container.state.sandbox
    return sandbox.settings(container.record.resolved.config.exposed_ports or ()) if sandbox else None


def _published(private: int, protocol: str, binding: PortBinding) -> Port:
    return Port(
        ip=binding.host_ip, private_port=private, public_port=int(binding.host_port or 0), type=protocol
    )

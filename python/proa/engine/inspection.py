"""`docker inspect`: a container's record and state as the API shows them; from memory alone.

Source: moby daemon/inspect.go.
"""

from pathlib import Path

from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.durations import rfc3339
from proa.engine.state import State, Status
from proa.schema.container_state import (
    ContainerInspectResponse,
    ContainerState,
    DriverData,
    Health,
)
from proa.schema.network import NetworkSettings
from proa.schema.plan import Overlay

STORAGE_DRIVER = "overlay2"


def inspect(
    container: Container,
    directory: Path,
    rootfs: Overlay,
    networks: NetworkSettings,
    links: list[str] | None,
    size: tuple[int, int] | None,
) -> ContainerInspectResponse:
    """Everything there is to say; `size` is (bytes written, bytes in all)."""
    record, state = container.record, container.state
    resolved = record.resolved
    own = directory / record.id
    program, *arguments = resolved.plan.process.args or ("",)
    log = resolved.plan.stdio.log
    log_config = resolved.host_config.log_config
    driver = log_config.type if log_config is not None else ""
    return ContainerInspectResponse(
        id=record.id,
        created=rfc3339(record.created_ns),
        path=program,
        args=arguments,
        state=state_of(state, container.current_health()),
        image=record.image_id,
        resolv_conf_path=str(own / "resolv.conf"),
        hostname_path=str(own / "hostname"),
        hosts_path=str(own / "hosts"),
        log_path=log.path if log is not None and driver == "json-file" else "",
        name=f"/{record.name}",
        restart_count=state.restart_count,
        driver=STORAGE_DRIVER,
        platform=record.platform,
        exec_ids=sorted(container.exec_ids) or None,
        host_config=replace(resolved.host_config, links=links),
        graph_driver=graph_driver(rootfs),
        size_rw=size[0] if size else None,
        size_root_fs=size[1] if size else None,
        mounts=list(resolved.mount_points),
        config=resolved.config,
        network_settings=networks,
    )


def state_of(state: State, health: Health | None) -> ContainerState:
    """The State part."""
    return ContainerState(
        status=str(state.status),
        running=state.running,
        paused=state.status is Status.PAUSED,
        restarting=state.status is Status.RESTARTING,
        oom_killed=state.oom_killed,
        dead=state.status is Status.DEAD,
        pid=state.pid,
        exit_code=state.exit_code,
        error=state.error,
        started_at=rfc3339(state.started_ns),
        finished_at=rfc3339(state.finished_ns),
        health=health,
    )


def graph_driver(rootfs: Overlay) -> DriverData:
    """Where its layers are."""
    return DriverData(
        name=STORAGE_DRIVER,
        data={
            "LowerDir": ":".join(rootfs.lower),
            "MergedDir": str(Path(rootfs.upper).parent / "merged"),
            "UpperDir": rootfs.upper,
            "WorkDir": rootfs.work,
        },
    )

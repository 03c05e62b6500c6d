"""An update of a container's limits: what changes, checked against what stays.

Source: moby's container/container_unix.go (UpdateContainer) and daemon/update.go.
"""

import msgspec

from proa.engine.resolve import lifecycle, limits
from proa.engine.resolve.model import Host, Resolved
from proa.errors import Conflict, InvalidParameter
from proa.schema.container import ContainerUpdateRequest, HostConfig
from proa.schema.plan import Cgroup, Plan, Resources


class Updated(msgspec.Struct, frozen=True, kw_only=True):
    """The host configuration and plan as they will be, and what a running cgroup must be told."""

    host_config: HostConfig
    plan: Plan
    resources: Resources
    warnings: tuple[str, ...]


_SIMPLE = [
    "cpu_shares",
    "memory",
    "blkio_weight",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_reservation",
    "memory_swap",
    "nano_cpus",
]


def resolve_update(request: ContainerUpdateRequest, current: Resolved, host: Host) -> Updated:
    """Raises InvalidParameter or Conflict in Docker's words; the restart policy is part of an update."""
    warnings: list[str] = []
    changes = {name: getattr(request, name) for name in _SIMPLE if getattr(request, name)}
    if request.pids_limit is not None:
        changes["pids_limit"] = request.pids_limit or -1
    asked = msgspec.structs.replace(HostConfig(), **changes)
    limits.check_resources(asked, host, warnings, update=True)
    old = current.host_config
    _check_memory(asked, old)
    _check_cpu(asked, old)
    if request.restart_policy is not None and request.restart_policy.name:
        if old.auto_remove:
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        lifecycle.check_restart_policy(request.restart_policy, auto_remove=False)
        changes["restart_policy"] = request.restart_policy
    host_config = limits.check_resources(msgspec.structs.replace(old, **changes), host, [], update=True)
    resources = limits.to_resources(host_config)
    plan = msgspec.structs.replace(
        current.plan,
        cgroup=Cgroup(
            path=current.plan.cgroup.path,
            resources=msgspec.structs.replace(resources, devices=current.plan.cgroup.resources.devices),
        ),
    )
    return Updated(host_config=host_config, plan=plan, resources=resources, warnings=tuple(warnings))


def _check_memory(asked: HostConfig, old: HostConfig) -> None:
    """A limit above the swap limit that stays would be refused by the kernel half-way."""
    if asked.memory and not asked.memory_swap and 0 < old.memory_swap < asked.memory:
        raise InvalidParameter(
            "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
    if asked.memory_swap > 0 and not asked.memory and asked.memory_swap < old.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")


def _check_cpu(asked: HostConfig, old: HostConfig) -> None:
    """NanoCPUs and a quota exclude each other; a new period or quota replaces its like alone."""
    if asked.nano_cpus and old.cpu_period:
        raise InvalidParameter(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
        )
    if asked.nano_cpus and old.cpu_quota:
        raise InvalidParameter(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"
        )
    if asked.cpu_period and old.nano_cpus:
        raise InvalidParameter(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"
        )
    if asked.cpu_quota and old.nano_cpus:
        raise InvalidParameter(
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        )

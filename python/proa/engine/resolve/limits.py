"""Limits: memory, cpu, pids, blkio into Resources; validated and adapted with Docker's texts.

The host configuration that comes out is what inspect shows: swap filled in, what this kernel cannot do
taken out with a warning. Source: moby's daemon/daemon_unix.go (verifyPlatformContainerResources).
"""

import os
import stat
from collections.abc import Sequence

import msgspec

from proa.engine.resolve.model import Host
from proa.errors import InvalidParameter
from proa.schema.container import HostConfig
from proa.schema.container import ThrottleDevice as ThrottleRequest
from proa.schema.plan import DeviceRule, Resources, ThrottleDevice, WeightDevice

MINIMUM_MEMORY = 6 << 20
MINIMUM_SHARES = 2
MAXIMUM_SHARES = 262144
_NANO = 1_000_000_000
_PERIOD = 100_000
_MOST = (1 << 63) - 1
"""The largest number that the plan has; the kernel takes it for no limit."""

_NO_SUPPORT = "Your kernel does not support {} capabilities or the cgroup is not mounted. {}"

_NO_BLKIO = "Your kernel does not support Block I/O {} or the cgroup is not mounted. {} discarded."


def check_resources(
    host_config: HostConfig, host: Host, warnings: list[str], *, update: bool = False
) -> HostConfig:
    """Refuse limits that contradict themselves or this host; returns the configuration as it will be."""
    _refuse_unknown_to_linux(host_config)
    adapted = _check_memory(host_config, host, warnings, update=update)
    adapted = _check_cpu(adapted, host, warnings)
    _check_cpuset(adapted, host)
    adapted = _check_blkio(adapted, host, warnings)
    if adapted.pids_limit is not None and "pids" not in host.controllers and adapted.pids_limit > 0:
        warnings.append(_NO_SUPPORT.format("pids limit", "PIDs limit discarded."))
        adapted = msgspec.structs.replace(adapted, pids_limit=None)
    return adapted


def to_resources(host_config: HostConfig, devices: tuple[DeviceRule, ...] = ()) -> Resources:
    """What the cgroup is told, of a checked configuration."""
    quota, period = host_config.cpu_quota or None, host_config.cpu_period or None
    if host_config.nano_cpus:
        quota, period = host_config.nano_cpus * _PERIOD // _NANO, _PERIOD
    return Resources(
        memory_limit=host_config.memory or None,
        memory_reservation=host_config.memory_reservation or None,
        memory_swap=host_config.memory_swap or None,
        memory_swappiness=host_config.memory_swappiness,
        oom_kill_disable=host_config.oom_kill_disable or None,
        cpu_shares=_shares(host_config.cpu_shares),
        cpu_quota=quota,
        cpu_period=period,
        cpuset_cpus=host_config.cpuset_cpus or None,
        cpuset_mems=host_config.cpuset_mems or None,
        pids_limit=_pids(host_config.pids_limit),
        blkio_weight=host_config.blkio_weight or None,
        blkio_weight_device=_weights(host_config.blkio_weight_device),
        blkio_throttle_read_bps=_throttles(host_config.blkio_device_read_bps),
        blkio_throttle_write_bps=_throttles(host_config.blkio_device_write_bps),
        blkio_throttle_read_iops=_throttles(host_config.blkio_device_read_iops),
        blkio_throttle_write_iops=_throttles(host_config.blkio_device_write_iops),
        devices=devices,
    )


def parse_cpuset(text: str) -> set[int]:
    """Members of `0-2,4`; raises ValueError."""
    members: set[int] = set()
    for part in text.split(","):
        if not part:
            continue
        low, dash, high = part.partition("-")
        first, last = _plain(low), _plain(high) if dash else _plain(low)
        if last < first or last > 8191:
            raise ValueError(text)
        members.update(range(first, last + 1))
    return members


def _plain(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(text)
    return int(text)


def _refuse_unknown_to_linux(host_config: HostConfig) -> None:
    if host_config.io_maximum_bandwidth:
        raise InvalidParameter("Invalid QoS settings: linux does not support Maximum IO Bandwidth")
    if host_config.io_maximum_iops:
        raise InvalidParameter("Invalid QoS settings: linux does not support Maximum IO IOps")
    if host_config.cpu_realtime_period or host_config.cpu_realtime_runtime:
        raise InvalidParameter("Your kernel does not support CPU real-time scheduler")


def _check_memory(host_config: HostConfig, host: Host, warnings: list[str], *, update: bool) -> HostConfig:
    memory, swap, reservation = host_config.memory, host_config.memory_swap, host_config.memory_reservation
    if 0 < memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory < 0:
        raise InvalidParameter("invalid memory limit: it cannot be negative")
    if swap < -1:
        raise InvalidParameter("invalid memory-swap limit: it cannot be less than -1")
    if "memory" not in host.controllers and (memory or swap > 0 or reservation):
        warnings.append(_NO_SUPPORT.format("memory limit", "Limitation discarded."))
        memory = swap = reservation = 0
    if memory and swap > 0 and swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if reservation < 0 or 0 < reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if memory and memory < reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if memory and not swap and not update:
        swap = min(memory * 2, _MOST)
    if swap > 0 and not host.swap_accounting:
        if host_config.memory_swap > 0:
            warnings.append(_NO_SUPPORT.format("swap limit", "Memory limited without swap."))
        swap = -1
    return msgspec.structs.replace(
        host_config,
        memory=memory,
        memory_swap=swap,
        memory_reservation=reservation,
        memory_swappiness=_swappiness(host_config.memory_swappiness, host, warnings),
        oom_kill_disable=_oom_kill_disable(host_config, memory, host, warnings),
    )


def _swappiness(value: int | None, host: Host, warnings: list[str]) -> int | None:
    if value is None or value == -1:
        return None
    if not 0 <= value <= 100:
        raise InvalidParameter(f"Invalid value: {value}, valid memory swappiness range is 0-100")
    if host.cgroup_version == "2":
        warnings.append(_NO_SUPPORT.format("memory swappiness", "Memory swappiness discarded."))
        return None
    return value


def _oom_kill_disable(host_config: HostConfig, memory: int, host: Host, warnings: list[str]) -> bool | None:
    if not host_config.oom_kill_disable:
        return host_config.oom_kill_disable
    if host.cgroup_version == "2":
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        return None
    if not memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    return True


def _check_cpu(host_config: HostConfig, host: Host, warnings: list[str]) -> HostConfig:
    if host_config.nano_cpus > 0 and host_config.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host_config.nano_cpus > 0 and host_config.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    low = host_config.nano_cpus < 0 or 0 < host_config.nano_cpus < _NANO // 100
    if low or host_config.nano_cpus > host.cpus * _NANO:
        raise InvalidParameter(
            f"range of CPUs is from 0.01 to {host.cpus}.00, as there are only {host.cpus} CPUs available"
        )
    if host_config.cpu_period and not 1000 <= host_config.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host_config.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host_config.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({host_config.cpu_shares}): value must be a positive integer"
        )
    asked = host_config.cpu_shares or host_config.cpu_quota or host_config.cpu_period or host_config.nano_cpus
    if asked and "cpu" not in host.controllers:
        warnings.append(_NO_SUPPORT.format("CPU limit", "Limitation discarded."))
        return msgspec.structs.replace(host_config, cpu_shares=0, cpu_quota=0, cpu_period=0, nano_cpus=0)
    return host_config


def _check_cpuset(host_config: HostConfig, host: Host) -> None:
    checks = (
        (host_config.cpuset_cpus, host.cpuset_cpus, "cpus", "CPUs"),
        (host_config.cpuset_mems, host.cpuset_mems, "mems", "memory nodes"),
    )
    for asked, available, kind, noun in checks:
        if not asked:
            continue
        try:
            wanted = parse_cpuset(asked)
        except ValueError:
            text = f"Invalid value {asked} for cpuset {kind}: invalid format: {asked}"
            raise InvalidParameter(text) from None
        if available and not wanted <= parse_cpuset(available):
            raise InvalidParameter(
                f"Requested {noun} are not available - requested {asked}, available: {available}"
            )


def _check_blkio(host_config: HostConfig, host: Host, warnings: list[str]) -> HostConfig:
    if host_config.blkio_weight and not 10 <= host_config.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.blkio_weight:
        return host_config
    if host_config.blkio_weight:
        warnings.append(_NO_BLKIO.format("weight", "Weight"))
    if host_config.blkio_weight_device:
        warnings.append(_NO_BLKIO.format("weight_device", "Weight-device"))
    return msgspec.structs.replace(host_config, blkio_weight=0, blkio_weight_device=[])


def _shares(value: int) -> int | None:
    """Docker's bounds; cpu.shares itself takes no others."""
    return min(max(value, MINIMUM_SHARES), MAXIMUM_SHARES) if value else None


def _pids(value: int | None) -> int | None:
    if not value:
        return None
    return value if value > 0 else -1


def _weights(devices: Sequence[dict[str, object] | None] | None) -> tuple[WeightDevice, ...]:
    found = []
    for device in devices or ():
        if device is None:
            continue
        path, weight = str(device.get("Path", "")), device.get("Weight", 0)
        if not isinstance(weight, int) or not 10 <= weight <= 1000:
            raise InvalidParameter("Range of blkio weight is from 10 to 1000")
        major, minor = _block_device(path)
        found.append(WeightDevice(major=major, minor=minor, weight=weight))
    return tuple(found)


def _throttles(devices: Sequence[ThrottleRequest] | None) -> tuple[ThrottleDevice, ...]:
    found = []
    for device in devices or ():
        if device.rate < 0:
            raise InvalidParameter(f"invalid rate for device: {device.path}:{device.rate}")
        major, minor = _block_device(device.path)
        found.append(ThrottleDevice(major=major, minor=minor, rate=device.rate))
    return tuple(found)


def _block_device(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as exc:
        raise InvalidParameter(f"{path}: {os.strerror(exc.errno or 0).lower()}") from exc
    except ValueError:
        raise InvalidParameter("invalid device path: contains a nul character") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidParameter(f"{path}: not a block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)

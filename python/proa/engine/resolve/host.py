"""What this host offers to containers, read once at daemon start.

Source: proc(5); cgroups(7); capabilities(7).
"""

import os
import resource
import socket
from pathlib import Path

import proa_native

from proa.engine.resolve.capabilities import ALL, SYS_RESOURCE
from proa.engine.resolve.model import Host
from proa.engine.resolve.rlimits import NUMBERS

_CGROUP = Path("/sys/fs/cgroup")


def read_host() -> Host:
    """Some file reads: a millisecond."""
    effective = _effective_capabilities()
    version = proa_native.cgroup_version()
    return Host(
        hostname=socket.gethostname(),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        capabilities=effective & ALL,
        rlimits={number: resource.getrlimit(number)[1] for number in NUMBERS.values()},
        may_raise_rlimits=bool(effective & SYS_RESOURCE),
        oom_score_adj=int(_read(Path("/proc/self/oom_score_adj")) or "0"),
        cgroup_version=version,
        controllers=frozenset(proa_native.cgroup_controllers()),
        swap_accounting=_swap_accounting(version),
        blkio_weight=version == "2" or any(_CGROUP.glob("blkio/*/blkio*.weight")),
        cpuset_cpus=_first("cpuset/cpuset.cpus", "cpuset.cpus.effective", "/sys/devices/system/cpu/online"),
        cpuset_mems=_first("cpuset/cpuset.mems", "cpuset.mems.effective", "/sys/devices/system/node/online"),
    )


def _effective_capabilities() -> int:
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _swap_accounting(version: str) -> bool:
    """v1: the memsw files; v2: a group below the root has memory.swap.max (the root has none)."""
    if version != "2":
        return (_CGROUP / "memory/memory.memsw.limit_in_bytes").exists()
    if any(_CGROUP.glob("*/memory.swap.max")):
        return True
    return Path("/proc/swaps").exists()


def _first(*paths: str) -> str:
    return next((text for path in paths if (text := _read(_CGROUP / path))), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

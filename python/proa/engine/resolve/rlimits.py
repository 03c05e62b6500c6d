"""Ulimits and the OOM score: what is asked for, bounded by what this daemon may give.

Without CAP_SYS_RESOURCE no process gets more than the daemon's own hard limit, nor a lower OOM score.
Source: setrlimit(2); proc_pid_oom_score_adj(5); docker/go-units, ulimit.go.
"""

import resource
from collections.abc import Sequence

from proa.engine.resolve.model import Host
from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import HostConfig, Ulimit
from proa.schema.plan import Rlimit

UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY as the plan has it."""

NUMBERS = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}

DEFAULT_NOFILE = Ulimit(name="nofile", soft=1024, hard=524288)
"""Not infinity: programs that close every possible fd would take minutes."""


def merged(host_config: HostConfig, config: DaemonConfig) -> list[Ulimit] | None:
    """The request's ulimits and the daemon's defaults for the others: what inspect shows."""
    asked = list(host_config.ulimits or ())
    known = {u.name for u in asked}
    for name, limit in config.default_ulimits.items():
        if name not in known:
            hard = int(limit.get("Hard", limit.get("Soft", -1)))
            asked.append(Ulimit(name=name, soft=int(limit.get("Soft", hard)), hard=hard))
    return asked or host_config.ulimits


def to_rlimits(ulimits: Sequence[Ulimit] | None, host: Host, warnings: list[str]) -> tuple[Rlimit, ...]:
    """What the process sets; each bounded by the host, with a warning where it was asked for."""
    wanted = {u.name: u for u in ulimits or ()}
    found = []
    for name, ulimit in wanted.items():
        _check(ulimit)
        limit = _bounded(ulimit, host)
        if limit.hard != _unsigned(ulimit.hard):
            warnings.append(
                f"This host does not allow {name}={_shown(ulimit.hard)}. Limited to {_shown(limit.hard)}."
            )
        found.append(limit)
    if "nofile" not in wanted:
        found.append(_bounded(DEFAULT_NOFILE, host))
    return tuple(found)


def oom_score_adj(wanted: int, host: Host, warnings: list[str]) -> int | None:
    """What the process writes; None where it has the value already."""
    if not -1000 <= wanted <= 1000:
        raise InvalidParameter(f"Invalid value {wanted}, range for oom score adj is [-1000, 1000]")
    if wanted < host.oom_score_adj and not host.may_raise_rlimits:
        if wanted:
            warnings.append(
                f"This host does not allow an OOM score adjustment of {wanted}. "
                f"Limited to {host.oom_score_adj}."
            )
        return None
    return None if wanted == host.oom_score_adj else wanted


def _check(ulimit: Ulimit) -> None:
    if ulimit.name not in NUMBERS:
        raise InvalidParameter(f"invalid ulimit type: {ulimit.name}")
    if ulimit.soft < -1 or ulimit.hard < -1:
        raise InvalidParameter(f"invalid ulimit value: {ulimit.name}={ulimit.soft}:{ulimit.hard}")
    if ulimit.hard != -1 and (ulimit.soft == -1 or ulimit.soft > ulimit.hard):
        raise InvalidParameter(
            f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
        )


def _bounded(ulimit: Ulimit, host: Host) -> Rlimit:
    number = NUMBERS[ulimit.name]
    soft, hard = _unsigned(ulimit.soft), _unsigned(ulimit.hard)
    if not host.may_raise_rlimits:
        bound = _unsigned(host.rlimits.get(number, -1))
        soft, hard = min(soft, bound), min(hard, bound)
    return Rlimit(resource=number, soft=soft, hard=hard)


def _unsigned(value: int) -> int:
    return UNLIMITED if value < 0 else value


def _shown(value: int) -> str:
    return "unlimited" if value in (-1, UNLIMITED) else str(value)

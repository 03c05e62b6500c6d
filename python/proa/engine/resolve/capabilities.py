"""Capabilities: Docker's default set, CapAdd and CapDrop, and what the host itself can give.

Sets are bit masks, bit n for capability n. Source: capabilities(7); linux/capability.h; moby's oci/caps.
"""

from collections.abc import Iterable, Sequence

from proa.engine.resolve.model import Host
from proa.errors import InvalidParameter
from proa.schema.container import HostConfig
from proa.schema.plan import Capabilities

NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""By number, without the prefix."""

_BIT = {f"CAP_{name}": 1 << number for number, name in enumerate(NAMES)}
ALL = (1 << len(NAMES)) - 1

SYS_RESOURCE = _BIT["CAP_SYS_RESOURCE"]
SYS_ADMIN = _BIT["CAP_SYS_ADMIN"]


def mask(names: Iterable[str]) -> int:
    """Bits of names such as CAP_CHOWN or chown; raises InvalidParameter for an unknown one."""
    bits = 0
    for name in names:
        upper = name.upper()
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in _BIT:
            raise InvalidParameter(f'unknown capability: "{full}"')
        bits |= _BIT[full]
    return bits


def names(bits: int) -> list[str]:
    """Names with prefix, by number."""
    return [name for name, bit in _BIT.items() if bits & bit]


DEFAULT = mask(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


def bounding_set(host_config: HostConfig, host: Host, warnings: list[str]) -> int:
    """The container's bounding set; what the host lacks is left out, with a warning if it was asked for."""
    add, add_all = _wishes("CapAdd", host_config.cap_add)
    drop, drop_all = _wishes("CapDrop", host_config.cap_drop)
    if host_config.privileged:
        return host.capabilities & ALL
    if add_all:
        return (host.capabilities & ALL & ~drop) | (add & host.capabilities & ~drop)
    wanted = add if drop_all else (DEFAULT & ~drop) | add
    missing = names(wanted & ~host.capabilities)
    if missing:
        warnings.append(f"This host does not have {', '.join(missing)}. Capabilities discarded.")
    return wanted & host.capabilities


def of_process(bounding: int, uid: int) -> Capabilities:
    """The sets of a process: root has all of the bounding set, another user none of it."""
    active = bounding if uid == 0 else 0
    return Capabilities(bounding=bounding, effective=active, permitted=active)


def _wishes(option: str, names: Sequence[str] | None) -> tuple[int, bool]:
    """(bits named, whether ALL is among the names)."""
    given = list(names or ())
    try:
        return mask(n for n in given if n.upper() not in ("ALL", "CAP_ALL")), any(
            n.upper() in ("ALL", "CAP_ALL") for n in given
        )
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid {option}: {exc}") from None

"""Security options: seccomp, no-new-privileges, masked and read-only paths, sysctls.

Source: moby's daemon (parseSecurityOpt, oci/defaults.go); runc's validate for the sysctl rules.
"""

import os
import re
from collections.abc import Callable

import msgspec

from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import HostConfig

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_IPC_SYSCTLS = frozenset(
    [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ]
)
_SYSCTL_NAME = re.compile(r"[A-Za-z0-9_.:@*\-/]+")
_DEFAULT_NET_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Docker's: any user of a container binds low ports and pings, in the container's own namespace only."""

Compile = Callable[[bytes | None, int], bytes]


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """SecurityOpt, parsed. `seccomp`: None for the daemon's profile, `unconfined`, or a JSON profile."""

    no_new_privileges: bool
    seccomp: str | None = None
    unconfined_paths: bool = False
    writable_cgroups: bool = False


def parse_options(host_config: HostConfig, config: DaemonConfig, warnings: list[str]) -> SecurityOptions:
    """SecurityOpt in Docker's forms: `key=value`, the older `key:value`, or a bare word."""
    found = SecurityOptions(no_new_privileges=config.no_new_privileges)
    for option in host_config.security_opt or ():
        separator = "=" if "=" in option else ":"
        key, given, value = option.partition(separator)
        if not given:
            if key == "no-new-privileges":
                found = msgspec.structs.replace(found, no_new_privileges=True)
            elif key != "disable":
                raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
        elif key == "no-new-privileges":
            found = msgspec.structs.replace(found, no_new_privileges=_boolean(option, value))
        elif key == "writable-cgroups":
            found = msgspec.structs.replace(found, writable_cgroups=_boolean(option, value))
        elif key == "seccomp":
            found = msgspec.structs.replace(found, seccomp=None if value == "builtin" else value)
        elif key == "systempaths" and value == "unconfined":
            found = msgspec.structs.replace(found, unconfined_paths=True)
        elif key == "apparmor":
            if value not in ("", "unconfined"):
                warnings.append(f"AppArmor is not enabled on this host. Profile {value} discarded.")
        elif key != "label":
            raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return found


def seccomp_program(
    options: SecurityOptions, config: DaemonConfig, capabilities: int, compile_: Compile, *, privileged: bool
) -> bytes | None:
    """The compiled filter, or None where none applies."""
    profile: bytes | None = None
    if options.seccomp is None:
        if privileged or config.seccomp_profile == "unconfined":
            return None
        if config.seccomp_profile not in ("", "builtin"):
            profile = _read_profile(config.seccomp_profile)
    elif options.seccomp in ("", "unconfined"):
        return None
    else:
        profile = options.seccomp.encode()
    try:
        return compile_(profile, capabilities)
    except ValueError as exc:
        raise InvalidParameter(f"Decoding seccomp profile failed: {exc}") from exc


def paths(host_config: HostConfig, options: SecurityOptions) -> tuple[list[str] | None, list[str] | None]:
    """(masked, read-only) as inspect shows them: null where privileged, the defaults where not given."""
    masked, readonly = host_config.masked_paths, host_config.readonly_paths
    if options.unconfined_paths:
        return masked or [], readonly or []
    if host_config.privileged:
        return masked, readonly
    return (
        list(MASKED_PATHS) if masked is None else masked,
        list(READONLY_PATHS) if readonly is None else readonly,
    )


def check_paths(what: str, given: list[str] | None) -> tuple[str, ...]:
    """Masked and read-only paths are absolute."""
    for path in given or ():
        if not path.startswith("/") or "\0" in path:
            raise InvalidParameter(f"invalid {what} path: '{path}' must be absolute")
    return tuple(given or ())


def resolve_sysctls(
    asked: dict[str, str] | None, *, own_ipc: bool, own_net: bool, own_uts: bool, defaults: bool
) -> tuple[tuple[str, str], ...]:
    """The sysctls that the container sets: only keys of namespaces that are its own.

    `defaults` adds Docker's own network settings. Raises InvalidParameter for any other key.
    """
    values = dict(_DEFAULT_NET_SYSCTLS) if defaults else {}
    for name, value in (asked or {}).items():
        key = _dotted(name)
        _check_sysctl(name, key, own_ipc=own_ipc, own_net=own_net, own_uts=own_uts)
        if "\n" in value or "\0" in value:
            raise InvalidParameter(f'invalid value for sysctl "{name}"')
        values[key] = value
    return tuple(values.items())


def _check_sysctl(name: str, key: str, *, own_ipc: bool, own_net: bool, own_uts: bool) -> None:
    # In a dotted key a slash stands for a dot of the path: no part may become `.` or `..`.
    parts = [part.replace("/", ".") for part in key.split(".")]
    if not _SYSCTL_NAME.fullmatch(name) or any(part in ("", ".", "..") for part in parts):
        raise InvalidParameter(f'invalid sysctl "{name}"')
    if key in _IPC_SYSCTLS or key.startswith("fs.mqueue."):
        if not own_ipc:
            raise InvalidParameter(f'sysctl "{key}" is not allowed in the hosts ipc namespace')
    elif key.startswith("net."):
        if not own_net:
            raise InvalidParameter(f'sysctl "{key}" not allowed in host network namespace')
    elif key == "kernel.hostname" and own_uts:
        raise InvalidParameter(f'sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field')
    elif not (key == "kernel.domainname" and own_uts):
        raise InvalidParameter(f'sysctl "{key}" is not in a separate kernel namespace')


def _dotted(name: str) -> str:
    """sysctl(8)'s two spellings: whichever separator comes first is one; the other stands for itself."""
    first = next((c for c in name if c in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def _boolean(option: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f'invalid --security-opt 2: "{option}"')


def _read_profile(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as exc:
        raise InvalidParameter(
            f"opening seccomp profile ({path}) failed: {os.strerror(exc.errno or 0).lower()}"
        ) from exc

"""Devices: the nodes in /dev and the rules of the device cgroup.

Source: moby's oci/devices_linux.go and oci/defaults.go; runc's specconv (AllowedDevices).
"""

import os
import re
import stat
from collections.abc import Iterator

from proa.engine.resolve.model import Host
from proa.engine.resolve.process import clean_path
from proa.errors import InvalidParameter, NotImplemented_
from proa.schema.container import DeviceMapping, HostConfig
from proa.schema.plan import Device, DeviceRule

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_MOST_ENTRIES = 16384
"""Of a directory of devices: the whole daemon waits while it is looked through."""
_MAX_NUMBER = (1 << 32) - 1

STANDARD_NODES = frozenset(["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"])
"""Those that every container has from its fresh /dev."""
_SKIPPED = frozenset(["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"])


def _rule(kind: str, major: int | None, minor: int | None, access: str, *, allow: bool = True) -> DeviceRule:
    if kind not in ("a", "b", "c"):
        raise AssertionError(kind)
    return DeviceRule(allow=allow, kind=kind, major=major, minor=minor, access=access)  # type: ignore[arg-type]


DEFAULT_RULES = (
    _rule("a", None, None, "rwm", allow=False),
    _rule("c", None, None, "m"),
    _rule("b", None, None, "m"),
    _rule("c", 1, 3, "rwm"),
    _rule("c", 1, 5, "rwm"),
    _rule("c", 1, 7, "rwm"),
    _rule("c", 1, 8, "rwm"),
    _rule("c", 1, 9, "rwm"),
    _rule("c", 5, 0, "rwm"),
    _rule("c", 5, 2, "rwm"),
    _rule("c", 136, None, "rwm"),
)
"""Deny everything; mknod of anything; null zero full random urandom tty ptmx and ptys."""
ALL_DEVICES = (_rule("a", None, None, "rwm"),)


def resolve_devices(host_config: HostConfig, host: Host) -> tuple[tuple[Device, ...], tuple[DeviceRule, ...]]:
    """The nodes beside the standard ones, and the device rules in order."""
    if host_config.device_requests:
        _refuse_requests(host_config)
    extra = tuple(_parse_rule(rule) for rule in host_config.device_cgroup_rules or ())
    if host_config.privileged:
        return tuple(_host_devices(host.devices_root, "/dev")), (*ALL_DEVICES, *extra)
    nodes: list[Device] = []
    rules: list[DeviceRule] = []
    for mapping in host_config.devices or ():
        for node, access in _mapped(mapping):
            nodes.append(node)
            rules.append(_rule("b" if node.kind == "block" else "c", node.major, node.minor, access))
    return tuple(nodes), (*DEFAULT_RULES, *rules, *extra)


def _refuse_requests(host_config: HostConfig) -> None:
    for request in host_config.device_requests or ():
        wanted = request.capabilities or []
        raise NotImplemented_(
            f'could not select device driver "{request.driver}" with capabilities: '
            f"[{' '.join('[' + ' '.join(group or ()) + ']' for group in wanted)}]"
        )


def _parse_rule(text: str) -> DeviceRule:
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    major, minor = (None if n == "*" else int(n) for n in (match[2], match[3]))
    if max(major or 0, minor or 0) > _MAX_NUMBER:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    return _rule(match[1], major, minor, match[4])


def _mapped(mapping: DeviceMapping) -> Iterator[tuple[Device, str]]:
    """The nodes of one `--device`: one, or every device below a directory."""
    host_path = mapping.path_on_host
    inside = clean_path(mapping.path_in_container or host_path or "/")
    access = mapping.cgroup_permissions or "rwm"
    if not _PERMISSIONS.fullmatch(access):
        raise InvalidParameter(f"invalid device mode: {access}")
    if not inside.startswith("/"):
        raise InvalidParameter(f"'{inside}' is not an absolute path")
    try:
        status = os.stat(host_path)
        if stat.S_ISDIR(status.st_mode):
            entries = iter(range(_MOST_ENTRIES))
            found = list(_host_devices(os.path.realpath(host_path), inside, standard=True, entries=entries))
            if not found:
                raise _device_error(host_path, "not a device node")
            yield from ((node, access) for node in found)
            return
        node = _node(status, inside)
    except OSError as exc:
        raise _device_error(host_path, os.strerror(exc.errno or 0).lower()) from exc
    except ValueError:
        raise _device_error(host_path, "invalid argument") from None
    if node is None:
        raise _device_error(host_path, "not a device node")
    yield node, access


def _device_error(path: str, reason: str) -> InvalidParameter:
    return InvalidParameter(
        f'error gathering device information while adding custom device "{path}": {reason}'
    )


def _host_devices(
    directory: str, inside: str, *, standard: bool = False, entries: Iterator[int] | None = None
) -> Iterator[Device]:
    """Every device node below `directory`, at the same place below `inside`.

    `standard`: the standard nodes as well. What goes away meanwhile is left out: /dev lives. `entries` has
    an item for each that may be looked at: past them, InvalidParameter.
    """
    try:
        found = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if entries is not None and next(entries, None) is None:
            raise _device_error(directory, "the directory has too many entries")
        if entry.name in _SKIPPED or (not standard and inside == "/dev" and entry.name in STANDARD_NODES):
            continue
        path = f"{inside.rstrip('/')}/{entry.name}"
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _host_devices(entry.path, path, standard=standard, entries=entries)
                continue
            node = _node(entry.stat(follow_symlinks=False), path)
        except OSError:
            continue
        if node is not None:
            yield node


def _node(status: os.stat_result, path: str) -> Device | None:
    if stat.S_ISBLK(status.st_mode):
        kind = "block"
    elif stat.S_ISCHR(status.st_mode):
        kind = "char"
    else:
        return None
    return Device(
        path=path,
        kind="block" if kind == "block" else "char",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )

"""tmpfs mounts: `--tmpfs path:options` and `--mount type=tmpfs`.

Source: moby/sys/mount (MergeTmpfsOptions); tmpfs(5).
"""

import re

import msgspec

from proa.errors import InvalidParameter
from proa.schema.container import MountTmpfsOptions
from proa.schema.plan import Tmpfs

_VALUES = {
    "size": re.compile(r"[0-9]+[kKmMgGtTpP%]?"),
    "nr_blocks": re.compile(r"[0-9]+[kKmMgGtTpP]?"),
    "nr_inodes": re.compile(r"[0-9]+[kKmMgGtTpP]?"),
    "mode": re.compile(r"[0-7]{1,5}"),
    "uid": re.compile(r"[0-9]{1,10}"),
    "gid": re.compile(r"[0-9]{1,10}"),
    "mpol": re.compile(r"[a-z0-9=:,-]+"),
}
_FLAGS = {
    "ro": {"readonly": True},
    "rw": {"readonly": False},
    "exec": {"noexec": False},
    "noexec": {"noexec": True},
    "suid": {"nosuid": False},
    "nosuid": {"nosuid": True},
    "dev": {"nodev": False},
    "nodev": {"nodev": True},
    "tmpcopyup": {"copy_up": True},
}
_IGNORED = frozenset(
    [
        "defaults",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "bind",
        "rbind",
        "unbindable",
        "runbindable",
        "remount",
    ]
)
"""Valid words of mount(8) that change nothing on a tmpfs of the container's own."""


def parse_tmpfs(target: str, options: str) -> Tmpfs:
    """A tmpfs of mount(8) options; the last of two that contradict wins."""
    flags: dict[str, bool] = {}
    values: dict[str, str] = {}
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        if equals and key in _VALUES and _VALUES[key].fullmatch(value):
            values[key] = f"{key}={value}"
        elif option in _FLAGS:
            flags.update(_FLAGS[option])
        elif option not in _IGNORED:
            words = " ".join(f'"{word}"' for word in ([key, value] if equals else [option]))
            raise InvalidParameter(f"invalid tmpfs option [{words}]")
    return msgspec.structs.replace(Tmpfs(target=target, options=tuple(values.values())), **flags)


def mount_tmpfs(target: str, options: MountTmpfsOptions | None, *, readonly: bool) -> Tmpfs:
    """A tmpfs of `--mount`."""
    asked = options or MountTmpfsOptions()
    if asked.size_bytes < 0:
        raise InvalidParameter('invalid mount config for type "tmpfs": size cannot be negative')
    words = ["ro"] if readonly else []
    for option in asked.options or ():
        if option is None or not 1 <= len(option) <= 2:
            raise InvalidParameter('invalid mount config for type "tmpfs": invalid option array length')
        words.append("=".join(option))
    if asked.size_bytes:
        words.append(f"size={asked.size_bytes}")
    if asked.mode:
        words.append(f"mode={asked.mode & 0o7777:o}")
    return parse_tmpfs(target, ",".join(words))

"""Whether a bind source can propagate: the mount that holds it must be shared (or a slave).

Source: mount_namespaces(7); moby's daemon/oci_linux.go (ensureShared, ensureSharedOrSlave).
"""

import os
import re
from collections.abc import Iterable

from proa.errors import InvalidParameter
from proa.schema.plan import Bind, Mount, Propagation

_MOUNTINFO = "/proc/self/mountinfo"
_ESCAPE = re.compile(r"\\([0-7]{3})")


def check_sources(mounts: Iterable[Mount]) -> None:
    """At a start, since mounts change. Raises InvalidParameter as `check_source` does."""
    for mount in mounts:
        if isinstance(mount, Bind):
            check_source(mount.source, mount.propagation)


def check_source(source: str, wanted: Propagation, *, mountinfo: str = _MOUNTINFO) -> None:
    """Raises InvalidParameter where `wanted` needs more than the source's mount has."""
    if wanted in ("private", "rprivate"):
        return
    path = os.path.realpath(source)
    mount, optional = _mount_of(path, mountinfo)
    if "shared:" in optional:
        return
    if wanted in ("shared", "rshared"):
        raise InvalidParameter(f"path {source} is mounted on {mount} but it is not a shared mount")
    if "master:" not in optional:
        raise InvalidParameter(f"path {source} is mounted on {mount} but it is not a shared or slave mount")


def _mount_of(path: str, mountinfo: str) -> tuple[str, str]:
    """(mount point, optional fields) of the mount that holds `path`; the last of equals is on top."""
    best = ("/", "")
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.partition(" - ")[0].split(" ")
            point = _ESCAPE.sub(lambda m: chr(int(m[1], 8)), fields[4])
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
                best = (point, " ".join(fields[6:]))
    return best

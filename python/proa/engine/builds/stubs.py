"""What a step's mounts were mounted on, and is no part of its layer: empty files and directories.

Every path is walked by descriptor and without following links: what a command left there is not trusted.
"""

import os
import stat
from collections.abc import Iterable, Sequence

from proa.schema.plan import Dev, Mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def missing_targets(mounts: Iterable[Mount], lower: Sequence[str]) -> list[tuple[str, int]]:
    """(path, how many of its parts are there already) of each target that no layer has."""
    found = []
    for mount in mounts:
        if isinstance(mount, Dev):
            continue
        parts = [part for part in mount.target.split("/") if part]
        there = max((_depth(layer, parts) for layer in lower), default=0)
        if there < len(parts):
            found.append(("/".join(parts), there))
    return found


def remove_stubs(upper: str, targets: Iterable[tuple[str, int]]) -> None:
    """Remove the targets from a layer, and the directories above that were made for them, where empty."""
    for path, there in targets:
        parts = path.split("/")
        while len(parts) > there and _remove(upper, parts):
            parts.pop()


def _depth(layer: str, parts: Sequence[str]) -> int:
    """How many of the parts a layer has."""
    fd = os.open(layer, _DIRECTORY)
    depth = 0
    try:
        for part in parts:
            try:
                os.stat(part, dir_fd=fd, follow_symlinks=False)
                depth += 1
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            except OSError:
                return depth
            os.close(fd)
            fd = below
        return depth
    finally:
        os.close(fd)


def _remove(upper: str, parts: Sequence[str]) -> bool:
    """Remove an empty file or directory; whether it is gone."""
    fd = os.open(upper, _DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        found = os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(parts[-1], dir_fd=fd)
        elif stat.S_ISREG(found.st_mode) and not found.st_size:
            os.unlink(parts[-1], dir_fd=fd)
        else:
            return False
    except OSError:
        return False
    finally:
        os.close(fd)
    return True

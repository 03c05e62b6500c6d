"""Times of a layer's files under SOURCE_DATE_EPOCH: none is younger, so that equal steps make equal layers.

Source: the documentation of BuildKit's exporters, rewrite-timestamp.
"""

import os

from proa.errors import System


def clamp_times(directory: str, epoch_ns: int) -> None:
    """Set back every time below a directory that is past `epoch_ns`; blocks. Follows no link."""
    try:
        for _, names, files, fd in os.fwalk(os.fsencode(directory)):
            for name in (*names, *files):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if found.st_mtime_ns > epoch_ns:
                    os.utime(name, ns=(epoch_ns, epoch_ns), dir_fd=fd, follow_symlinks=False)
            if os.fstat(fd).st_mtime_ns > epoch_ns:
                os.utime(fd, ns=(epoch_ns, epoch_ns))
    except OSError as exc:
        raise System(f"times of a layer: {(exc.strerror or str(exc)).lower()}") from exc

"""A layer's files in a second place: COPY --link makes a layer once, and puts it on whatever lies below.

A snapshot's directory is one chain's, so that another chain has one of its own: directories are made anew,
all else is the same inode under a second name. Layers are never written to, so that nobody can tell.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import proa_native

from proa.errors import System


def link_layer(source: str, lower: Sequence[str], target: str) -> None:
    """Fill the empty directory `target`; its root is as in `lower`, top first; blocks. Raises System."""
    top, made = os.fsencode(source), os.fsencode(target)
    try:
        for directory, names, files, fd in os.fwalk(top):
            with _opened(_moved(directory, top, made)) as into:
                for name in names:
                    if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        os.mkdir(name, 0o700, dir_fd=into)
                    else:  # A link to a directory is none.
                        files.append(name)
                for name in files:
                    os.link(name, name, src_dir_fd=fd, dst_dir_fd=into, follow_symlinks=False)
        # Times last, deepest first: what comes into a directory changes its own.
        for directory, _, _, fd in os.fwalk(top, topdown=False):
            with _opened(_moved(directory, top, made)) as into:
                _resemble(fd, into)
        proa_native.inherit_directories(target, lower, [b""])
        # What makes the tar again that it came as.
        with suppress(FileNotFoundError):
            os.link(f"{os.path.dirname(source)}/tar", f"{os.path.dirname(target)}/tar")
    except OSError as exc:
        raise System(f"layer: {(exc.strerror or str(exc)).lower()}") from exc


def _moved(directory: bytes, top: bytes, made: bytes) -> bytes:
    return made + directory[len(top) :]


@contextmanager
def _opened(path: bytes) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _resemble(source: int, target: int) -> None:
    """Give a directory another one's owner, mode, attributes and times."""
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))

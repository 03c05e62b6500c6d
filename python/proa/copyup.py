"""Copy-up: what an image has at a path, copied into a volume that is mounted there first.

Reads image layers as overlayfs would merge them: whiteouts, opaque directories, the upper file over the
lower. Every step is relative to a directory fd and follows no symlink but its own in-root resolution of
the target: an image cannot point it at the host. Blocks; runs in the executor.

Source: the kernel's Documentation/filesystems/overlayfs.rst.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from proa.errors import System

_OPAQUE = "trusted.overlay.opaque"
_OVERLAY = "trusted.overlay."
_LINKS = 40
_LEVELS = 256
"""Of a tree that is copied: each costs a frame and descriptors, and an image may have thousands."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MergedDirectory = tuple[int, ...]
"""Fds of one directory in every layer that has a part in it, top first."""


def copy_up(layers: Sequence[str], target: str, destination: str, subpath: str = "") -> bool:
    """Copy the directory `target` of the image into the empty directory `destination`, or below it.

    Owner and mode of `destination` become the target's. False, and nothing done, where the image has
    no directory there, `destination` has something in it, or `subpath` is not there or leads over a link.
    Raises System; then it is empty again.
    """
    with ExitStack() as fds:
        try:
            into = _below(fds, _open(fds, destination), subpath)
            if into is None:
                return False
            if os.listdir(into):
                return False
            root = tuple(_open(fds, layer) for layer in layers)
            source = _resolve(fds, root, target)
            if source is None:
                return False
            try:
                _copy_tree(source, into)
                _copy_attributes(source[0], into)
            except OSError:
                _empty(into)
                raise
        except OSError as exc:
            raise System(f"failed to copy {target} into the volume: {(exc.strerror or '').lower()}") from exc
    return True


# ---- the merged view ----------------------------------------------------------------------------


def _resolve(fds: ExitStack, root: MergedDirectory, path: str) -> MergedDirectory | None:
    """The directory at `path`, its symlinks resolved inside the root."""
    above = [root]
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while pending:
        name = pending.pop()
        if name == "..":
            above = above[:-1] or [root]
            continue
        found = _lookup(fds, above[-1], name)
        if found is None:
            return None
        layer, status, merged = found
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                return None
            content = os.readlink(name, dir_fd=layer)
            if content.startswith("/"):
                above = [root]
            pending += [part for part in reversed(content.split("/")) if part not in ("", ".")]
        elif merged:
            above.append(merged)
        else:
            return None
    return above[-1]


def _lookup(
    fds: ExitStack, directory: MergedDirectory, name: str
) -> tuple[int, os.stat_result, MergedDirectory] | None:
    """(fd of the topmost layer's directory, the entry's status, its merged parts if a directory)."""
    top: tuple[int, os.stat_result] | None = None
    parts: list[int] = []
    for layer in directory:
        try:
            status = os.stat(name, dir_fd=layer, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        if _is_whiteout(status) or (top is not None and not stat.S_ISDIR(status.st_mode)):
            break
        top = top or (layer, status)
        if not stat.S_ISDIR(status.st_mode):
            break
        part = os.open(name, _DIRECTORY, dir_fd=layer)
        fds.callback(os.close, part)
        parts.append(part)
        if _is_opaque(part):
            break
    return None if top is None else (*top, tuple(parts))


def _names(directory: MergedDirectory) -> Iterator[str]:
    yield from sorted({entry for layer in directory for entry in os.listdir(layer)})


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


# ---- copying ------------------------------------------------------------------------------------


def _copy_tree(source: MergedDirectory, into: int, levels: int = _LEVELS) -> None:
    """Everything below. Hardlinks stay links inside one directory; across directories they are copied."""
    if not levels:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    links: dict[tuple[int, int], str] = {}
    for name in _names(source):
        with ExitStack() as fds:
            found = _lookup(fds, source, name)
            if found is None:
                continue
            layer, status, merged = found
            if merged:
                os.mkdir(name, 0o700, dir_fd=into)
                child = os.open(name, _DIRECTORY, dir_fd=into)
                try:
                    _copy_tree(merged, child, levels - 1)
                    _copy_attributes(merged[0], child)
                finally:
                    os.close(child)
            else:
                _copy_entry(layer, name, status, into, links)


def _copy_entry(
    layer: int, name: str, status: os.stat_result, into: int, links: dict[tuple[int, int], str]
) -> None:
    known = links.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
    if known is not None:
        os.link(known, name, src_dir_fd=into, dst_dir_fd=into, follow_symlinks=False)
        return
    if stat.S_ISREG(status.st_mode):
        _copy_file(layer, name, into)
        links.setdefault((status.st_dev, status.st_ino), name)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=layer), name, dir_fd=into)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=into)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=into)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=into, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=into, follow_symlinks=False)


def _copy_file(layer: int, name: str, into: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=into)
        try:
            while os.sendfile(target, source, None, 1 << 30):
                pass
            _copy_attributes(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_attributes(source: int, target: int) -> None:
    """Owner before mode (chown clears set-id bits), then xattrs, times last."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(_OVERLAY):
            with suppress(OSError):  # one that the volume's file system does not have
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _empty(directory: int) -> None:
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            child = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                _empty(child)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def _below(fds: ExitStack, directory: int, subpath: str) -> int | None:
    for name in subpath.split("/"):
        if name in ("", "."):
            continue
        try:
            directory = os.open(name, _DIRECTORY, dir_fd=directory)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        fds.callback(os.close, directory)
    return directory


def _open(fds: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fds.callback(os.close, fd)
    return fd

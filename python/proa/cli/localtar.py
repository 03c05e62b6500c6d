"""Local files to a tar and a tar to local files, both as they come: the client's half of `cp`.

What comes out of a container is not trusted: it is unpacked by descriptor below the directory that was asked
for, through no symbolic link, whether the archive brought it or it was there before. Ownership stays the
caller's.

Source: moby pkg/archive for what replaces what, and for the words.
"""

import os
import stat
import tarfile

from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK = 1 << 18

END = bytes(2 * tarfile.BLOCKSIZE)

Names = list[tuple[str, str]]
"""(old, new), each replaced once in every name of the archive."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def rename(name: str, names: Names) -> str:
    """The archive's name with its beginning replaced."""
    for old, new in names:
        name = name.replace("" if old == "/" else old, new, 1)
    return name


# ---- out of local files -------------------------------------------------------------------------


def pack(path: str, base: str, names: Names) -> "Iterator[bytes]":
    """A tar of a local path under its last name, or `base`, with `names` replaced in all names."""
    own = "." if path.endswith("/.") else os.path.basename(path.rstrip("/")) or "/"
    top = base or own
    links: dict[tuple[int, int], str] = {}
    pending = [(path, "" if top == "/" else top)]
    while pending:
        source, name = pending.pop()
        try:
            status = os.lstat(source)
            yield from entry(source, rename(name, names), status, links)
            if stat.S_ISDIR(status.st_mode):
                below = sorted(os.listdir(source), reverse=True)
                pending += [(os.path.join(source, entry), f"{name}/{entry}") for entry in below]
        except OSError as exc:
            raise Failure(f"{exc.filename or source}: {(exc.strerror or '').lower()}") from None
    yield END


def below(name: str, parts: "Iterator[bytes]") -> "Iterator[bytes]":
    """A tar's members as they are in a directory of this name, without the end. Raises Failure."""
    yield _directory(name)
    try:
        reader = _Reader(parts)
        with tarfile.open(fileobj=reader, mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]
            for member in archive:
                archive.members = []  # it would keep them all
                if member.name in ("", "."):
                    continue
                member.name = f"{name}/{member.name}"
                # What says the old name, or how a sparse file was packed, holds no more.
                member.pax_headers = {
                    key: text for key, text in member.pax_headers.items() if key.startswith("SCHILY.")
                }
                if member.islnk():
                    member.linkname = f"{name}/{member.linkname}"
                yield _head(member)
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    while data := content.read(CHUNK):
                        yield data
                    yield bytes(-member.size % tarfile.BLOCKSIZE)
    except tarfile.TarError as exc:
        raise Failure(f"Error processing tar file: {exc}") from None


def _directory(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return _head(info)


def entry(
    source: str,
    name: str,
    status: os.stat_result,
    links: dict[tuple[int, int], str],
    *,
    owned: bool = True,
) -> "Iterator[bytes]":
    """One path of a tar; `links` are the names of inodes with several. Not `owned`, all is root's."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return  # a socket
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, stat.S_IMODE(status.st_mode), status.st_mtime
    if owned:
        info.uid, info.gid = status.st_uid, status.st_gid
    inode = (status.st_dev, status.st_ino)
    if kind != tarfile.DIRTYPE and status.st_nlink > 1:
        if inode in links:
            info.type, info.linkname = tarfile.LNKTYPE, links[inode]
            yield _head(info)
            return
        links[inode] = name
    if kind == tarfile.SYMTYPE:
        info.linkname = os.readlink(source)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif kind == tarfile.REGTYPE:
        yield from _file(source, info)
        return
    yield _head(info)


def _head(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _file(source: str, info: tarfile.TarInfo) -> "Iterator[bytes]":
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info.size = left = os.fstat(fd).st_size
        yield _head(info)
        while left:
            # A file that shrinks meanwhile keeps the size that was announced.
            data = os.read(fd, min(CHUNK, left)) or bytes(min(CHUNK, left))
            left -= len(data)
            yield data
    finally:
        os.close(fd)
    yield bytes(-info.size % tarfile.BLOCKSIZE)


# ---- into local files ---------------------------------------------------------------------------


class _Reader:
    """What tarfile reads of an iterator of bytes."""

    def __init__(self, parts: "Iterator[bytes]") -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int) -> bytes:
        found = [self._rest]
        count = len(self._rest)
        while count < size and (part := next(self._parts, b"")):
            found.append(part)
            count += len(part)
        data = b"".join(found)
        self._rest = data[size:]
        return data[:size]


def unpack(parts: "Iterator[bytes]", directory: str, names: Names) -> None:
    """Unpack into a local directory, with `names` replaced in all names. Raises Failure."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    target = _Target(folder, directory)
    try:
        reader = _Reader(parts)
        with tarfile.open(fileobj=reader, mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]
            for member in archive:
                archive.members = []  # it would keep them all
                target.take(archive, member, names)
        target.finish()
        while reader.read(CHUNK):
            pass  # what follows the archive's end
    except tarfile.TarError as exc:
        raise Failure(f"archive/tar: {exc}") from None
    except OSError as exc:
        where = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else directory
        raise Failure(f"{where}: {(exc.strerror or '').lower()}") from None
    finally:
        target.close()


class _Target:
    """The directory that is unpacked into, and the open directories on the way to the last entry."""

    def __init__(self, folder: int, path: str) -> None:
        self._folder = folder
        self._path = path
        self._open: list[tuple[str, int]] = []
        self._directories: list[tuple[list[str], int, float]] = []

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, names: Names) -> None:
        parts = self._parts(rename(member.name, names))
        if not parts:
            return
        parent = self._parent(parts[:-1])
        name = parts[-1]
        if self._make_way(parent, name, member, parts):
            return
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=parent)
            self._directories.append((parts, member.mode, member.mtime))
        elif member.isreg():
            self._file(archive, member, parent, name)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            linked = self._parts(rename(member.linkname, names))
            # Its directory is opened apart: the one of this entry must stay open.
            source = self._walk(linked[:-1])
            try:
                os.link(linked[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        else:
            kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}.get(
                member.type, stat.S_IFIFO
            )
            device = os.makedev(member.devmajor, member.devminor)
            os.mknod(name, kind | member.mode & 0o777, device, dir_fd=parent)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        content = archive.extractfile(member)
        assert content is not None
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while data := content.read(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            os.fchmod(fd, member.mode & 0o7777)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Modes and times of directories, when nothing will be made in them any more."""
        for parts, mode, mtime in reversed(self._directories):
            fd = self._walk(parts)
            try:
                os.fchmod(fd, mode & 0o7777)
                os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)

    def close(self) -> None:
        for _, fd in self._open:
            os.close(fd)
        self._open = []
        os.close(self._folder)

    def _make_way(self, parent: int, name: str, member: tarfile.TarInfo, parts: "Sequence[str]") -> bool:
        """Remove what the entry replaces; true where it is a directory to merge with."""
        try:
            there = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        if there != member.isdir():
            old, new = ("", "non-") if there else ("non-", "")
            path = os.path.join(self._path, *parts)
            raise Failure(f'cannot overwrite {old}directory "{path}" with {new}directory "{self._path}"')
        if there:
            self._directories.append((list(parts), member.mode, member.mtime))
            return True
        os.unlink(name, dir_fd=parent)
        return False

    def _parts(self, name: str) -> list[str]:
        """A name's components; one that climbs out is refused."""
        parts: list[str] = []
        for part in name.split("/"):
            if part == ".." and not parts:
                raise Failure(f'"{name}" is outside of "{self._path}"')
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return parts

    def _parent(self, parts: "Sequence[str]") -> int:
        """The open directory of an entry, kept for the next ones; missing ones are made."""
        common = 0
        while common < min(len(parts), len(self._open)) and self._open[common][0] == parts[common]:
            common += 1
        for _, fd in self._open[common:]:
            os.close(fd)
        del self._open[common:]
        for part in parts[common:]:
            above = self._open[-1][1] if self._open else self._folder
            try:
                fd = os.open(part, _DIRECTORY, dir_fd=above)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=above)
                fd = os.open(part, _DIRECTORY, dir_fd=above)
            self._open.append((part, fd))
        return self._open[-1][1] if self._open else self._folder

    def _walk(self, parts: "Sequence[str]") -> int:
        """A directory below, opened through no link; the caller's to close."""
        fd = os.dup(self._folder)
        for part in parts:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

"""`cp`: between a container and the local file system, or a tar on a standard stream.

What a path means by its end (`/`, `/.`), by what it is, and by what is there already decides where the
archive is unpacked and what its first name becomes; everything else is the daemon's work, or localtar's.

Source: the Docker Engine API, v1.51; docker/cli cli/command/container/cp.go and moby pkg/archive/copy.go for
what is copied where, and for the words.
"""

import os
import stat
import time

from proa.cli.failure import DaemonError, Failure
from proa.cli.flags import Command, Parsed
from proa.cli.streams import write_all
from proa.cli.transport import Client, Response, client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CHUNK = 1 << 18

_GO_DIRECTORY, _GO_SYMLINK, _GO_DEVICE, _GO_IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19

_FLAGS = (
    ("archive", "a", "bool", "", "Archive mode (copy all uid/gid information)"),
    ("follow-link", "L", "bool", "", "Always follow symbol link in SRC_PATH"),
    (
        "quiet",
        "q",
        "bool",
        "",
        "Suppress progress output during copy. Progress output is automatically suppressed "
        "if no terminal is attached",
    ),
)

_LONG = """Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout."""


class Place:
    """One end of a copy: its path, what is there, and a name for the archive instead of its own."""

    __slots__ = ("directory", "exists", "path", "rename")

    def __init__(self, path: str, *, exists: bool = False, directory: bool = False, rename: str = "") -> None:
        self.path = path
        self.exists = exists
        self.directory = directory
        self.rename = rename


def cp(parsed: Parsed) -> int:
    """`proa cp`."""
    source, target = parsed.args
    if not source:
        raise Failure("source can not be empty")
    if not target:
        raise Failure("destination can not be empty")
    from_container, from_path = split(source)
    to_container, to_path = split(target)
    if from_container and to_container:
        raise Failure("copying between containers is not supported")
    if not from_container and not to_container:
        raise Failure("must specify at least one container source")
    quiet = parsed.get("quiet", not os.isatty(1))
    api = client(parsed.options)
    progress = Progress(quiet, "from" if from_container else "to")
    if from_container:
        copy_from(api, from_container, from_path, to_path, parsed.flag("follow-link"), progress)
    else:
        copy_to(api, from_path, to_container, to_path, parsed, progress)
    return 0


def split(argument: str) -> tuple[str, str]:
    """(container, path); a local path has no container, and may have a colon after `./` or `/`."""
    name, colon, path = argument.partition(":")
    if argument.startswith("/") or not colon or name.startswith("."):
        return "", argument
    return name, path


# ---- from a container ---------------------------------------------------------------------------


def copy_from(api: Client, container: str, path: str, local: str, follow: bool, progress: "Progress") -> None:
    """Out of a container; `local` may be `-`."""
    if local != "-":
        local = absolute(local)
        check_output(local)
    rename = ""
    if follow:
        found = stat_in(api, container, path)
        if found is not None and found["mode"] & _GO_SYMLINK:
            path, rename = renamed(path, link_of(path, found["linkTarget"]))
    response = api.request("GET", f"/containers/{quote(container)}/archive{query(path=path)}")
    if local == "-":
        for data in response.chunks():
            write_all(1, data)
        return
    found = decode_stat(response)
    source = Place(path, exists=True, directory=bool(found["mode"] & _GO_DIRECTORY), rename=rename)
    names = [(parted(path)[1], rename)] if rename else []
    directory, rebase = prepare(source, destination(local))
    names += rebase
    from proa.cli.localtar import unpack

    unpack(progress.counted(response.chunks()), directory, names)
    progress.done(local)


def check_output(path: str) -> None:
    """Raises Failure where nothing can be put."""
    folder = os.path.dirname(os.path.normpath(path))
    if folder and not os.path.exists(folder):
        raise Failure(f'invalid output path: directory "{folder}" does not exist')
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        device = stat.S_IFMT(os.stat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
        raise Failure(
            f'invalid output path: "{path}" must be a directory or a regular file: '
            f"got {'a device' if device else 'an irregular file'}"
        )


def destination(path: str) -> Place:
    """What is at a local path that is written to; links are followed to their end, which may be missing."""
    for _ in range(11):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            parent, _name = parted(path)
            if not os.path.exists(parent):
                raise Failure(f"stat {parent}: no such file or directory") from None
            if not os.path.isdir(parent):
                raise Failure("not a directory") from None
            return Place(path)
        except OSError as exc:
            raise Failure(f"lstat {path}: {(exc.strerror or '').lower()}") from None
        if not stat.S_ISLNK(status.st_mode):
            return Place(path, exists=True, directory=stat.S_ISDIR(status.st_mode))
        path = link_of(path, os.readlink(path))
    raise Failure(f"too many symlinks in {path}")


# ---- to a container -----------------------------------------------------------------------------


def copy_to(api: Client, local: str, container: str, path: str, parsed: Parsed, progress: "Progress") -> None:
    """Into a container; `local` may be `-`."""
    if local != "-":
        local = absolute(local)
    target = place_in(api, container, path)
    parts: Iterator[bytes]
    if local == "-":
        if not target.directory:
            raise Failure(f'destination "{container}:{path}" must be a directory')
        directory, parts = target.path, _standard_input()
    else:
        from proa.cli.localtar import pack

        source = source_of(local, parsed.flag("follow-link"))
        directory, names = prepare(source, target)
        parts = pack(source.path, source.rename, names)
    wanted = query(
        path=directory, noOverwriteDirNonDir="true", copyUIDGID="true" if parsed.flag("archive") else None
    )
    response = api.upload("PUT", f"/containers/{quote(container)}/archive{wanted}", progress.counted(parts))
    response.read()
    progress.done(f"{container}:{target.path}")


def place_in(api: Client, container: str, path: str) -> Place:
    """What is at a container's path, a link at its end followed once; what goes wrong shows at the copy."""
    found = stat_in(api, container, path)
    given = path
    if found is not None and found["mode"] & _GO_SYMLINK:
        path = link_of(path, found["linkTarget"])
        found = stat_in(api, container, path)
    if found is None:
        return Place(path)
    if found["mode"] & (_GO_DEVICE | _GO_IRREGULAR):
        raise Failure(
            f'destination "{container}:{given}" must be a directory or a regular file: got a device'
        )
    return Place(path, exists=True, directory=bool(found["mode"] & _GO_DIRECTORY))


def source_of(path: str, follow: bool) -> Place:
    """What is at a local path that is read; without `follow` a link at its end is the thing itself."""
    rename = ""
    try:
        if follow:
            path, rename = renamed(path, os.path.realpath(path, strict=True))
        else:
            folder, name = os.path.split(path)
            path = os.path.join(os.path.realpath(folder, strict=True), name)
        status = os.lstat(path)
    except NotADirectoryError:
        raise Failure("not a directory") from None
    except OSError as exc:
        raise Failure(f"lstat {exc.filename or path}: {(exc.strerror or '').lower()}") from None
    return Place(path, exists=True, directory=stat.S_ISDIR(status.st_mode), rename=rename)


def _standard_input() -> "Iterator[bytes]":
    while data := os.read(0, CHUNK):
        yield data


# ---- what goes where ----------------------------------------------------------------------------


def prepare(source: Place, target: Place) -> tuple[str, list[tuple[str, str]]]:
    """(directory to unpack in, names to replace at the start of the archive's). Raises Failure."""
    folder, name = parted(target.path)
    if target.exists and target.directory:
        return target.path, []
    if target.exists and source.directory:
        raise Failure("cannot copy directory")
    if not target.exists and not source.directory and target.path.rpartition("/")[2] in ("", "."):
        raise Failure("no such directory")
    return folder, [(source.rename or parted(source.path)[1], name)]


def absolute(path: str) -> str:
    """A local path from the root; a `/` or `/.` at its end means something and stays."""
    return ended(os.path.abspath(path), path)


def ended(clean: str, original: str) -> str:
    """A cleaned path with the end that the original has."""
    if original.rpartition("/")[2] == ".":
        return f"{clean.rstrip('/')}/."
    return f"{clean}/" if original.endswith("/") and not clean.endswith("/") else clean


def parted(path: str) -> tuple[str, str]:
    """Directory and last name of a path, cleaned; the last name of `a/.` is `.`, of the root `/`."""
    clean = os.path.normpath(path)
    if path.rpartition("/")[2] == ".":
        return clean, "."
    folder, name = os.path.split(clean)
    return folder or ".", name or "/"


def renamed(path: str, resolved: str) -> tuple[str, str]:
    """A resolved path with the original's end, and the original's last name where it is another."""
    resolved = ended(resolved, path)
    name = parted(path)[1]
    return resolved, name if name != parted(resolved)[1] else ""


def link_of(path: str, target: str) -> str:
    """Where a link at `path` leads."""
    return target if target.startswith("/") else os.path.normpath(os.path.join(parted(path)[0], target))


# ---- the daemon's word --------------------------------------------------------------------------


def stat_in(api: Client, container: str, path: str) -> "dict[str, Any] | None":
    """What the daemon says of a path; None where it has nothing to say."""
    try:
        response = api.request("HEAD", f"/containers/{quote(container)}/archive{query(path=path)}")
    except DaemonError:
        return None
    response.read()
    api.release(response)
    return decode_stat(response)


def decode_stat(response: Response) -> "dict[str, Any]":
    """The header that says what is at the path. Raises Failure."""
    from binascii import a2b_base64

    from proa.cli.jsontext import decode

    try:
        found: dict[str, Any] = decode(a2b_base64(response.headers["x-docker-container-path-stat"]))
    except (KeyError, ValueError) as exc:
        raise Failure(f"unable to decode container path stat header: {exc}") from None
    return found


class Progress:
    """How much has been copied, on a terminal; and the last word."""

    def __init__(self, quiet: bool, direction: str) -> None:
        self._quiet = quiet
        self._head = f"Copying {direction} container - "
        self._bytes = 0
        self._shown = time.monotonic()

    def counted(self, parts: "Iterator[bytes]") -> "Iterator[bytes]":
        """The parts as they pass."""
        for part in parts:
            self._bytes += len(part)
            now = time.monotonic()
            if not self._quiet and now - self._shown > 0.2:
                self._shown = now
                self._tell(f"\r\x1b[2K{self._head}{self._size()}")
            yield part

    def done(self, target: str) -> None:
        """It is all there."""
        if not self._quiet:
            self._tell(f"\r\x1b[2KSuccessfully copied {self._size()} to {target}\n")

    def _size(self) -> str:
        from proa.cli.human import decimal_size

        return decimal_size(self._bytes, 3)

    def _tell(self, text: str) -> None:
        os.write(2, text.encode("utf-8", "surrogateescape"))


COMMANDS = {
    "cp": Command(
        "cp",
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tproa cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        "Copy files/folders between a container and the local filesystem",
        cp,
        _FLAGS,
        minimum=2,
        maximum=2,
        aliases="container cp, cp",
        long=_LONG,
    )
}

"""The context of a build as a tar: what its .dockerignore leaves, all of it root's.

A Dockerfile from elsewhere travels under a name of its own, with its own ignore file.

Source: the documentation of `docker build`, "Build context", ".dockerignore files".
"""

import os
import stat
import tarfile

from proa.cli.environment import absolute
from proa.cli.failure import Failure
from proa.cli.localtar import entry
from proa.errors import InvalidParameter
from proa.ignore import Patterns, read_ignore_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_IGNORE = ".dockerignore"


def context_tar(root: str, file: str, text: bytes | None) -> "tuple[Iterator[bytes], str]":
    """(the tar, the Dockerfile's name in it) of a directory; `text` is a Dockerfile from standard input.

    Raises Failure for what cannot be read, before the first byte.
    """
    root = absolute(root)
    own: bytes | None = None
    if text is None:
        path = absolute(file) if file else _default(root)
        own = _read(f"{path}{_IGNORE}", missing=True)
        if path.startswith(f"{root}/"):
            name = path[len(root) + 1 :]
            if not os.path.exists(path):
                raise Failure(f"ERROR: failed to read dockerfile: open {name}: no such file or directory")
            return _Tree(root, own, (name, f"{name}{_IGNORE}", _IGNORE)).parts({}), name
        text = _read(path)
    name = f".dockerfile.{os.urandom(10).hex()}"
    patterns = own if own is not None else _read(f"{root}/{_IGNORE}", missing=True) or b""
    # What travels along is no part of the context: no COPY finds it.
    hidden = f"{patterns.decode('utf-8', 'replace')}\n{name}\n{name}{_IGNORE}\n"
    more = {name: text or b"", f"{name}{_IGNORE}": hidden.encode()}
    return _Tree(root, patterns, (_IGNORE,)).parts(more), name


def _default(root: str) -> str:
    """`Dockerfile`, or `dockerfile` where there is none."""
    found = os.path.join(root, "Dockerfile")
    other = os.path.join(root, "dockerfile")
    return other if not os.path.exists(found) and os.path.exists(other) else found


def _read(path: str, *, missing: bool = False) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as exc:
        if missing:
            return None
        raise Failure(f"ERROR: failed to read dockerfile: open {path}: no such file or directory") from exc
    except OSError as exc:
        raise Failure(f"ERROR: open {path}: {(exc.strerror or '').lower()}") from exc


class _Tree:
    """A directory without what is ignored of it; `kept` goes along whatever the patterns say."""

    def __init__(self, root: str, own: bytes | None, kept: tuple[str, ...]) -> None:
        patterns = own if own is not None else _read(os.path.join(root, _IGNORE), missing=True)
        self._root = root
        self._kept = kept
        try:
            self._ignore = Patterns(read_ignore_file((patterns or b"").decode("utf-8", "replace")))
        except InvalidParameter as exc:
            raise Failure(f"ERROR: failed to read {_IGNORE}: {exc}") from None
        self._links: dict[tuple[int, int], str] = {}
        self._sent: set[str] = set()

    def parts(self, more: dict[str, bytes]) -> "Iterator[bytes]":
        """The archive; `more` are files that do not lie in the directory."""
        for name, content in more.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            yield content + bytes(-len(content) % tarfile.BLOCKSIZE)
        pending = [("", 0)]
        while pending:
            directory, above = pending.pop()
            below: list[tuple[str, int]] = []
            for name in self._names(directory):
                path = f"{directory}/{name}" if directory else name
                status = self._status(path)
                left_out, bits = self._ignore.fit(path, above)
                if not left_out or path in self._kept:
                    yield from self._with_parents(path, status)
                if stat.S_ISDIR(status.st_mode) and (not left_out or self._may_keep(path)):
                    below.append((path, bits))
            pending += reversed(below)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _may_keep(self, directory: str) -> bool:
        """Whether something below a directory that is left out goes along."""
        below = f"{directory}/"
        return self._ignore.may_take_back(directory) or any(name.startswith(below) for name in self._kept)

    def _with_parents(self, path: str, status: os.stat_result) -> "Iterator[bytes]":
        """An entry, after those of the directories above it that were left out themselves."""
        at = path.find("/")
        while at >= 0:
            above = path[:at]
            if above not in self._sent:
                yield from self._entry(above, self._status(above))
            at = path.find("/", at + 1)
        yield from self._entry(path, status)

    def _entry(self, path: str, status: os.stat_result) -> "Iterator[bytes]":
        if stat.S_ISDIR(status.st_mode):
            self._sent.add(path)
        try:
            yield from entry(f"{self._root}/{path}", path, status, self._links, owned=False)
        except OSError as exc:
            raise Failure(f"ERROR: open {path}: {(exc.strerror or '').lower()}") from None

    def _names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(f"{self._root}/{directory}"))
        except OSError as exc:
            raise Failure(f"ERROR: open {directory}: {(exc.strerror or '').lower()}") from None

    def _status(self, path: str) -> os.stat_result:
        try:
            return os.lstat(f"{self._root}/{path}")
        except OSError as exc:
            raise Failure(f"ERROR: lstat {path}: {(exc.strerror or '').lower()}") from None

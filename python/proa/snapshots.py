"""Snapshots: the directories that root filesystems are stacked from.

Owns <data_root>/snapshots:

    l<random>/fs          committed: one layer, unpacked in overlayfs's form; by chain id in the database
    l<random>/tar         beside it, where it came uncompressed: what makes its tar again (layer::recipe)
    <key>/{fs,work}       active: upper and work directory of one container, by its id
    base/fs               the lowest layer of every stack: what is mounted over, where an image lacks it
    base/container        the same for containers, with what programs look for in one (Docker's init layer)
    removed-<random>      on its way out

Directories are leased by the database: a committed one that it does not know is garbage, a known one is
complete. Active ones are known to the engine's containers (`sweep`). Names are short, since all lower
directories of a stack must fit into one mount option on kernels before 6.5.

A layer is unpacked into a draft, whatever lies below it, in parallel with its parents; the draft is recorded
under its chain id in the transaction that makes the image known.

Power loss: no layer waits for the disk while it is unpacked. A snapshot is recorded with the id of the
kernel's boot; whoever syncs the file system after the transaction takes that mark away (`unsynced`,
`synced`). What still bears the mark of another boot at the start was recorded by a kernel that went before
the sync ended: it may have holes, and is `doubtful`: to be unpacked again from its blob. A daemon that dies
costs no more than that sync.

Words: committed, active, prepare, key, parent as in containerd's core/snapshots. Source of the overlay form:
Documentation/filesystems/overlayfs.rst.
"""

import asyncio
import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import proa_native
from msgspec import Struct

from proa.errors import InvalidParameter, NotFound, System
from proa.schema.plan import Overlay

SCHEMA: Final = (
    """
    CREATE TABLE snapshots (
        chain_id TEXT PRIMARY KEY,
        parent TEXT NOT NULL,
        directory TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        inodes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "ALTER TABLE snapshots ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE snapshots ADD COLUMN same_files TEXT NOT NULL DEFAULT ''",
)
"""`boot`: of which boot's kernel it is in memory, perhaps not on disk; empty: it is on disk.

`same_files`: chain id of the base layer whose files it has under second names, so that they count once.
"""

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_DRAFT: Final = "l"
_REMOVED: Final = "removed-"
_BASE: Final = "base"
_RECIPE: Final = "tar"
_BASE_DIRECTORIES: Final = ("dev", "etc", "proc", "sys")
_BASE_FILES: Final = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
_IN_CONTAINERS: Final = ".dockerenv"
_MOUNT_TABLE: Final = "etc/mtab"


class Database(Protocol):
    """The metadata store as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


class Committed(Struct, frozen=True):
    """A layer's snapshot; `parent` is the chain id below it, empty for a base layer."""

    chain_id: str
    parent: str
    directory: str
    size: int
    inodes: int
    boot: str
    same_files: str = ""


def boot_id() -> str:
    """This boot of the kernel. Source: Documentation/admin-guide/sysctl/kernel.rst, random/boot_id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise System(f"{what}: {exc.strerror or exc}") from exc


class Snapshots:
    """Committed and active snapshots. Plain calls are a few system calls; trees are for the executor."""

    def __init__(
        self,
        root: Path,
        database: Database,
        executor: Executor | None = None,
        *,
        boot: str = "",
    ) -> None:
        """`root` is <data_root>/snapshots; made, mode 0700, where missing. `boot`: this kernel's boot id."""
        self.root = self._root = root
        self._database = database
        self._executor = executor
        self._removing: set[asyncio.Future[None]] = set()
        self._boot = boot or boot_id()
        with _translated(f"snapshots {root}"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._base = self._make_base("fs")
            self._base_of_containers = self._make_base("container", containers=True)
        self._umask = os.umask(0o022)
        os.umask(self._umask)

    # ---- committed ------------------------------------------------------------------------------

    def find(self, chain_id: str) -> Committed | None:
        """The snapshot of a chain id."""
        rows = self._database.query("SELECT * FROM snapshots WHERE chain_id = ?", (chain_id,))
        return Committed(*rows[0]) if rows else None

    def all(self) -> list[Committed]:
        """Every committed snapshot."""
        return [Committed(*row) for row in self._database.query("SELECT * FROM snapshots")]

    def size(self) -> int:
        """Bytes of all layers; what is the same files is counted once."""
        rows = self._database.query(
            "SELECT SUM(size) FROM (SELECT MAX(size) AS size FROM snapshots"
            " GROUP BY CASE same_files WHEN '' THEN chain_id ELSE same_files END)"
        )
        return rows[0][0] or 0

    def lower(self, chain_id: str) -> tuple[str, ...]:
        """The directories of a stack, top layer first; none for an empty chain id. Raises NotFound."""
        directories = []
        while chain_id:
            snapshot = self.find(chain_id)
            if snapshot is None:
                raise NotFound(f"snapshot {chain_id} does not exist: not found")
            directories.append(str(self._root / snapshot.directory / "fs"))
            chain_id = snapshot.parent
        return tuple(directories)

    def draft(self) -> Path:
        """A new empty directory to unpack a layer into."""
        with _translated("snapshots"):
            while True:
                with suppress(FileExistsError):
                    directory = self._root / f"{_DRAFT}{secrets.token_hex(4)}"
                    directory.mkdir(mode=0o700)
                    break
            draft = directory / "fs"
            draft.mkdir()
            draft.chmod(0o755)  # The root directory's mode, where the layer says nothing of it.
            return draft

    def begin(self, lower: Sequence[str]) -> Overlay:
        """A draft that is written through an overlay over `lower` (top layer first), as builds do.

        Volatile: whoever fails starts again. `finish` it before it is recorded.
        """
        stack = (*lower, self._base)
        with _translated("snapshots"):
            while True:
                with suppress(FileExistsError):
                    directory = f"{self._root}/{_DRAFT}{secrets.token_hex(4)}"
                    os.mkdir(directory, 0o700)
                    break
            os.mkdir(f"{directory}/work", 0o700)
            self._make_upper(f"{directory}/fs", os.stat(stack[0]))
        return Overlay(lower=stack, upper=f"{directory}/fs", work=f"{directory}/work", volatile=True)

    def finish(self, overlay: Overlay) -> None:
        """Nothing writes to the draft any more; blocks."""
        _remove_tree(Path(overlay.work))

    def record(
        self, draft: Path, chain_id: str, parent: str, *, size: int, inodes: int, same_files: str = ""
    ) -> bool:
        """Commit a draft. False where the chain id is there already: the draft is the caller's to discard.

        Belongs into the transaction that makes it needed; to be synced when that is committed.
        """
        return bool(
            self._database.execute(
                "INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)",
                (chain_id, parent, draft.parent.name, size, inodes, self._boot, same_files),
            )
        )

    def share_recipe(self, draft: Path, chain_id: str) -> None:
        """Let a committed snapshot have the recipe of a draft of the same layer, unless it has one.

        For the transaction of `record`.
        """
        snapshot = self.find(chain_id)
        if snapshot is None:
            return
        with _translated("snapshots"), suppress(FileExistsError):
            os.link(draft.parent / _RECIPE, self._root / snapshot.directory / _RECIPE)
            self._mark(chain_id)

    def is_committed(self, draft: Path) -> bool:
        """Whether a draft's directory was recorded."""
        rows = self._database.query("SELECT 1 FROM snapshots WHERE directory = ?", (draft.parent.name,))
        return bool(rows)

    async def discard(self, draft: Path) -> None:
        """Remove a draft that was not committed."""
        await self._remove(draft.parent)

    def put_aside(self, draft: Path) -> Path | None:
        """Take a draft away from its place, at once; returns the tree to remove, if there is one."""
        return self._put_aside(draft.parent)

    def forget(self, chain_ids: Iterable[str]) -> list[Path]:
        """Make committed snapshots unknown; returns the directories to `put_aside` once that is committed."""
        drafts = []
        for chain_id in chain_ids:
            snapshot = self.find(chain_id)
            if snapshot is not None:
                self._database.execute("DELETE FROM snapshots WHERE chain_id = ?", (chain_id,))
                drafts.append(self._root / snapshot.directory / "fs")
        return drafts

    # ---- power loss -----------------------------------------------------------------------------

    def unsynced(self) -> list[str]:
        """The directories of what this boot recorded and no sync has seen: to be asked for before one."""
        return [snapshot.directory for snapshot in self.all() if snapshot.boot == self._boot]

    def synced(self, directories: Iterable[str]) -> None:
        """They are on disk."""
        for directory in directories:
            self._database.execute("UPDATE snapshots SET boot = '' WHERE directory = ?", (directory,))

    def doubtful(self) -> list[Committed]:
        """What an earlier boot recorded and never synced, base layers first. For the start."""
        found = [snapshot for snapshot in self.all() if snapshot.boot not in ("", self._boot)]
        return sorted(found, key=lambda snapshot: len(self.lower(snapshot.chain_id)))

    async def renew(self, snapshot: Committed, draft: Path) -> None:
        """Put a fresh draft where a doubtful snapshot lies: images and containers know it by its path.

        A recipe goes with what it was of.
        """
        target = self._root / snapshot.directory
        await self._remove(target)
        with _translated(f"snapshot {snapshot.directory}"):
            draft.parent.rename(target)
        self._mark(snapshot.chain_id)

    def _mark(self, chain_id: str) -> None:
        self._database.execute("UPDATE snapshots SET boot = ? WHERE chain_id = ?", (self._boot, chain_id))

    # ---- active ---------------------------------------------------------------------------------

    def prepare(
        self,
        key: str,
        lower: Sequence[str],
        *,
        volatile: bool = False,
        size: int = 0,
        tmpfs: bool = False,
    ) -> Overlay:
        """Upper and work directories for `key`, over `lower` (top layer first). Idempotent.

        The merged root directory shows the upper one's owner and mode, so it takes them from the top layer.
        `size` bounds them in bytes; with `tmpfs` they are in memory, mounted until the snapshot is removed.
        Raises InvalidParameter where a size cannot be had.
        """
        directory = f"{self._root}/{key}"
        upper, work = f"{directory}/fs", f"{directory}/work"
        stack = (*lower, self._base_of_containers)
        with _translated(f"snapshot {key}"):
            if tmpfs:
                _mount_memory(directory, size)
            if not os.path.isdir(upper):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
                if size and not tmpfs:
                    _limit(directory, size)
                with suppress(FileExistsError):
                    os.mkdir(work, 0o700)
                self._make_upper(upper, os.stat(stack[0]))
        return Overlay(lower=stack, upper=upper, work=work, volatile=volatile, late=tmpfs)

    def _make_upper(self, upper: str, below: os.stat_result) -> None:
        """Made last, and in one step: what is called `fs` is complete."""
        mode = stat.S_IMODE(below.st_mode)
        owned = (below.st_uid, below.st_gid) == (os.geteuid(), os.getegid())
        if owned and not mode & (self._umask | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            os.mkdir(upper, mode)
            return
        fresh = f"{upper}.new"
        with suppress(FileExistsError):
            os.mkdir(fresh)
        os.chown(fresh, below.st_uid, below.st_gid)
        os.chmod(fresh, mode)
        os.rename(fresh, upper)

    async def remove(self, key: str) -> None:
        """Remove an active snapshot. Missing: nothing to do."""
        await self._remove(self._root / key)

    def remove_now(self, key: str) -> None:
        """The same, blocking: for a thread that removes many."""
        aside = self._put_aside(self._root / key)
        if aside is not None:
            _remove_tree(aside)

    async def usage(self, key: str) -> int:
        """Bytes of an active snapshot's own files; 0 where it is missing."""
        return await self._run(_usage, self._root / key / "fs")

    # ---- start ----------------------------------------------------------------------------------

    async def sweep(self, known: Collection[str]) -> None:
        """Remove every active snapshot whose key is not in `known`, and what was being removed at a crash."""
        keep = set(known)
        doomed = [
            entry
            for entry in self._entries()
            if not entry.name.startswith(_DRAFT) and entry.name not in keep and entry.name != _BASE
        ]
        self._remove_later(doomed)

    def sweep_committed(self) -> None:
        """Remove drafts that were never committed. For the start, before any is made."""
        keep = {name for (name,) in self._database.query("SELECT directory FROM snapshots")}
        self._remove_later(
            entry for entry in self._entries() if entry.name.startswith(_DRAFT) and entry.name not in keep
        )

    # ---- inside ---------------------------------------------------------------------------------

    def _make_base(self, kind: str, *, containers: bool = False) -> str:
        """The lowest directory: without it each start would copy /etc up to have something to mount over."""
        base = self._root / _BASE / kind
        if not base.is_dir():
            fresh = self._root / _BASE / f"{kind}.new"
            for name in _BASE_DIRECTORIES:
                (fresh / name).mkdir(parents=True, exist_ok=True)
            for name in _BASE_FILES:
                (fresh / name).touch()
            if containers:
                (fresh / _IN_CONTAINERS).touch()
                (fresh / _IN_CONTAINERS).chmod(0o755)
                with suppress(FileExistsError):
                    (fresh / _MOUNT_TABLE).symlink_to("/proc/mounts")
            fresh.rename(base)
        return str(base)

    def _entries(self) -> list[Path]:
        with _translated(f"snapshots {self._root}"):
            return list(self._root.iterdir())

    async def _remove(self, directory: Path) -> None:
        """Rename first, so that the name is free at once and a crash leaves plain garbage."""
        aside = self._put_aside(directory)
        if aside is not None:
            await asyncio.shield(self._run(_remove_tree, aside))

    def _remove_later(self, directories: Iterable[Path]) -> None:
        """Put them aside now; the trees go in their own time, and at the next start where they did not."""
        for directory in directories:
            aside = self._put_aside(directory)
            if aside is not None:
                removing = self._run(_remove_tree, aside)
                self._removing.add(removing)
                removing.add_done_callback(self._removed)

    def _removed(self, removing: "asyncio.Future[None]") -> None:
        self._removing.discard(removing)
        if not removing.cancelled() and (failure := removing.exception()) is not None:
            log.warning("a snapshot that nothing needs could not be removed: %s", failure)

    async def settle(self) -> None:
        """Wait for what the sweeps found to be gone."""
        if self._removing:
            await asyncio.wait(self._removing)

    def _put_aside(self, directory: Path) -> Path | None:
        if directory.name.startswith(_REMOVED):
            return directory
        aside = self._root / f"{_REMOVED}{secrets.token_hex(8)}"
        with _translated(f"snapshot {directory.name}"):
            try:
                directory.rename(aside)
            except FileNotFoundError:
                return None
            except OSError as exc:
                # One that is in memory.
                if exc.errno != errno.EBUSY or not proa_native.unmount(str(directory)):
                    raise
                directory.rename(aside)
        return aside

    def _run(self, call: Callable[[Path], _T], path: Path) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call, path)


def _mount_memory(directory: str, size: int) -> None:
    """A tmpfs at `directory`, unless it is there."""
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if not proa_native.is_mounted(directory):
        options = ["mode=0700", *([f"size={size}"] if size else [])]
        proa_native.mount_filesystem(directory, "tmpfs", "tmpfs", options)


def _limit(directory: str, size: int) -> None:
    if not proa_native.has_project_quota(directory):
        raise InvalidParameter(
            "--storage-opt size is supported only for overlay over xfs or ext4 with 'pquota' mount option"
        )
    proa_native.limit_directory(directory, size)


def _usage(directory: Path) -> int:
    try:
        return proa_native.disk_usage(str(directory))[0]
    except FileNotFoundError:
        return 0
    except OSError as exc:
        raise System(str(exc)) from exc


def _remove_tree(directory: Path) -> None:
    with suppress(OSError):  # what cannot be bounded has no limit to lift
        if proa_native.has_project_quota(str(directory)):
            proa_native.limit_directory(str(directory), 0)
    with _translated(f"snapshot {directory.name}"):
        proa_native.remove_tree(str(directory))

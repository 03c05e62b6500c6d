"""proa's native core: what happens between a request and the kernel.

Failures of system calls are OSError with errno and "operation path: reason"; bad input is ValueError.
"""

from collections.abc import Callable, Sequence
from typing import Self, final

__all__ = [
    "ByteFeed",
    "ContainerFiles",
    "Expression",
    "FileDigests",
    "FileTree",
    "LayerUnpacker",
    "LogReader",
    "Probes",
    "ReceivedTree",
    "UnpackedLayer",
    "__version__",
    "cgroup_controllers",
    "cgroup_freeze",
    "cgroup_kill",
    "cgroup_list",
    "cgroup_pids",
    "cgroup_remove",
    "cgroup_stats",
    "cgroup_update",
    "cgroup_version",
    "changes",
    "compile_seccomp",
    "compress_layer",
    "copy_files",
    "disk_usage",
    "has_project_quota",
    "inherit_directories",
    "is_mounted",
    "keeper_main",
    "limit_directory",
    "make_layer_directory",
    "mount_bind",
    "mount_filesystem",
    "network_stats",
    "pack_layer",
    "read_in_layers",
    "read_in_process_root",
    "remove_tree",
    "sealed_program",
    "split_archive",
    "split_frames",
    "sync_file_system",
    "unmount",
    "unpack_layer",
]

__version__: str

# ---- keeper -------------------------------------------------------------------------------------

def keeper_main(exec_root: str, *, ready_fd: int = -1) -> None:
    """Run the keeper of `exec_root` until it is told to shut down; never runs Python again before that.

    Listens on `<exec_root>/keeper.sock`; one byte goes to `ready_fd` when it does. Raises OSError
    EADDRINUSE where another keeper holds `<exec_root>/keeper.lock`.
    """

def sealed_program(path: str) -> int:
    """A descriptor, the caller's, of a program on a read-only mount that is attached nowhere.

    Executed as /proc/self/fd/N, its file is out of reach of whoever finds it behind /proc/PID/exe.
    """

# ---- volumes ------------------------------------------------------------------------------------

def mount_filesystem(
    target: str, kind: str, source: str, options: Sequence[str], *, attributes: int = 0
) -> None:
    """Mount a file system over the directory `target`, in the caller's mount namespace, to stay.

    `options` are the file system's own, and those of every superblock (`ro`, `sync`); `attributes` is a sum
    of
    MOUNT_ATTR_*. A `source` that is a regular file gets a loop device, which goes with the mount.
    """

def mount_bind(target: str, source: str, *, recursive: bool = False, attributes: int = 0) -> None:
    """Bind what is at `source` over the directory `target`; `attributes` go for mounts below, too."""

def unmount(target: str) -> bool:
    """Unmount all that is mounted on the directory `target`; what is in use goes with its last user.

    False where nothing is.
    """

def is_mounted(target: str) -> bool:
    """Whether something is mounted on the directory `target`; False where that is missing."""

def has_project_quota(directory: str) -> bool:
    """Whether its file system (ext4, xfs) holds directories to a size."""

def limit_directory(directory: str, size: int) -> None:
    """Bound what the directory, empty yet, may come to hold, in bytes; 0 lifts the limit."""

# ---- confinement --------------------------------------------------------------------------------

def compile_seccomp(profile: bytes | None, capabilities: int, *, architecture: str = "") -> bytes:
    """A classic BPF program (8 bytes an instruction) of a Docker JSON profile; None: the built-in default.

    `capabilities` (bit mask of the bounding set) and this host's kernel and architecture decide its
    conditional rules. Raises ValueError for a malformed profile.
    """

def cgroup_version() -> str:
    """`1`, `2` or `hybrid`, of the hierarchies mounted at /sys/fs/cgroup."""

def cgroup_controllers() -> list[str]:
    """Controllers that can be used: memory, cpu, cpuset, pids, blkio or io, devices, freezer, ..."""

def cgroup_update(path: str, resources: bytes) -> None:
    """Write the limits (a MessagePack proa.schema.plan.Resources) of a cgroup that exists.

    Memory and swap are written in the order the kernel accepts; all or nothing.
    """

def cgroup_freeze(path: str, frozen: bool) -> None:
    """Freeze or thaw the cgroup and wait (bounded, in the kernel) until it is so."""

def cgroup_pids(path: str) -> list[int]:
    """Processes of the cgroup and the ones below it, ascending."""

def cgroup_kill(path: str) -> None:
    """SIGKILL every process of the cgroup; a frozen one is thawed. Missing cgroup: nothing to do."""

def cgroup_remove(path: str) -> None:
    """Remove the cgroup (and those below it) from every hierarchy. Missing: nothing to do."""

def cgroup_list(parent: str) -> list[str]:
    """Names of the cgroups right below `parent`, over all hierarchies: what a reconcile compares."""

def cgroup_stats(path: str) -> dict[str, object]:
    """One sample in Docker's shape: keys cpu_stats, memory_stats, pids_stats, blkio_stats as in
    proa.schema.stats (JSON names, without precpu and networks)."""

def network_stats(pid: int) -> dict[str, dict[str, int]]:
    """rx_bytes, rx_packets, rx_errors, rx_dropped, tx_* by interface of the process's network namespace."""

# ---- rootfs reads -------------------------------------------------------------------------------

def read_in_layers(
    layers: Sequence[str], paths: Sequence[str], *, limit: int = 1 << 20
) -> list[bytes | None]:
    """Files as a container with these layer directories (top first) would see them; None where missing.

    Symlinks resolve inside the root. Raises OSError EFBIG past `limit` bytes.
    """

def read_in_process_root(pid: int, paths: Sequence[str], *, limit: int = 1 << 20) -> list[bytes | None]:
    """The same, in the root of a running process."""

# ---- layers -------------------------------------------------------------------------------------

@final
class UnpackedLayer:
    """What one pass over a layer found."""

    @property
    def digest(self) -> str: ...
    @property
    def diff_id(self) -> str: ...
    @property
    def compressed_size(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def implied(self) -> list[bytes]:
        """Directories that the archive has no entry for, the root (empty) among them."""

    @property
    def usage(self) -> tuple[int, int]:
        """(apparent bytes, inodes) of what was unpacked, as `disk_usage` counts; 0 where it was packed."""

    @property
    def recipe(self) -> bool:
        """Whether its directory has a recipe beside it: `pack_layer`."""

@final
class Expression:
    """A regular expression in Go's syntax, without \\p; a search takes time in proportion to the lengths."""

    def __new__(cls, text: str) -> Self:
        """Raises ValueError for a malformed one and for one that is large when compiled."""

    def found_in(self, text: str) -> bool: ...

@final
class ByteFeed:
    """Bytes on their way from the loop to a native call in another thread, about a MiB of them at most.

    One call reads it (`unpack_layer`, `split_archive`); when that ends, however, so does the feed.
    """

    def __new__(cls) -> Self: ...
    def try_write(self, chunk: bytes) -> bool:
        """False where there is no room: try again when `fileno` is readable. Raises BrokenPipeError."""

    def fileno(self) -> int:
        """An eventfd: there may be room again, a lent socket is back, or the reader has ended."""

    def lend(self, fd: int, phase: str, remaining: int, unparsed: bytes) -> None:
        """Have the reader take the plain middle of an HTTP body from a socket itself.

        `phase` is what comes next: `fixed` (the rest of a body of known length), `chunk-size`, `chunk-data`
        or `chunk-end`; `remaining` the bytes left of the body or chunk; `unparsed` what was read already. The
        fd is duplicated. Raises OSError.
        """

    def reclaim(self) -> tuple[str, int, bytes] | None:
        """End that: (phase, remaining, unparsed) as they are now. None while the reader is at it."""

    def end(self) -> None:
        """No more will come."""

    def close(self) -> None:
        """It was given up: a reader that waits fails. Idempotent."""

def unpack_layer(
    source: int | ByteFeed, target: str, *, overlay: bool = True, copy_fd: int = -1
) -> UnpackedLayer:
    """Unpack a layer (gzip, zstd or plain tar, told apart by content) into the empty directory `target`.

    One pass, interpreter released: digest, decompress, diff_id, unpack. With `overlay`, whiteouts become
    overlayfs's (0/0 device, trusted.overlay.opaque); without, they are applied. An fd stays the
    caller's, may be a pipe, and is read to its end; its bytes as they came are written to `copy_fd`, too.
    Raises ValueError for a malformed archive, OSError as the kernel had it (ENOSPC); the target is left for
    the caller to remove.
    """

@final
class LayerUnpacker:
    """`unpack_layer` for bytes that come in pieces: one thread unpacks what the calls hand over.

    About a MiB waits in the queue, whatever comes. A failure to unpack is raised by the first call after it
    and by each one then, as `unpack_layer` raises it. Any thread may call; abort ends another's waiting
    write. An object that is dropped has been aborted. After finish or abort, or both, no thread is left.
    """

    def __new__(cls, target: str, *, overlay: bool = True, copy_fd: int = -1) -> Self:
        """`copy_fd`: a blocking fd, the caller's, that the bytes go to as they came, at its offset."""

    def write(self, chunk: bytes) -> None:
        """Hand over the next bytes; blocks while the queue is full: for the executor."""

    def try_write(self, chunk: bytes) -> bool:
        """The same without blocking. False where there is no room: try again when `fileno` is readable."""

    def fileno(self) -> int:
        """An eventfd, readable when there may be room again or the unpacking has failed."""

    def write_file(self, fd: int, size: int) -> None:
        """Hand over the first `size` bytes of a file, which `copy_fd` has already; blocks.

        For what an earlier attempt left: the download goes on after it. The fd's offset is left alone.
        Raises ValueError where the file is shorter.
        """

    def finish(self) -> UnpackedLayer:
        """No more will come: unpack the rest; blocks."""

    def abort(self) -> None:
        """Stop; blocks for the piece at hand. What is on disk stays. Idempotent, and nothing after finish."""

def split_archive(
    source: int | ByteFeed,
    directory: str,
    begin: Callable[[bytes], str | None],
    found: Callable[[bytes, str, bytes, int, int, UnpackedLayer | Exception | None], object],
) -> None:
    """Split the outer archive of `docker load` (gzip, zstd or plain) into files called by number.

    Both are called in this thread, in the archive's order, and what they raise ends the pass. `begin(path)`,
    of a file that begins as a layer does, gives the empty directory that it is unpacked into in the same
    pass, or None. One that is a plain tar gets a recipe beside that directory (see `pack_layer`) and no
    file of its own, unless it replaces its own files. `found(path, kind, link, number, size, layer)` is of
    each member that is complete; `kind` is file, symlink or hardlink, `layer` what unpacking it gave or
    raised. Names are only reported, never used as paths. Raises as `unpack_layer`.
    """

def pack_layer(
    directory: str, target_fd: int, *, compression: str = "none", overlay: bool = True
) -> UnpackedLayer:
    """The reverse: a directory to a tar on `target_fd`, sorted, whiteouts from overlayfs's form.

    One with a recipe beside it (`tar`, which `split_archive` leaves) gives the tar that it came as: who asks
    compares the digest. Raises ValueError where the files are not what they were.

    `compression`: none, gzip or zstd.
    """

def compress_layer(
    source_fd: int, target_fd: int, *, compression: str = "gzip", level: int | None = None
) -> UnpackedLayer:
    """A layer in whatever compression, from the fd's offset, in another one on `target_fd`; blocks.

    `compression`: none, gzip or zstd, `level` its own number. All processors work on it. The same bytes give
    the same bytes, on however many processors. `entries` is 0 and `implied` empty.
    """

def inherit_directories(directory: str, lower: Sequence[str], paths: Sequence[bytes]) -> None:
    """Give directories of a layer the owner, mode and times they have in the layers below (top first).

    For `UnpackedLayer.implied`: overlayfs shows the uppermost layer's. What no lower layer has stays.
    """

def disk_usage(directory: str) -> tuple[int, int]:
    """(apparent bytes, inodes) below a directory, hardlinks counted once."""

def remove_tree(directory: str) -> None:
    """Remove a directory tree fd-relative, never through a symlink or a mount. Missing: nothing to do."""

# ---- a container's files ------------------------------------------------------------------------

def changes(upper: str, lower: Sequence[str]) -> list[tuple[int, bytes]]:
    """What an overlay's upper directory changes of the layers below (top first), sorted by path.

    The first is the API's number: 0 modified, 1 added, 2 deleted.
    """

@final
class ContainerFiles:
    """The files of one container, behind one descriptor of its root; paths are the container's.

    Paths resolve inside that root, whatever the container does meanwhile. `packed` is the container's
    MessagePack plan. A bad archive is a ValueError, what the kernel refuses an OSError.
    """

    @staticmethod
    def running(pid: int, packed: bytes) -> ContainerFiles:
        """Those that the process sees, with all that is mounted there."""

    @staticmethod
    def stopped(packed: bytes) -> ContainerFiles:
        """Its root file system with its binds and volumes, mounted for the occasion."""

    def stat(self, path: str) -> tuple[int, int, int, str]:
        """(size, st_mode, mtime in nanoseconds, where a symlink at the end leads) of what is at `path`."""

    def place(self, path: str) -> tuple[bool, bool]:
        """(takes no writes, is in the root file system itself) of the directory at `path`.

        FileNotFoundError, NotADirectoryError, and PermissionError in the kernel's own file systems.
        """

    def send(self, path: str, target_fd: int) -> None:
        """Write a tar of `path` to the descriptor, under the name that it ends in."""

    def export(self, target_fd: int) -> None:
        """Write a tar of the root file system alone."""

    def receive(
        self,
        path: str,
        source_fd: int,
        *,
        keep_kinds: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Unpack an archive, read to its end, into the directory at `path`.

        `keep_kinds`: no directory gives way to something else, nor the reverse. `owner`: of everything,
        instead of what the archive says.
        """

# ---- files of builds ----------------------------------------------------------------------------

@final
class FileDigests:
    """Digests of files by inode, size and times, kept in a file from one build to the next."""

    def __new__(cls, path: str) -> Self: ...
    def save(self) -> None:
        """Write what was learnt since, if anything."""

@final
class FileTree:
    """A tree of files, looked at once: what COPY takes from."""

    @staticmethod
    def context(directory: str, ignore: Sequence[str]) -> FileTree:
        """A directory of the host without what the patterns leave out; owners do not count in it."""

    @staticmethod
    def layers(lower: Sequence[str]) -> FileTree:
        """The layers of a stage, top first, as one."""

    def digest(
        self, sources: Sequence[str], exclude: Sequence[str], parents: bool, known: FileDigests
    ) -> str:
        """64 hex digits for all that a copy of the sources takes over; times have no part in it.

        With `parents`, what is excluded is named from the root, else what is in a source from there.
        Raises OSError ENOENT, whose text ends in the path, for a source that finds nothing.
        """

    def heads(self, source: str, length: int) -> list[tuple[str, bytes]]:
        """(path, first bytes) of each regular file that a source means."""

    def open(self, path: str) -> int:
        """A descriptor, the caller's, of a regular file by a path of `heads`."""

def copy_files(
    layer: tuple[Sequence[str], str, str],
    target: str,
    sources: Sequence[tuple[FileTree, Sequence[str]]],
    *,
    inline: Sequence[tuple[str, bytes, int, int]] = ...,
    owner: tuple[int, int] | None = None,
    mode: str = "",
    parents: bool = False,
    exclude: Sequence[str] = ...,
    epoch: int | None = None,
) -> None:
    """COPY into a layer: (lower directories top first, upper, work); blocks, on all processors.

    `target` is absolute, with a slash at its end for a directory. `inline` files are (name, content, mode,
    seconds since 1970). `owner` None keeps the sources'. No time passes `epoch`. Raises ValueError for what
    the Dockerfile got wrong, OSError.
    """

def make_layer_directory(layer: tuple[Sequence[str], str, str], path: str, owner: tuple[int, int]) -> None:
    """A directory of a layer with those above it, where missing."""

def sync_file_system(directory: str) -> None:
    """Let everything written to the file system that a directory is on reach the disk; blocks for as long."""

# ---- BuildKit's protocol ------------------------------------------------------------------------

def split_frames(buffer: bytes, largest: int) -> tuple[list[tuple[int, int, int, bytes]], int]:
    """(kind, flags, stream, payload) of each whole frame of HTTP/2, and how many bytes they were.

    Frames of data of one stream that follow each other come as one. Raises ValueError for one whose payload
    is larger than `largest`.
    """

@final
class ReceivedTree:
    """A directory of a client's on its way, as fsutil sends it; its calls block.

    `records` is a file beside the tree that says what it has, for as long as that is so. Raises OSError, and
    ValueError for what no directory can have.
    """

    def __new__(cls, target: str, records: str) -> Self: ...
    def take(self, data: bytes) -> bytes:
        """Bytes of the call as they come, and what is to be sent for them."""

    def finish(self) -> None:
        """What is told of all that came: links, directories' modes and times; then it is recorded."""

    @property
    def whole(self) -> bool:
        """Everything was told, and every file that was asked for has come."""

    @property
    def bytes(self) -> int:
        """Of files that came."""

    @property
    def size(self) -> int:
        """Of all regular files that there are, whatever the client tells of it."""

    @property
    def failure(self) -> str | None:
        """What the client says that has gone wrong on its side."""

# ---- logs ---------------------------------------------------------------------------------------

@final
class LogReader:
    """Reads a json-file log and its rotated files in order, following rotation.

    `since_ns`/`until_ns` are Unix nanoseconds, 0 for unset; `tail` counts lines, -1 for all.
    Chunks come ready for the wire: multiplexed frames or raw, with timestamps if asked for; `details` come
    before each entry, after its time.
    """

    def __new__(
        cls,
        path: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int = 0,
        until_ns: int = 0,
        tail: int = -1,
        timestamps: bool = False,
        details: str = "",
        multiplexed: bool = True,
        follow: bool = False,
    ) -> Self: ...
    def read(self, limit: int = 1 << 16) -> bytes:
        """Up to about `limit` bytes; empty at the end of what is there now (or for good past until_ns)."""

    def fileno(self) -> int:
        """An inotify fd that is readable when there may be more (follow only)."""

    def close(self) -> None: ...

# ---- probes -------------------------------------------------------------------------------------

@final
class Probes:
    """Containers that are asked over the network, from within their own, how they are; again and again.

    A thread does all of it. It starts with the first watch, in the calling thread's network namespace, which
    must be the host's.
    """

    def __new__(cls) -> Self: ...
    def watch(
        self,
        pid: int,
        addresses: Sequence[str],
        request: bytes,
        *,
        interval_ns: int,
        start_interval_ns: int,
        start_ends_ns: int,
        timeout_ns: int,
        starting: bool,
        late: str,
    ) -> int:
        """Ask the container of this init from now on; the number it goes by.

        `addresses` (`127.0.0.1:80`, `[::1]:80`) are tried in order. Without a `request` a connection is a
        success, with one an HTTP status from 200 to 399. `interval_ns` lies between probes and before the
        first; `start_interval_ns` does until the first success (`starting`: there was none) as long as Unix
        time is before `start_ends_ns`. `late` is the output of one that took longer than `timeout_ns`.
        Raises ValueError, OSError.
        """

    def unwatch(self, number: int) -> None:
        """Ask no more; of what is under way nothing is told. To be called when the init has ended."""

    def take(self, number: int) -> list[tuple[int, int, int, str]]:
        """(start, end, exit code, output) since the last call, oldest first; Unix nanoseconds.

        Of successes that follow a success only the last five.
        """

    def news(self) -> list[int]:
        """Who has results that are more than successes after a success. Never blocks."""

    def fileno(self) -> int:
        """A descriptor, readable when there is news."""

    def close(self) -> None:
        """End the thread."""

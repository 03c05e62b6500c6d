"""Images and filesystems as archives: load, save, import, export, commit.

Source: the Docker Engine API, v1.51; the observed requests of docker 28.
"""

import os
import stat

from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.pull import as_json, show_progress
from proa.cli.streams import write_all
from proa.cli.table import show
from proa.cli.transport import client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Body(Protocol):
        """Bytes that come one piece after the other."""

        def chunks(self) -> Iterator[bytes]: ...


CHUNK = 1 << 18

_PLATFORM = 'Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")'

_LOAD_FLAGS = (
    ("input", "i", "string", "", "Read from tar archive file, instead of STDIN"),
    ("platform", "", "string", "", f"Load only the given platform variant. {_PLATFORM}"),
    ("quiet", "q", "bool", "", "Suppress the load output"),
)

_SAVE_FLAGS = (
    ("output", "o", "string", "", "Write to a file, instead of STDOUT"),
    ("platform", "", "string", "", f"Save only the given platform variant. {_PLATFORM}"),
)

_IMPORT_FLAGS = (
    ("change", "c", "list", "", "Apply Dockerfile instruction to the created image"),
    ("message", "m", "string", "", "Set commit message for imported image"),
    ("platform", "", "string", "", "Set platform if server is multi-platform capable"),
)

_COMMIT_FLAGS = (
    ("author", "a", "string", "", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
    ("change", "c", "list", "", "Apply Dockerfile instruction to the created image"),
    ("message", "m", "string", "", "Commit message"),
    ("pause", "p", "bool", "true", "Pause container during commit"),
)


def _chunks(path: str) -> "Iterator[bytes]":
    """A file's bytes, or standard input's for `-`. Raises Failure."""
    try:
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Failure(f"open {path}: {(exc.strerror or '').lower()}") from None
    try:
        while data := os.read(fd, CHUNK):
            yield data
    except OSError as exc:
        raise Failure(f"read {path}: {(exc.strerror or '').lower()}") from None
    finally:
        if fd:
            os.close(fd)


def load(parsed: Parsed) -> int:
    """`proa load`."""
    path = parsed.get("input") or "-"
    if path == "-" and os.isatty(0):
        raise Failure("requested load from stdin, but stdin is empty")
    if path != "-" and not os.path.isfile(path) and not os.path.exists(path):
        raise Failure(f"open {path}: no such file or directory")
    quiet = parsed.flag("quiet") or not os.isatty(1)
    api = client(parsed.options)
    wanted = query(quiet="1" if quiet else "0", platform=as_json(parsed.get("platform")))
    response = api.upload("POST", f"/images/load{wanted}", _chunks(path))
    if "json" in response.headers.get("content-type", ""):
        show_progress(response, 1)
    else:
        _copy(response, 1)
    return 0


def save(parsed: Parsed) -> int:
    """`proa save`."""
    output = _output(parsed)
    api = client(parsed.options)
    platform = as_json(parsed.get("platform"))
    if len(parsed.args) == 1:
        path = f"/images/{quote(parsed.args[0])}/get{query(platform=platform)}"
    else:
        path = "/images/get?" + "&".join(f"names={quote(name)}" for name in parsed.args)
        path += f"&platform={quote(platform)}" if platform else ""
    write_body(api.request("GET", path), output)
    return 0


def export(parsed: Parsed) -> int:
    """`proa export`."""
    output = _output(parsed)
    api = client(parsed.options)
    write_body(api.request("GET", f"/containers/{quote(parsed.args[0])}/export"), output)
    return 0


def _output(parsed: Parsed) -> str:
    output: str = parsed.get("output")
    verb = parsed.command.path
    if not output and os.isatty(1):
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if output and (reason := _unwritable(output)):
        raise Failure(f"failed to {verb} {'image' if verb == 'save' else 'container'}: {reason}")
    return output


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link directly"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device file"),
    (stat.S_ISBLK, "a block device file"),
)


def _unwritable(path: str) -> str:
    """Why a file that is complete cannot be put there, in Docker's words; empty where it can."""
    folder = os.path.dirname(path) or "."
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            return f"invalid output path: stat {folder}: not a directory"
    except OSError as exc:
        return f"invalid output path: stat {folder}: {(exc.strerror or '').lower()}"
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return ""
    return next((f"cannot write to {words}" for is_kind, words in _KINDS if is_kind(mode)), "")


def write_body(response: "Body", path: str) -> None:
    """The body to stdout, or to a file that only appears when it is complete; into what is not a file."""
    if not path:
        _copy(response, 1)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        _write_into(response, path)
        return
    partial = f"{path}.{os.getpid()}.partial"
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise Failure(f"open {path}: {(exc.strerror or '').lower()}") from None
    try:
        _copy(response, fd)
        os.rename(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    finally:
        os.close(fd)


def _write_into(response: "Body", path: str) -> None:
    """A device or a pipe stays what it is."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Failure(f"open {path}: {(exc.strerror or '').lower()}") from None
    try:
        _copy(response, fd)
    finally:
        os.close(fd)


def _copy(response: "Body", fd: int) -> None:
    try:
        for data in response.chunks():
            write_all(fd, data)
    except Failure as exc:
        if isinstance(exc.__cause__, BrokenPipeError):
            raise BrokenPipeError from None
        raise


def import_(parsed: Parsed) -> int:
    """`proa import`."""
    from proa.cli.reference import check, split

    source = parsed.args[0]
    target = parsed.args[1] if len(parsed.args) > 1 else ""
    repository, tag = "", ""
    if target:
        check(target)
        repository, tag, digest = split(target)
        repository += f"@{digest}" if digest else ""  # for the daemon to refuse
    remote = source.startswith(("http://", "https://"))
    if not remote and source != "-" and not os.path.exists(source):
        raise Failure(f"open {source}: no such file or directory")
    wanted = query(
        fromSrc=source if remote else "-",
        message=parsed.get("message"),
        platform=parsed.get("platform"),
        repo=repository,
        tag=tag,
    )
    wanted += "".join(f"&changes={quote(change)}" for change in parsed.get("change", ()))
    api = client(parsed.options)
    response = api.upload("POST", f"/images/create{wanted}", iter(()) if remote else _chunks(source))
    show_progress(response, 1)
    return 0


def commit(parsed: Parsed) -> int:
    """`proa commit`."""
    from proa.cli.reference import check, full_repository, split

    repository, tag = "", ""
    if len(parsed.args) > 1:
        check(parsed.args[1])
        repository, tag, digest = split(parsed.args[1])
        if digest:
            raise Failure("refusing to create a tag with a digest reference")
        repository, tag = full_repository(repository), tag or "latest"
    wanted = f"?author={quote(parsed.get('author'))}&comment={quote(parsed.get('message'))}&"
    wanted += query(
        container=parsed.args[0],
        pause=None if parsed.get("pause", True) else "0",
        repo=repository,
        tag=tag,
    )[1:]
    wanted += "".join(f"&changes={quote(change)}" for change in parsed.get("change", ()))
    show(client(parsed.options).call("POST", f"/commit{wanted}")["Id"] + "\n")
    return 0


COMMANDS = {
    "load": Command(
        "load",
        "[OPTIONS]",
        "Load an image from a tar archive or STDIN",
        load,
        _LOAD_FLAGS,
        maximum=0,
        aliases="image load, load",
    ),
    "save": Command(
        "save",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        save,
        _SAVE_FLAGS,
        minimum=1,
        aliases="image save, save",
    ),
    "import": Command(
        "import",
        "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        "Import the contents from a tarball to create a filesystem image",
        import_,
        _IMPORT_FLAGS,
        minimum=1,
        aliases="image import, import",
    ),
    "export": Command(
        "export",
        "[OPTIONS] CONTAINER",
        "Export a container's filesystem as a tar archive",
        export,
        (("output", "o", "string", "", "Write to a file, instead of STDOUT"),),
        minimum=1,
        maximum=1,
        aliases="container export, export",
    ),
    "commit": Command(
        "commit",
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        "Create a new image from a container's changes",
        commit,
        _COMMIT_FLAGS,
        minimum=1,
        maximum=2,
        aliases="container commit, commit",
    ),
}

"""Where a build's files are, and how they reach the daemon.

    a directory, daemon here       its path, in proa's own body: nothing is copied
    a directory, daemon elsewhere  a tar of what .dockerignore leaves
    -                              a tar as it is, or a Dockerfile alone
    a URL                          the daemon fetches it

Where a tar is the body, what only proa's own body could carry is in a header.

Source: the documentation of `docker build`, "Build context".
"""

import os

from proa.cli.environment import absolute
from proa.cli.failure import Failure
from proa.cli.flags import Parsed
from proa.cli.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PROA_BUILD = "application/vnd.proa.build.v1+json"
TAR = "application/x-tar"

_CHUNK = 1 << 18
_HEADER_LIMIT = 48 << 10
_WEB = ("http://", "https://")
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/", "gitlab.com/")
_ARCHIVES = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class Context:
    """The body of the request, and what its query says of it."""

    __slots__ = ("body", "content_type", "header", "query")

    def __init__(
        self, body: "Iterator[bytes]", content_type: str, query: dict[str, str], header: str = ""
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.query = query
        self.header = header


def context_of(parsed: Parsed, own: "dict[str, Any]", *, local: bool) -> Context:
    """The context that the command line names; `own` are the options that only proa's body carries.

    `local` is whether the daemon sees this host's files. Raises Failure.
    """
    source, file = parsed.args[0], parsed.get("file")
    if not local:
        _refuse_paths(own)
    if source == "-":
        if file == "-":
            raise Failure("ERROR: invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(file, own)
    if os.path.isdir(source):
        return _local(source, file, own) if local else _sent(source, file, own)
    if source.startswith(_REMOTE):
        return _remote(source, file, own)
    raise Failure(f'ERROR: unable to prepare context: path "{source}" not found')


def _own(body: "dict[str, Any]", query: dict[str, str]) -> Context:
    return Context(iter((encode(body),)), PROA_BUILD, query)


def _local(source: str, file: str, own: "dict[str, Any]") -> Context:
    body = {**own, "Context": absolute(source)}
    if file == "-":
        body["DockerfileText"] = _text(_stdin())
    elif file:
        body["DockerfilePath"] = file if file.startswith(_WEB) else absolute(file)
    return _own(body, {})


def _remote(url: str, file: str, own: "dict[str, Any]") -> Context:
    if file == "-":
        return _own({**own, "DockerfileText": _text(_stdin())}, {"remote": url})
    if file.startswith(_WEB):
        return _own({**own, "DockerfilePath": file}, {"remote": url})
    return _own(own, {"remote": url, "dockerfile": file})


def _from_stdin(file: str, own: "dict[str, Any]") -> Context:
    if os.isatty(0):
        raise Failure("ERROR: failed to read the build context: standard input is a terminal")
    parts = _stdin()
    start = b""
    while len(start) < 512 and (part := next(parts, b"")):
        start += part
    if not start:
        raise Failure("ERROR: failed to peek context header from STDIN: EOF")
    if _is_archive(start):
        if file.startswith(_WEB):
            own = {**own, "DockerfilePath": file}
            file = ""
        return Context(_after(start, parts), TAR, {"dockerfile": file}, _header(own))
    if file:
        raise Failure("ERROR: ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    return _own({**own, "DockerfileText": _text(_after(start, parts))}, {})


def _sent(source: str, file: str, own: "dict[str, Any]") -> Context:
    from proa.cli.build_tar import context_tar

    if file.startswith(_WEB):
        own = {**own, "DockerfilePath": file}
        file = ""
    body, name = context_tar(source, file, b"".join(_stdin()) if file == "-" else None)
    return Context(body, TAR, {"dockerfile": name}, _header(own))


def _header(own: "dict[str, Any]") -> str:
    import binascii

    text = binascii.b2a_base64(encode(own), newline=False).decode().replace("+", "-").replace("/", "_")
    if len(text) > _HEADER_LIMIT:
        raise Failure("ERROR: the secrets are too large to go beside a context that is an archive")
    return f"X-Proa-Build: {text}\r\n"


def _refuse_paths(own: "dict[str, Any]") -> None:
    """What names files of this host means nothing to a daemon elsewhere."""
    if "Ssh" in own:
        raise Failure("ERROR: --ssh needs a daemon on this host")
    for cache in (*own.get("CacheFrom", ()), *own.get("CacheTo", ())):
        if cache.get("type") == "local":
            raise Failure("ERROR: a local cache needs a daemon on this host")
    for name, value in own.get("Contexts", {}).items():
        if value.startswith("/"):
            raise Failure(f"ERROR: --build-context {name}: a directory needs a daemon on this host")


def _is_archive(start: bytes) -> bool:
    return start.startswith(_ARCHIVES) or start[257:262] == b"ustar" or _is_old_tar(start)


def _is_old_tar(start: bytes) -> bool:
    """A header of before POSIX: only its checksum tells."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _stdin() -> "Iterator[bytes]":
    while data := os.read(0, _CHUNK):
        yield data


def _after(start: bytes, parts: "Iterator[bytes]") -> "Iterator[bytes]":
    yield start
    yield from parts


def _text(parts: "Iterator[bytes]") -> str:
    return b"".join(parts).decode("utf-8", "replace")

"""Contexts as archives: a tar (or, to be read, a zip) of meta.json and tls/ENDPOINT/FILE.

An archive comes from elsewhere: only these names are taken, and none leads out of its place.
Source: the archives that docker 28 writes and takes.
"""

import io
import sys
import tarfile

from proa.cli.context_store import Context
from proa.cli.failure import Failure
from proa.cli.jsontext import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_META = "meta.json"
_TLS = "tls/"
_LARGEST = 10 << 20
"""Bytes of an archive, and of what is in it; Docker's bound."""
_TOO_LARGE = "read exceeds the defined limit"
_ZIP = b"PK\x03\x04"


def pack(context: Context) -> bytes:
    """A context as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, _META, 0o644, encode(context.meta))
        _add(tar, "tls", 0o700, None)
        for endpoint, files in sorted(context.tls.items()):
            _add(tar, f"{_TLS}{endpoint}", 0o700, None)
            for name, content in files.items():
                _add(tar, f"{_TLS}{endpoint}/{name}", 0o600, content)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, mode: int, content: bytes | None) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content or b""))


def read(source: str) -> bytes:
    """The bytes of a file, or of stdin for `-`. Raises Failure."""
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(_LARGEST + 1)
    except OSError as exc:
        raise Failure(f"open {source}: {(exc.strerror or '').lower()}") from None
    if len(data) > _LARGEST:
        raise Failure(_TOO_LARGE)
    return data


def unpack(data: bytes) -> Context:
    """The context in an archive. Raises Failure for anything that is not one."""
    meta: dict[str, object] | None = None
    tls: dict[str, dict[str, bytes]] = {}
    for name, content in _zipped(data) if data.startswith(_ZIP) else _tarred(data):
        _check(name)
        if name == _META:
            meta = _parsed(content)
        else:
            endpoint, slash, file = name.removeprefix(_TLS).partition("/")
            if not slash or "/" in file:
                raise Failure("archive format is invalid")
            tls.setdefault(endpoint, {})[file] = content
    if meta is None:
        raise Failure("invalid context: no metadata found")
    return Context(meta, tls)


def _check(name: str) -> None:
    if name != _META and not name.startswith(_TLS):
        raise Failure(f"{name}: unexpected context file")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise Failure(f"{name}: unexpected path format")
    if "\\" in name or "\0" in name:
        raise Failure(f"{name}: unexpected '\\' in path")


def _parsed(content: bytes) -> "dict[str, object]":
    try:
        found = decode(content)
    except ValueError as exc:
        raise Failure(f"invalid context: {_META}: {exc}") from None
    if not isinstance(found, dict) or not isinstance(found.get("Endpoints"), dict):
        raise Failure(f"invalid context: {_META} describes no endpoints")
    return found


def _tarred(data: bytes) -> "Iterator[tuple[str, bytes]]":
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for entry in tar:
                if entry.size > _LARGEST:
                    raise Failure(_TOO_LARGE)
                if entry.isreg():
                    file = tar.extractfile(entry)
                    yield entry.name, file.read() if file else b""
    except tarfile.TarError:
        raise Failure("archive/tar: invalid tar header") from None


def _zipped(data: bytes) -> "Iterator[tuple[str, bytes]]":
    import zipfile
    import zlib

    try:
        left = _LARGEST
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                with archive.open(entry) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise Failure(_TOO_LARGE)
                yield entry.filename, content
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as exc:
        raise Failure(f"zip: {exc}") from None

"""Archives that ADD unpacks: told by their first bytes, unpacked by the native core.

gzip, zstd and plain tars are its own; bzip2 and xz go through the standard library on their way to it.
"""

import bz2
import lzma
import os
import threading
from typing import Final

import proa_native

_MAGICS: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")
_STEP: Final = 1 << 20


def is_archive(head: bytes) -> bool:
    """Whether a file that begins so is a tar, compressed or not."""
    return head.startswith(_MAGICS) or head[257:262] == b"ustar"


def is_old_archive(head: bytes) -> bool:
    """Whether it is a tar of before POSIX: only its checksum tells."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def unpack(source: int, target: str) -> None:
    """Unpack an archive into an empty directory; blocks. Raises ValueError, OSError."""
    head = os.pread(source, 8, 0)
    if head.startswith(b"BZh"):
        _through(bz2.BZ2File, source, target)
    elif head.startswith(b"\xfd7zXZ\x00"):
        _through(lzma.LZMAFile, source, target)
    else:
        proa_native.unpack_layer(source, target, overlay=False)


def _through(kind: "type[bz2.BZ2File] | type[lzma.LZMAFile]", source: int, target: str) -> None:
    """Decompress on a thread into a pipe that the native core reads."""
    read, write = os.pipe()
    failures: list[Exception] = []

    def feed() -> None:
        try:
            with (
                os.fdopen(write, "wb", buffering=0) as pipe,
                os.fdopen(os.dup(source), "rb") as file,
                kind(file) as plain,
            ):
                while chunk := plain.read(_STEP):
                    pipe.write(chunk)
        except BrokenPipeError:
            return  # the reader has failed, and says why
        except (OSError, EOFError, lzma.LZMAError) as exc:
            failures.append(exc)

    feeder = threading.Thread(target=feed, name="proad-unpack")
    feeder.start()
    try:
        proa_native.unpack_layer(read, target, overlay=False)
    finally:
        os.close(read)
        feeder.join()
    if failures:
        raise ValueError(f"malformed archive: {failures[0]}")

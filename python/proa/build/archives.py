"""Archives that ADD unpacks: told by their first bytes, unpacked by the native core.

gzip, zstd and plain tars are its own; bzip2 and xz are expanded on their way to it.
"""

import os
import threading
import zlib
from typing import Final

import proa_native

from proa.errors import InvalidParameter
from proa.expanding import Expander

_MAGICS: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00")
_STEP: Final = 1 << 20


def is_archive(head: bytes) -> bool:
    """Whether a file that begins so is a tar, or compressed: then only its unpacking tells."""
    return head.startswith(_MAGICS) or head[257:262] == b"ustar" or is_old_archive(head)


def is_old_archive(head: bytes) -> bool:
    """Whether it is a tar of before POSIX: only its checksum tells."""
    if len(head) < 512 or head[148:156].strip(b"01234567 \0"):
        return False
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def unpack(source: int, target: str) -> bool:
    """Unpack an archive into an empty directory; blocks. Raises ValueError, OSError.

    False where it is none: what is compressed may be anything.
    """
    expander = Expander.of(os.pread(source, 8, 0))
    if expander is not None:
        if not _begins_as_tar(source):
            return False
        _through(expander, source, target)
        return True
    try:
        proa_native.unpack_layer(source, target, overlay=False)
    except ValueError:
        if os.listdir(target) or _begins_as_tar(source):
            raise
        return False
    return bool(os.listdir(target)) or _begins_as_tar(source)


def _begins_as_tar(source: int) -> bool:
    """Whether what is compressed has the head of a tar. Of zstd that is not known."""
    head = os.pread(source, 2 * _STEP, 0)  # A block of bzip2's is up to 900 kB.
    expander = Expander.of(head[:8])
    try:
        if expander is not None:
            expander.give(head)
            plain = expander.take()
        elif head.startswith(_MAGICS[0]):
            plain = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 512)
        else:
            plain = head
    except (InvalidParameter, zlib.error):
        return False
    return plain[257:262] == b"ustar" or is_old_archive(plain)


def _through(expander: Expander, source: int, target: str) -> None:
    """Expand on a thread into a pipe that the native core reads."""
    read, write = os.pipe()
    failures: list[Exception] = []

    def feed() -> None:
        offset = 0
        try:
            with os.fdopen(write, "wb", buffering=0) as pipe:
                while chunk := os.pread(source, _STEP, offset):
                    offset += len(chunk)
                    expander.give(chunk)
                    while plain := expander.take():
                        pipe.write(plain)
                expander.finish()
        except BrokenPipeError:
            return  # the reader has failed, and says why
        except (InvalidParameter, OSError) as exc:
            failures.append(exc)

    feeder = threading.Thread(target=feed, name="proad-unpack")
    feeder.start()
    failed: Exception | None = None
    try:
        proa_native.unpack_layer(read, target, overlay=False)
    except ValueError as exc:
        failed = exc
    finally:
        os.close(read)
        feeder.join()
    # Why the archive ended comes before that it did.
    failed = failures[0] if failures else failed
    if failed is not None:
        raise ValueError(str(failed)) from failed

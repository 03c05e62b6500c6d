"""Archives that ADD unpacks: told by their first bytes, unpacked by the native core.

gzip, zstd and plain tars are its own; bzip2 and xz are expanded on their way to it.
"""

import os
import threading
from typing import Final

import proa_native

from proa.errors import InvalidParameter
from proa.expanding import Expander

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
    expander = Expander.of(os.pread(source, 8, 0))
    if expander is None:
        proa_native.unpack_layer(source, target, overlay=False)
    else:
        _through(expander, source, target)


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

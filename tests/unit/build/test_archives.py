"""What ADD unpacks: every compression, and no more of a bomb than the core's own measure."""

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_archives import tar

from proa import expanding
from proa.build.archives import is_archive, unpack

ARCHIVE = tar({"d": None, "d/file": os.urandom(200_000)})


def unpacked(data: bytes, tmp_path: Path) -> Path:
    archive, target = tmp_path / "archive", tmp_path / "target"
    archive.write_bytes(data)
    target.mkdir()
    with archive.open("rb") as file:
        unpack(file.fileno(), str(target))
    return target


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_compression(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = compress(ARCHIVE)
    assert is_archive(data)
    assert (unpacked(data, tmp_path) / "d/file").stat().st_size == 200_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lzma.compress(ARCHIVE)[:-100_000], "unexpected end of the compressed stream"),
        (gzip.compress(ARCHIVE)[:-150_000], "incomplete deflate stream"),
        (bz2.compress(tar({"bomb": bytes(3 << 20)})), "expand to more than 400 times that"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(expanding, "_FREE", 1 << 20)
    with pytest.raises(ValueError, match=words):
        unpacked(data, tmp_path)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("data", [b"no archive" * 100, b"", gzip.compress(ARCHIVE)])
def test_what_is_compressed_may_be_no_archive(
    tmp_path: Path, compress: Callable[[bytes], bytes], data: bytes
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "file").write_bytes(compress(data))
    with (tmp_path / "file").open("rb") as file:
        assert not unpack(file.fileno(), str(tmp_path / "target"))


def test_a_tar_of_before_posix_is_told_by_its_checksum() -> None:
    info = tarfile.TarInfo("x")
    old = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    old[257:265] = bytes(8)
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + 8 * 32 + sum(old[156:]))
    assert is_archive(bytes(old))
    assert not is_archive(bytes(512))
    assert not is_archive(b"1234567 " * 64)

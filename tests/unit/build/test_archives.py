"""What ADD unpacks: every compression, and no more of a bomb than the core's own measure."""

import bz2
import gzip
import lzma
import os
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
        (bz2.compress(b"no archive" * 100), "not a tar archive"),
        (bz2.compress(bytes(3 << 20)), "expand to more than 400 times that"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(expanding, "_FREE", 1 << 20)
    with pytest.raises(ValueError, match=words):
        unpacked(data, tmp_path)

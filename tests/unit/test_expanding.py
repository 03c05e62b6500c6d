"""xz and bzip2 made plain: in pieces of any size, bounded, and anything else untouched."""

import bz2
import lzma
import os
from collections.abc import Callable
from typing import Any

import pytest
from image_archives import chunks

from proa import expanding
from proa.errors import InvalidParameter
from proa.expanding import expanded

DATA = os.urandom(3000) + bytes(2_500_000) + os.urandom(100)


async def run(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


async def plain(data: bytes, size: int) -> list[bytes]:
    return [piece async for piece in expanded(chunks(data, size), run)]


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_pieces_of_any_size(compress: Callable[[bytes], bytes], size: int) -> None:
    """Two streams in a row are one, as the tools have it."""
    data = compress(DATA) + compress(b"more")
    found = await plain(data, size)
    assert b"".join(found) == DATA + b"more"
    assert max(map(len, found)) <= 1 << 20


@pytest.mark.parametrize("data", [b"", b"BZ", b"\xfd7zXZ", b"plain text", b"\x1f\x8b gzip", DATA])
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_anything_else_is_left_alone(data: bytes, size: int) -> None:
    if size > 1 or len(data) < 1000:
        assert b"".join(await plain(data, size)) == data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lzma.compress(DATA)[:-5], "unexpected end"),
        (bz2.compress(DATA)[:100], "unexpected end"),
        (lzma.compress(DATA)[:60] + bytes(60), "malformed archive"),
        (bz2.compress(DATA) + b"garbage", "malformed archive"),
        (lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]), "[Mm]emory"),
    ],
)
async def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        await plain(data, 1000)


async def test_a_bomb_is_refused_before_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expanding, "_FREE", 1 << 20)
    with pytest.raises(InvalidParameter, match="expand to more than 400 times that"):
        await plain(bz2.compress(bytes(4 << 20)), 1000)

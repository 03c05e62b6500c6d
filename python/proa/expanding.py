"""Archives in xz and bzip2 on their way in, made plain a piece at a time. Opens nothing and starts nothing.

Docker takes them where it takes gzip and zstd. Few people send them, so that the standard library's
decompressors do, with the interpreter released: at most 128 MiB for an xz dictionary and one step of output
are held. What expands beyond the native core's own measure is refused as there.

Source: moby go-archive, compression/compression.go (Detect).
"""

import bz2
import lzma
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from proa.errors import InvalidParameter

Run = Callable[..., Awaitable[Any]]
"""`run(call, *arguments)` in an executor."""

_MAGIC: Final[dict[bytes, Callable[[], Any]]] = {
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=128 << 20),
    b"BZh": bz2.BZ2Decompressor,
}
_MAGIC_LENGTH: Final = max(map(len, _MAGIC))
_STEP: Final = 1 << 20
_FREE: Final = 2 << 30
_RATIO: Final = 400
"""As native/src/layer/limits.rs: more than so many times the input is a bomb, past so many free bytes."""


async def expanded(body: AsyncIterator[bytes], run: Run) -> AsyncIterator[bytes]:
    """The body, plain where it was xz or bzip2, else as it comes. Raises InvalidParameter.

    The first bytes tell, however few come at a time.
    """
    start = await beginning(body)
    expander = Expander.of(start)
    if expander is None:
        if start:
            yield start
        async for chunk in body:
            yield chunk
        return
    async for plain in expander.all(start, body, run):
        yield plain


async def beginning(body: AsyncIterator[bytes]) -> bytes:
    """The first bytes, as many as tell what they are; fewer where there are no more."""
    start = b""
    async for chunk in body:
        start += chunk
        if len(start) >= _MAGIC_LENGTH:
            break
    return start


class Expander:
    """Decompresses piece by piece; concatenated streams are one. Its calls block for the processor only."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._decompressor: Any = None
        self._input = b""
        self._taken = 0
        self._given = 0

    @classmethod
    def of(cls, start: bytes) -> "Expander | None":
        """What an archive needs that begins so; None for anything but xz and bzip2."""
        make = next((make for magic, make in _MAGIC.items() if start.startswith(magic)), None)
        return None if make is None else cls(make)

    async def all(self, start: bytes, body: AsyncIterator[bytes], run: Run) -> AsyncIterator[bytes]:
        """A whole body that begins with `start`. Raises InvalidParameter."""
        self.give(start)
        while plain := await run(self.take):
            yield plain
        async for chunk in body:
            self.give(chunk)
            while plain := await run(self.take):
                yield plain
        self.finish()

    def finish(self) -> None:
        """Nothing follows. Raises InvalidParameter where a stream is cut short."""
        if self._decompressor is not None:
            raise InvalidParameter("malformed archive: unexpected end of the compressed stream")

    def give(self, chunk: bytes) -> None:
        """More compressed bytes; everything must have been taken before."""
        self._input = chunk
        self._taken += len(chunk)

    def take(self) -> bytes:
        """The next plain bytes, at most `_STEP`; empty when more input is needed. Raises InvalidParameter."""
        while self._input or (self._decompressor is not None and not self._decompressor.needs_input):
            self._decompressor = self._decompressor or self._make()
            data, self._input = self._input, b""
            try:
                plain: bytes = self._decompressor.decompress(data, _STEP)
            except (lzma.LZMAError, OSError, EOFError) as exc:
                raise InvalidParameter(f"malformed archive: {exc}") from exc
            if self._decompressor.eof:
                self._input = self._decompressor.unused_data
                self._decompressor = None
            self._given += len(plain)
            if self._given > _FREE and self._given // _RATIO > self._taken:
                raise InvalidParameter(
                    f"malformed archive: {self._taken} bytes expand to more than {_RATIO} times that"
                )
            if plain:
                return plain
        return b""

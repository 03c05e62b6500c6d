"""Sizes as people write them: `64m`, `1.5GiB`, `4096`. Source: docker/go-units, size.go (RAMInBytes)."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtpKMGTP]?)(?:i?[bB])?")


def parse_size(text: str) -> int:
    """Bytes, within int64; units are powers of 1024. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    exponent = " kmgtp".index(match[2].lower() or " ")
    size = float(match[1]) * (1 << 10 * exponent)
    if size >= 1 << 63:
        raise ValueError(f"invalid size: '{text}' is out of range")
    return int(size)

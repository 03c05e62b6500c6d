"""Up to what size images are kept, out of the daemon's configuration.

Apart from DaemonConfig because a command line imports that one. The words are the kubelet's: past the high
mark images are removed until the low one is reached, those used longest ago first.
"""

from msgspec import Struct

from proa.durations import parse_duration
from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.sizes import parse_size


class Watermarks(Struct, frozen=True, kw_only=True):
    """Bytes of images' layers, unpacked and as blobs."""

    high: int
    low: int
    min_age_ns: int
    """An image is left alone so long after its last use: a client creates what it has just pulled."""
    keep: tuple[str, ...]
    """Patterns of names whose images never go."""

    @classmethod
    def of(cls, config: DaemonConfig) -> "Watermarks | None":
        """None where nothing is ever removed, which is the default. Raises InvalidParameter."""
        age = parse_duration(config.image_gc_min_age)
        if age < 0:
            raise InvalidParameter(f"invalid image-gc-min-age: {config.image_gc_min_age}")
        if not config.image_gc_high:
            if config.image_gc_low:
                raise InvalidParameter("image-gc-low needs image-gc-high")
            return None
        high = _size("image-gc-high", config.image_gc_high)
        low = _size("image-gc-low", config.image_gc_low) if config.image_gc_low else high * 4 // 5
        if low > high:
            raise InvalidParameter(
                f"image-gc-low ({config.image_gc_low}) is above image-gc-high ({config.image_gc_high})"
            )
        return cls(high=high, low=low, min_age_ns=age, keep=config.image_gc_keep)


def _size(key: str, text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise InvalidParameter(f"invalid {key}: {exc}") from exc

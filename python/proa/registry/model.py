"""What the client of registries hands out and takes in."""

from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from proa.errors import Unavailable
from proa.schema import oci
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest

BlobSource = Callable[[int], AsyncIterator[bytes]]
"""The bytes of a blob from an offset on; called again when an upload is resumed."""


class Interrupted(Unavailable):
    """A body ended before its end: what came so far is good, ask again from the offset reached."""


class Remote(Struct, frozen=True):
    """An answer under way."""

    length: int | None
    """Bytes of `chunks`, where the server tells."""
    chunks: AsyncIterator[bytes]
    last_modified: str = ""
    """As the server has it."""


class Manifest(Struct, frozen=True, kw_only=True):
    """A manifest or an index as it came; `data` has the digest and size of `descriptor`."""

    descriptor: Descriptor
    """media_type, digest and size are set."""
    data: bytes
    content: oci.Index | oci.Manifest
    """`data`, decoded; every digest in it is well-formed."""
    host: str
    """host[:port] of the registry or mirror that had it, for messages."""

    @property
    def digest(self) -> Digest:
        """Of `data`."""
        return Digest(self.descriptor.digest)

"""Which step made which layers, as a cache elsewhere says it: read into offers, written from them.

What is read is anybody's: places are checked, and a layer counts for nothing before its bytes have the
digests that are said here. BuildKit's own records name keys that no step of ours has, and are passed over.
"""

import binascii
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from proa.engine.durations import rfc3339
from proa.engine.images.records import parse_time
from proa.errors import InvalidParameter
from proa.schema.build_cache import (
    CacheConfig,
    CacheLayer,
    CacheRecord,
    CacheResult,
    ChainedResult,
    LayerAnnotations,
)
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest, parse_digest

_PREFIX: Final = "sha256:"
_config = msgspec.json.Decoder(CacheConfig)
_records = msgspec.json.Decoder(list[CacheRecord])


class Blob(Struct, frozen=True):
    """A layer's bytes, and what they are uncompressed."""

    descriptor: Descriptor
    diff_id: Digest


class Offer(Struct, frozen=True):
    """What a step made: its layer and those below it, base first; one that stands alone has none below."""

    blobs: tuple[Blob, ...]
    created_ns: int
    alone: bool = False


def read_config(data: bytes, layers: Mapping[str, Descriptor]) -> dict[str, Offer]:
    """Offers by key; `layers` are the manifest's, by digest. Raises InvalidParameter."""
    try:
        config = _config.decode(data)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid cache config: {exc}") from exc
    blobs: list[Blob | None] = []
    for layer in config.layers:
        descriptor = layers.get(layer.blob)
        diff_id = layer.annotations.diff_id if layer.annotations else ""
        blobs.append(Blob(descriptor, parse_digest(diff_id)) if descriptor and diff_id else None)
    return _offers(config.records, blobs, [layer.parent for layer in config.layers])


def read_inline(text: str, blobs: Sequence[Blob]) -> dict[str, Offer]:
    """Offers by key of an image's own records; `blobs` are its layers. Raises InvalidParameter."""
    try:
        records = _records.decode(binascii.a2b_base64(text))
    except (ValueError, msgspec.DecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid inline cache: {exc}") from exc
    return _offers(records, blobs, [number - 1 for number in range(len(blobs))])


def _offers(
    records: Sequence[CacheRecord], blobs: Sequence[Blob | None], parents: Sequence[int]
) -> dict[str, Offer]:
    offers: dict[str, Offer] = {}
    for record in records:
        key = record.digest.removeprefix(_PREFIX)
        for result in record.layers[:1]:
            _add(offers, key, _stack(result.layer, parents), blobs, result.created_at, alone=False)
        for chain in record.chains[:1]:
            _add(offers, key, chain.layers, blobs, chain.created_at, alone=len(chain.layers) == 1)
    return offers


def _add(
    offers: dict[str, Offer],
    key: str,
    places: Sequence[int],
    blobs: Sequence[Blob | None],
    created: str,
    *,
    alone: bool,
) -> None:
    found = [blobs[place] for place in places if 0 <= place < len(blobs)]
    known = [blob for blob in found if blob is not None]
    if known and len(known) == len(places):
        offers[key] = Offer(tuple(known), parse_time(created), alone)


def _stack(top: int, parents: Sequence[int]) -> list[int]:
    """Places from the base on; empty for what leads nowhere or in a circle."""
    places: list[int] = []
    while top != -1:
        if not 0 <= top < len(parents) or len(places) > len(parents):
            return []
        places.append(top)
        top = parents[top]
    return places[::-1]


class Records:
    """A cache to be written: offers are added, base images' layers among theirs."""

    def __init__(self) -> None:
        self.blobs: list[Blob] = []
        """Each layer once, whatever lies below it."""
        self._layers: list[CacheLayer] = []
        self._places: dict[tuple[str, int], int] = {}
        self._records: list[CacheRecord] = []

    def add(self, key: str, offer: Offer) -> None:
        """One more step."""
        place = -1
        for blob in offer.blobs:
            place = self._place(blob, place)
        created = rfc3339(offer.created_ns)
        chains = [ChainedResult(layers=[place], created_at=created)] if offer.alone else []
        layers = [] if offer.alone else [CacheResult(layer=place, created_at=created)]
        self._records.append(CacheRecord(digest=_PREFIX + key, layers=layers, chains=chains))

    def config(self) -> bytes:
        """The config blob."""
        return msgspec.json.encode(CacheConfig(layers=self._layers, records=self._records))

    def _place(self, blob: Blob, parent: int) -> int:
        digest = blob.descriptor.digest
        if (digest, parent) not in self._places:
            self._places[digest, parent] = len(self._layers)
            annotations = LayerAnnotations(diff_id=blob.diff_id)
            self._layers.append(CacheLayer(blob=digest, parent=parent, annotations=annotations))
            if all(known.descriptor.digest != digest for known in self.blobs):
                self.blobs.append(blob)
        return self._places[digest, parent]


def inline(steps: Sequence[tuple[str, int, int, bool]]) -> str:
    """An image's own records; each step is (key, place of its layer, when it was made, stands alone)."""
    records = []
    for key, place, created_ns, alone in steps:
        created = rfc3339(created_ns)
        chains = [ChainedResult(layers=[place], created_at=created)] if alone else []
        layers = [] if alone else [CacheResult(layer=place, created_at=created)]
        records.append(CacheRecord(digest=_PREFIX + key, layers=layers, chains=chains))
    return binascii.b2a_base64(msgspec.json.encode(records), newline=False).decode()

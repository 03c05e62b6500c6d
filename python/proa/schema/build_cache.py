"""A build cache as registries and directories hold it: a manifest of layers, and a config that says of what.

Where a layer lies in the list, its parent is another place of it; none is -1. A record is a step, by its key:
its `layers` are stacks, each named by its top; its `chains` name every layer of one.

Source: BuildKit cache/remotecache/v1/types/spec.go, exporter/containerimage/exptypes (the inline form).
"""

from typing import Final

from msgspec import Struct

CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"
INLINE: Final = "moby.buildkit.cache.v0"
"""The field of an image's config that has the records, whose layers are the image's own; base64."""


class LayerAnnotations(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"diff_id": "diffID"}):
    """What a layer is, uncompressed."""

    diff_id: str = ""


class CacheLayer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One layer; `parent` is its place."""

    blob: str = ""
    parent: int = 0
    annotations: LayerAnnotations | None = None


class CacheResult(Struct, frozen=True, kw_only=True, rename="camel"):
    """The top of a stack."""

    layer: int
    created_at: str = ""


class ChainedResult(Struct, frozen=True, kw_only=True, rename="camel"):
    """Every layer of a stack, base first."""

    layers: list[int]
    created_at: str = ""


class CacheRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step."""

    digest: str = ""
    layers: list[CacheResult] = []
    chains: list[ChainedResult] = []


class CacheConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config blob of a cache manifest."""

    layers: list[CacheLayer] = []
    records: list[CacheRecord] = []

"""Volumes.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct

from proa.schema.presence import SHOWN_NULL, SHOWN_STR


class UsageData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Usage details about the volume. This information is used by the GET /system/df endpoint,
    and omitted in other endpoints.
    """

    size: int = 0
    ref_count: int = 0


class Volume(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Volume."""

    name: str = SHOWN_STR
    driver: str = SHOWN_STR
    mountpoint: str = SHOWN_STR
    created_at: str = ""
    status: dict[str, object] | None = None
    labels: dict[str, str] | None = SHOWN_NULL
    scope: str = SHOWN_STR
    cluster_volume: dict[str, object] | None = None
    options: dict[str, str] | None = SHOWN_NULL
    usage_data: UsageData | None = None


class VolumeCreateOptions(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Volume configuration."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, object] | None = None


class VolumeListResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Volume list response."""

    volumes: list[Volume] | None = None
    warnings: list[str] | None = None

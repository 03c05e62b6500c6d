"""What a prune removed. Source: the Docker Engine API, v1.51 (the /prune paths)."""

from msgspec import Struct

from proa.schema.image import ImageDeleteResponseItem


class ContainersPruneReport(Struct, frozen=True, kw_only=True, rename="pascal"):
    """POST /containers/prune; space in bytes."""

    containers_deleted: list[str] | None = None
    space_reclaimed: int = 0


class ImagesPruneReport(Struct, frozen=True, kw_only=True, rename="pascal"):
    """POST /images/prune; space in bytes."""

    images_deleted: list[ImageDeleteResponseItem] | None = None
    space_reclaimed: int = 0


class VolumesPruneReport(Struct, frozen=True, kw_only=True, rename="pascal"):
    """POST /volumes/prune; space in bytes."""

    volumes_deleted: list[str] | None = None
    space_reclaimed: int = 0


class NetworksPruneReport(Struct, frozen=True, kw_only=True, rename="pascal"):
    """POST /networks/prune."""

    networks_deleted: list[str] | None = None

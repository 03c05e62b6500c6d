"""What answers held in older versions of the API and no longer do: put back for clients that speak those.

Source: moby daemon/server/router/image (`legacyConfigFields`), router/system; the API's version history.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins

from proa.schema.image import ImageInspect, ImageSummary
from proa.schema.system import SystemDataUsage

VIRTUAL_SIZE_UNTIL = 44
"""API 1.44 dropped VirtualSize, which had become the same as Size."""

EMPTY_MEMBERS_UNTIL = 50
"""API 1.50 dropped members of an image's configuration that are empty, or are no image's at all."""

_CONFIG = {
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Cmd": None,
    "Domainname": "",
    "Entrypoint": None,
    "Env": None,
    "Hostname": "",
    "Image": "",
    "Labels": None,
    "OnBuild": None,
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}


def images(found: Sequence[ImageSummary], minor: int) -> object:
    """GET /images/json."""
    return found if minor >= VIRTUAL_SIZE_UNTIL else [_with_virtual_size(image) for image in found]


def image(found: ImageInspect, minor: int) -> object:
    """GET /images/{name}/json."""
    if minor >= EMPTY_MEMBERS_UNTIL:
        return found
    shown = to_builtins(found) if minor >= VIRTUAL_SIZE_UNTIL else _with_virtual_size(found)
    shown["Config"] = {**_CONFIG, **(shown["Config"] or {})}
    return shown


def disk_usage(found: SystemDataUsage, minor: int) -> object:
    """GET /system/df."""
    if minor >= VIRTUAL_SIZE_UNTIL or found.images is None:
        return found
    return {**to_builtins(found), "Images": images(found.images, minor)}


def _with_virtual_size(image: ImageSummary | ImageInspect) -> dict[str, Any]:
    return {**to_builtins(image), "VirtualSize": image.size}

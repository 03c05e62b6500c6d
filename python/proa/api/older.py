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
"""API 1.50 dropped members of an image's configuration that are no image's at all."""

CONTAINERS_SINCE = 51
"""API 1.51 counts the containers of listed images."""

NO_NAMES_UNTIL = 43
"""API 1.43 dropped the names of images that have none."""

_CONFIG = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
"""Shown although unset up to 1.51, as templates rely on it (moby#50134)."""

_CONFIG_BEFORE = _CONFIG | {
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
}


def images(found: Sequence[ImageSummary], minor: int) -> object:
    """GET /images/json."""
    return found if minor >= CONTAINERS_SINCE else [_listed(image, minor) for image in found]


def _listed(image: ImageSummary, minor: int) -> dict[str, Any]:
    shown = to_builtins(image) if minor >= VIRTUAL_SIZE_UNTIL else _with_virtual_size(image)
    shown["Containers"] = -1
    if minor < NO_NAMES_UNTIL and not image.repo_tags and not image.repo_digests:
        shown |= {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    return dict(shown)


def image(found: ImageInspect, minor: int) -> object:
    """GET /images/{name}/json."""
    shown = to_builtins(found) if minor >= VIRTUAL_SIZE_UNTIL else _with_virtual_size(found)
    members = _CONFIG if minor >= EMPTY_MEMBERS_UNTIL else _CONFIG_BEFORE
    shown["Config"] = {**members, **(shown["Config"] or {})}
    return shown


def disk_usage(found: SystemDataUsage, minor: int) -> object:
    """GET /system/df."""
    if minor >= VIRTUAL_SIZE_UNTIL or found.images is None:
        return found
    return {**to_builtins(found), "Images": [_with_virtual_size(image) for image in found.images]}


def _with_virtual_size(image: ImageSummary | ImageInspect) -> dict[str, Any]:
    return {**to_builtins(image), "VirtualSize": image.size}

"""Platforms of images against the one asked for and the one there is. Pure but for the host's name.

Source: moby daemon/create.go and images/image.go (the words); containerd platforms (the aliases).
"""

import platform as host
from typing import Final

from proa.engine.ports import ContainerImage
from proa.errors import NotFound

_ALIASES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armv7l": "arm",
}
_VARIANTS: Final = {"arm64": "v8", "arm": "v7"}
"""What an architecture without a variant means."""


def check_platform(image: ContainerImage, ref: str, wanted: str | None) -> str | None:
    """A warning where nothing was asked for and the image is another architecture's; it may still run.

    Raises NotFound where it is not what was asked for.
    """
    found = "/".join(part for part in (image.os, image.architecture, image.variant) if part)
    if wanted:
        if not _matches(wanted, found):
            raise NotFound(
                f"image with reference {ref} was found but its platform ({found}) "
                f"does not match the specified platform ({wanted})"
            )
        return None
    machine = host.machine()
    architecture = _ALIASES.get(machine, machine)
    if image.architecture in ("", architecture):
        return None
    return (
        f"The requested image's platform ({found}) does not match the detected host platform "
        f"(linux/{architecture}) and no specific platform was requested"
    )


def _matches(wanted: str, found: str) -> bool:
    """Parts that are not asked for do not matter."""
    parts = [_ALIASES.get(part, part) for part in wanted.lower().split("/")]
    there = found.split("/")
    if len(there) == 2 and there[1] in _VARIANTS:
        there.append(_VARIANTS[there[1]])
    return parts == there[: len(parts)]

"""Platforms as people write them: `arm64`, `linux/amd64`, `linux/arm/v7`.

Source: the observed requests of docker 28 (containerd's platform specifiers).
"""

import os

from proa.cli.failure import Failure

_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd"))

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
}


def architecture(name: str) -> str:
    """Go's name of a machine's architecture."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


def normalize(text: str) -> str:
    """`os/arch[/variant]`. Raises Failure."""
    parts = text.lower().split("/")
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
    if len(parts) > 3 or not all(parts) or not all(set(part) <= letters for part in parts):
        raise Failure(
            f'error parsing specified platform: "{text}": cannot parse platform specifier: invalid argument'
        )
    if len(parts) == 1:
        here = architecture(os.uname().machine)
        return f"{parts[0]}/{here}" if parts[0] in _SYSTEMS else f"linux/{architecture(parts[0])}"
    parts[1] = architecture(parts[1])
    if parts[1:] == ["arm64", "v8"] or parts[1:] == ["arm64", "8"]:
        del parts[2]
    return "/".join(parts)

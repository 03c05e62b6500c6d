"""Platforms as text, and the variables that name them.

Source: containerd platforms; the Dockerfile reference, FROM.
"""

import platform as host

from proa.build.words import go_quoted
from proa.errors import InvalidParameter
from proa.schema.oci import Platform

_MACHINES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
}
_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd", "macos"))


def host_platform() -> Platform:
    """The platform of this host."""
    return _normal("linux", host.machine(), "")


def parse_platform(text: str) -> Platform:
    """`linux/arm64`, `linux/arm/v7`, `amd64` or `linux`. Raises InvalidParameter."""
    parts = text.strip().lower().split("/")
    if not all(part and all(c.isalnum() or c in "._-" for c in part) for part in parts) or len(parts) > 3:
        raise InvalidParameter(
            f"failed to parse platform {text}: {go_quoted(text)}: cannot parse platform specifier: "
            "invalid argument"
        )
    if len(parts) == 1:
        here = host_platform()
        if parts[0] in _SYSTEMS:
            return Platform(os=parts[0], architecture=here.architecture, variant=here.variant)
        return _normal("linux", parts[0], "")
    return _normal(parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def shown(platform: Platform) -> str:
    """`linux/arm/v7`."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def platform_arguments(target: Platform, build: Platform) -> dict[str, str]:
    """TARGETPLATFORM, BUILDARCH and the rest."""
    return {
        f"{prefix}{name}": value
        for prefix, platform in (("TARGET", target), ("BUILD", build))
        for name, value in (
            ("PLATFORM", shown(platform)),
            ("OS", platform.os),
            ("ARCH", platform.architecture),
            ("VARIANT", platform.variant),
        )
    }


def _normal(system: str, architecture: str, variant: str) -> Platform:
    if architecture in ("armhf", "armv7l"):
        architecture, variant = "arm", variant or "v7"
    architecture = _MACHINES.get(architecture, architecture)
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    if architecture == "arm":
        variant = variant or "v7"
        variant = variant if variant.startswith("v") else f"v{variant}"
    return Platform(os=system, architecture=architecture, variant=variant)

"""Platforms of images against the one asked for and the one there is. Pure but for the host's name.

Source: moby daemon/create.go, images/image.go and distribution/pull_v2.go (the words); containerd platforms
(the aliases, what runs on what, how a platform is written).
"""

import platform as host
import re
from collections.abc import Iterator, Sequence
from typing import Final

from proa.engine.ports import ContainerImage
from proa.errors import InvalidParameter, NotFound
from proa.schema.oci import Descriptor, ImageFile, Platform

_ALIASES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armv7l": "arm",
    "i386": "386",
    "i686": "386",
}
_VARIANTS: Final = {"arm64": "v8", "arm": "v7"}
"""What an architecture without a variant means."""


_PART: Final = "^[A-Za-z0-9_.-]+$"
_SYSTEM: Final = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)\))?$"
_SYSTEMS: Final = frozenset(
    ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "plan9")
)
_MACHINES: Final = frozenset(
    ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm")
)


def parse_platform(text: str, here: tuple[str, str]) -> tuple[str, str, str]:
    """`os[/arch[/variant]]` or an architecture alone: (architecture, variant, os); what it lacks is `here`'s.

    `here` is the host's architecture and variant. Raises InvalidParameter in containerd's words.
    """
    if not text:
        return *here, "linux"
    parts = text.split("/")
    for number, part in enumerate(parts[:4]):
        if not re.fullmatch(_SYSTEM if number == 0 else _PART, part):
            what, kind = ("OS component", "OSAndVersion") if number == 0 else ("component", "platform")
            pattern = _quoted(_SYSTEM if number == 0 else _PART)
            raise InvalidParameter(
                f"{_quoted(part)} is an invalid {what} of {_quoted(text)}: "
                f"{kind} specifier component must match {pattern}: invalid argument"
            )
    if len(parts) > 3:
        raise InvalidParameter(f"{_quoted(text)}: cannot parse platform specifier: invalid argument")
    first, *rest = (part.lower() for part in parts)
    first = first.partition("(")[0]
    if rest:
        return _ALIASES.get(rest[0], rest[0]), rest[1] if len(rest) > 1 else "", first
    if first in _SYSTEMS:
        return *here, first
    if (architecture := _ALIASES.get(first, first)) in _MACHINES:
        return architecture, "", "linux"
    raise InvalidParameter(f"{_quoted(text)}: unknown operating system or architecture: invalid argument")


def _quoted(text: str) -> str:
    """As Go's %q does."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


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


def is_for(file: ImageFile, wanted: str) -> bool:
    """Whether a config says that its image is for a platform."""
    parts = (file.os or "linux", file.architecture, file.variant)
    return _matches(wanted, "/".join(part for part in parts if part))


def _matches(wanted: str, found: str) -> bool:
    """Parts that are not asked for do not matter."""
    parts = [_ALIASES.get(part, part) for part in wanted.lower().split("/")]
    there = found.split("/")
    if len(there) == 2 and there[1] in _VARIANTS:
        there.append(_VARIANTS[there[1]])
    return parts == there[: len(parts)]


def suits(image: ContainerImage, os: str, architecture: str, variant: str) -> bool:
    """Whether an image is just what a platform runs best."""
    found = Platform(architecture=image.architecture, variant=image.variant)
    return (image.os or "linux") == os and _normal(found) == next(_accepted(architecture, variant))


def choose(manifests: Sequence[Descriptor], os: str, architecture: str, variant: str) -> Descriptor:
    """The manifest of an index that suits a platform best; one that says none suits any, last.

    Raises NotFound in Docker's words.
    """
    best: tuple[int, Descriptor] | None = None
    accepted = list(_accepted(architecture, variant))
    for descriptor in manifests:
        platform = descriptor.platform
        if platform is None:
            rank = len(accepted)
        elif (platform.os or "linux") != os or (found := _normal(platform)) not in accepted:
            continue
        else:
            rank = accepted.index(found)
        if best is None or rank < best[0]:
            best = rank, descriptor
    if best is None:
        wanted = "/".join(part for part in (os, architecture, variant) if part)
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return best[1]


def _accepted(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """What runs on a platform, the best first."""
    name, kind = _normal(Platform(architecture=architecture, variant=variant))
    yield name, kind
    if name == "amd64":
        levels = int(kind[1:]) if kind[1:].isdigit() else 1
        for level in range(levels - 1, 0, -1):
            yield "amd64", "" if level == 1 else f"v{level}"
        yield "386", ""
    elif name in ("arm", "arm64"):
        generation = 8 if name == "arm64" else int(kind[1:]) - 1 if kind[1:].isdigit() else 0
        for lower in range(generation, 4, -1):
            yield "arm", f"v{lower}"


def _normal(platform: Platform) -> tuple[str, str]:
    """(architecture, variant) in one spelling: arm64 has no v8, amd64 no v1, arm always a variant."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    architecture = _ALIASES.get(architecture, architecture)
    if variant[:1].isdigit():
        variant = f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    return architecture, variant or ("v7" if architecture == "arm" else "")

"""`images --tree`: every image under its names, with the platforms that it has, and whether it is in use.

Source: docker/cli cli/command/image/tree.go (the layout); plain text, as Docker's is where no terminal is.
"""

from proa.cli import human
from proa.cli.table import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GAP = "   "
_UNTAGGED = "<untagged>"


def draw(images: "list[dict[str, Any]]") -> None:
    """Print the images of an API list that was asked for manifests."""
    named = sorted(images, key=lambda image: (not image.get("RepoTags"), sorted(image.get("RepoTags") or ())))
    texts = [text for image in named for text in (*_names(image), *_platforms(image))]
    width = max((len(text) for text in texts), default=len("IMAGE"))
    spaced = any(_children(image) for image in named)
    lines = [_line("IMAGE", width, "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")]
    for image in named:
        *above, last = _names(image)
        lines += above
        lines.append(_line(last, width, *_details(image)))
        children = _children(image)
        for text, child in zip(_platforms(image), children, strict=True):
            lines.append(_line(text, width, *_child_details(child)))
        if spaced:
            lines.append("")
    show("\n".join(lines) + "\n")


def _line(name: str, width: int, id_: str, usage: str, content: str, extra: str) -> str:
    cells = (name.ljust(width), id_.ljust(12), usage.rjust(10), content.rjust(12), extra.ljust(5))
    return _GAP.join(cells)


def _names(image: "dict[str, Any]") -> "list[str]":
    return sorted(image.get("RepoTags") or ()) or [_UNTAGGED]


def _children(image: "dict[str, Any]") -> "list[dict[str, Any]]":
    return [each for each in image.get("Manifests") or () if each.get("Kind") == "image"]


def _platforms(image: "dict[str, Any]") -> "list[str]":
    found = []
    for child in _children(image):
        platform = (child.get("ImageData") or {}).get("Platform") or {}
        parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
        found.append("├─ " + "/".join(part for part in parts if part))
    if found:
        found[-1] = "└─ " + found[-1].removeprefix("├─ ")
    return found


def _details(image: "dict[str, Any]") -> "tuple[str, str, str, str]":
    content = sum((each.get("Size") or {}).get("Content") or 0 for each in image.get("Manifests") or ())
    used = (image.get("Containers") or 0) > 0 or any(_users(child) for child in _children(image))
    return (
        human.short_id(image["Id"]),
        human.decimal_size(image.get("Size") or 0, 3),
        human.decimal_size(content, 3),
        "U" if used else "",
    )


def _child_details(child: "dict[str, Any]") -> "tuple[str, str, str, str]":
    size = child.get("Size") or {}
    return (
        human.short_id(child["ID"]),
        human.decimal_size(size.get("Total") or 0, 3),
        human.decimal_size(size.get("Content") or 0, 3),
        "U" if _users(child) else "",
    )


def _users(child: "dict[str, Any]") -> "list[str]":
    return (child.get("ImageData") or {}).get("Containers") or []

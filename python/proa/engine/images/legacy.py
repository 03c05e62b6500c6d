"""Archives of Docker before 1.10, which knew neither manifests nor content addresses.

    repositories                {"name": {"tag": "<id>"}}
    <id>/json                   the image's configuration; `parent` is the id of the one below
    <id>/layer.tar  <id>/VERSION

Each id is one layer with the configuration that held after it. What is made of them has the ids that Docker
gives them, for images of Docker 1.8.3 and later (an older one's configuration Docker writes anew).

Source: Docker image specification v1.0; moby v28 image/tarexport/load.go (legacyLoad), image/v1/imagev1.go.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from proa.errors import InvalidParameter
from proa.schema.reference import Digest, Reference, parse_reference, parse_tag

REPOSITORIES: Final = "repositories"
DEPTH_MAX: Final = 1024
"""Images on top of each other; Docker's stores end at 127 layers."""
_DROPPED: Final = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")

_repositories = msgspec.json.Decoder(dict[str, dict[str, str]])
_members = msgspec.json.Decoder(dict[str, Any])


class Archive(Protocol):
    """The members of an archive, by path."""

    def document(self, path: str) -> bytes | None:
        """A small member's content."""
        ...

    def directories(self, name: str) -> list[str]:
        """Those at the top that have a member of this name."""
        ...

    async def diff_id(self, path: str) -> Digest:
        """Of a layer."""
        ...


class LegacyImage(Struct, frozen=True, kw_only=True):
    """An image as it can be made; layers by member path, base first."""

    config: bytes
    layers: list[str]
    names: list[Reference]


async def read_legacy(archive: Archive) -> list[LegacyImage]:
    """The images that have a name; without any, those that no other stands on. Raises InvalidParameter."""
    names = _names(archive)
    documents = {id_: _document(archive, id_) for id_ in archive.directories("json")}
    for id_ in names:
        if id_ not in documents:
            raise InvalidParameter(f"invalid target ID: {id_}")
    below = {document.get("parent") for document in documents.values()}
    wanted = list(names) or [id_ for id_ in documents if id_ not in below]
    return [await _image(archive, documents, id_, names.get(id_, [])) for id_ in wanted]


def _names(archive: Archive) -> dict[str, list[Reference]]:
    data = archive.document(REPOSITORIES) or b"{}"
    try:
        repositories = _repositories.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid archive: {REPOSITORIES}: {exc}") from exc
    found: dict[str, list[Reference]] = {}
    for name, tags in repositories.items():
        repository = parse_reference(name)
        for tag, id_ in tags.items():
            reference = Reference(repository.domain, repository.path, parse_tag(tag))
            found.setdefault(id_, []).append(reference)
    return found


def _document(archive: Archive, id_: str) -> dict[str, Any]:
    try:
        return _members.decode(archive.document(f"{id_}/json") or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid archive: {id_}/json: {exc}") from exc


async def _image(
    archive: Archive, documents: Mapping[str, dict[str, Any]], id_: str, names: Sequence[Reference]
) -> LegacyImage:
    line = _line(documents, id_)
    layers = [f"{each}/layer.tar" for each in line]
    members = {key: value for key, value in documents[id_].items() if key not in _DROPPED}
    members["rootfs"] = {"type": "layers", "diff_ids": [await archive.diff_id(path) for path in layers]}
    members["history"] = [_step(documents[each]) for each in line]
    config = msgspec.json.encode(dict(sorted(members.items())))
    for letter in b"<>&":  # as Go writes them, wherever they stand in a text
        config = config.replace(bytes((letter,)), b"\\u%04x" % letter)
    return LegacyImage(config=config, layers=layers, names=list(names))


def _line(documents: Mapping[str, dict[str, Any]], id_: str) -> list[str]:
    """An image and all below it, base first."""
    found: list[str] = []
    while id_:
        if id_ not in documents:
            raise InvalidParameter(f"invalid archive: {id_}/json is missing")
        if id_ in found or len(found) == DEPTH_MAX:
            raise InvalidParameter(f"invalid archive: {id_} has no base")
        found.append(id_)
        parent = documents[id_].get("parent")
        id_ = parent if isinstance(parent, str) else ""
    return found[::-1]


def _step(document: Mapping[str, Any]) -> dict[str, str]:
    container = document.get("container_config")
    command = container.get("Cmd") if isinstance(container, dict) else None
    words = command if isinstance(command, list) else []
    told = {
        "created": document.get("created"),
        "author": document.get("author"),
        "created_by": " ".join(word for word in words if isinstance(word, str)),
        "comment": document.get("comment"),
    }
    return {key: text for key, text in told.items() if isinstance(text, str) and text}

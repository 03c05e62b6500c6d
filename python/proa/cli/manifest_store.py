"""Manifest lists in the making: the files that `manifest create` and `annotate` leave for `push`.

One directory a list and one file a manifest, below `manifests` of the client's configuration: as Docker's CLI
keeps them, so that either goes on with what the other began.

Source: docker/cli cli/manifest/store/store.go, cli/manifest/types/types.go.
"""

import os

from proa.cli.environment import config_directory
from proa.cli.failure import Failure
from proa.cli.jsontext import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals

    Manifest = dict[str, Any]
    """Ref, Descriptor, Raw (base64) and the manifest itself, decoded."""


class ManifestStore:
    """Lists and manifests by their full references."""

    def __init__(self, options: "Globals") -> None:
        self._root = f"{config_directory(options)}/manifests"

    def get(self, listed: str, reference: str) -> "Manifest | None":
        """One manifest of a list; None where there is none. Raises Failure."""
        return self._read(f"{self._directory(listed)}/{_file_name(reference)}")

    def get_list(self, listed: str) -> "list[Manifest]":
        """A list's manifests, by the names of their files. Raises Failure `No such manifest: x`."""
        directory = self._directory(listed)
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            raise Failure(f"No such manifest: {listed}") from None
        except OSError as exc:
            raise _failed("open", directory, exc) from None
        found = (self._read(f"{directory}/{name}") for name in names)
        return [manifest for manifest in found if manifest is not None]

    def has_list(self, listed: str) -> bool:
        """Whether one was begun."""
        return os.path.isdir(self._directory(listed))

    def save(self, listed: str, reference: str, manifest: "Manifest") -> None:
        """Keep a manifest as part of a list. Raises Failure."""
        directory = self._directory(listed)
        path = f"{directory}/{_file_name(reference)}"
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            with open(path, "wb") as file:
                file.write(encode(manifest))
        except OSError as exc:
            raise _failed("open", path, exc) from None

    def remove(self, listed: str) -> None:
        """Forget a list. Raises Failure."""
        directory = self._directory(listed)
        try:
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
        except OSError as exc:
            raise _failed("remove", directory, exc) from None

    def _directory(self, listed: str) -> str:
        return f"{self._root}/{_file_name(listed)}"

    def _read(self, path: str) -> "Manifest | None":
        try:
            with open(path, "rb") as file:
                found = decode(file.read())
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _failed("open", path, exc) from None
        except ValueError as exc:
            raise Failure(f"invalid manifest file {path}: {exc}") from None
        return found if isinstance(found, dict) else None


def _file_name(reference: str) -> str:
    return reference.replace(":", "-").replace("/", "_")


def _failed(operation: str, path: str, exc: OSError) -> Failure:
    return Failure(f"{operation} {path}: {(exc.strerror or '').lower()}")

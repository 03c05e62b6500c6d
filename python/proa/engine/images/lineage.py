"""Which image was made from which: commits and builds by the classic endpoint have a parent.

Pulled and loaded images have none, nor has what `proa build` makes, as BuildKit has it. An image without a
name that others were made from is an intermediate one: lists hide it, and it goes with the last of them.

Source: moby image/store.go (SetParent, Children), daemon/images/image_{list,delete,history}.go.
"""

from collections.abc import Sequence
from typing import Final

from proa.engine.ports import Database

SCHEMA: Final = """
    CREATE TABLE image_parents (
        image TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
        parent TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_parents_parent ON image_parents (parent)
"""


class Lineage:
    """Parents by image, read from memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parents: dict[str, str] = dict(database.query("SELECT image, parent FROM image_parents"))

    def record(self, image_id: str, parent: str) -> None:
        """An image that is known was made from another that is. The first parent told stays."""
        if image_id == parent or image_id in self._parents:
            return
        self._database.execute("INSERT INTO image_parents VALUES (?, ?)", (image_id, parent))
        self._parents[image_id] = parent

    def parent(self, image_id: str) -> str:
        """Empty where none is known."""
        return self._parents.get(image_id, "")

    def children(self, image_id: str) -> list[str]:
        """What was made from it, directly."""
        return [image for image, parent in self._parents.items() if parent == image_id]

    def descendants(self, image_id: str) -> set[str]:
        """What was made from it, in any number of steps."""
        found: set[str] = set()
        left = [image_id]
        while left:
            new = set(self.children(left.pop())) - found
            found |= new
            left += new
        return found

    def forget(self, image_id: str) -> None:
        """An image is gone, and with it what the database said of it."""
        self._parents = {
            image: parent for image, parent in self._parents.items() if image_id not in (image, parent)
        }


def places(steps: int, ancestors: Sequence[int]) -> list[int]:
    """Where each ancestor stands in a history of so many steps, the last first, by how many steps it has.

    It ends where its own steps begin. The first that cannot be so, and all above it, have no place.
    """
    found: list[int] = []
    for own in ancestors:
        place = steps - own
        if own <= 0 or place <= (found[-1] if found else 0):
            break
        found.append(place)
    return found

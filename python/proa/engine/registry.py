"""All containers: by id, by name, by prefix; in memory, each change written through to its row.

Names are reserved before the container exists, so that of two creates with one name the first wins.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from proa.engine.container import Container
from proa.engine.names import generate
from proa.engine.record import ContainerTable, Record
from proa.engine.state import State
from proa.engine.wait import Departed
from proa.errors import Conflict, InvalidParameter, NotFound

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_GENERATE_TRIES = 6


class Registry:
    """The containers of this daemon. Implements ContainersOfImages."""

    def __init__(self, table: ContainerTable) -> None:
        self._table = table
        self._by_id: dict[str, Container] = {}
        self._id_by_name: dict[str, str] = {}
        self.departed = Departed()

    def load(self) -> None:
        """Read every row; once, at daemon start."""
        for record, state in self._table.load():
            self._by_id[record.id] = Container(record, state)
            self._id_by_name[record.name] = record.id

    def __iter__(self) -> Iterator[Container]:
        """Those there are now, in no order; safe against changes meanwhile."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id_: str) -> Container | None:
        """By full id."""
        return self._by_id.get(id_)

    def lookup(self, ref: str) -> Container:
        """By id, name or unique prefix of an id. Raises NotFound, InvalidParameter for an ambiguous one."""
        container = self._by_id.get(ref) or self._by_id.get(self._id_by_name.get(ref.removeprefix("/"), ""))
        if container is not None:
            return container
        found = [container for id_, container in self._by_id.items() if id_.startswith(ref)] if ref else []
        if len(found) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {ref}")
        if not found:
            raise NotFound(f"No such container: {ref}")
        return found[0]

    def reserve_name(self, name: str | None, id_: str) -> str:
        """Take a name (without the slash), or make one up; `release_name` gives it back.

        Raises InvalidParameter for a malformed one, Conflict for one that is taken.
        """
        if not name:
            return self._generated(id_)
        bare = checked_name(name)
        owner = self._id_by_name.setdefault(bare, id_)
        if owner != id_:
            raise Conflict(
                f'Conflict. The container name "/{bare}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        return bare

    def release_name(self, name: str) -> None:
        """The name is free again."""
        self._id_by_name.pop(name, None)

    def add(self, container: Container) -> None:
        """Store a new one, whose name is reserved: from here on it exists."""
        self._table.insert(container.record, container.state)
        self._by_id[container.id] = container

    def set_state(self, container: Container, state: State) -> None:
        """Its new state, stored and seen by everybody."""
        self._table.save_state(container.id, state)
        container.state = state

    def set_record(self, container: Container, record: Record) -> None:
        """Its new record (update), stored and seen by everybody."""
        self._table.save_record(record)
        container.record = record

    def rename(self, container: Container, name: str) -> None:
        """Give it another name. Raises as `reserve_name`."""
        old = container.record.name
        bare = self.reserve_name(name, container.id)
        try:
            self.set_record(container, replace(container.record, name=bare))
        except BaseException:
            self.release_name(bare)
            raise
        self.release_name(old)

    def remove(self, container: Container) -> None:
        """Forget it; its name is free."""
        self._table.delete(container.id)
        self._by_id.pop(container.id, None)
        self.release_name(container.record.name)
        container.gone = True

    def using_image(self, image_id: str) -> Sequence[tuple[str, bool]]:
        """(id, running) of every container made from the image, or with it mounted."""
        return [
            (c.id, c.state.running)
            for c in self
            if c.record.image_id == image_id or any(m.id == image_id for m in c.record.resolved.images)
        ]

    def using_volume(self, name: str) -> Sequence[str]:
        """Ids of the containers that mount the volume."""
        return [c.id for c in self if any(wish.name == name for wish in c.record.resolved.volumes)]

    def name_of(self, id_: str) -> str:
        """Its name by id; empty where it is gone."""
        container = self._by_id.get(id_)
        return container.record.name if container is not None else ""

    def _generated(self, id_: str) -> str:
        for attempt in range(_GENERATE_TRIES):
            name = generate(attempt)
            if self._id_by_name.setdefault(name, id_) == id_:
                return name
        self._id_by_name[id_[:12]] = id_
        return id_[:12]


def checked_name(name: str) -> str:
    """A name without its slash. Raises InvalidParameter."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare

"""Marks of rooms go with one sync of their file system, in the background."""

from collections.abc import Iterable
from pathlib import Path

from proa.engine.images.syncing import Syncing


class Disk:
    """Syncs when it is told to; what `fail` holds is raised once."""

    def __init__(self) -> None:
        self.syncs: list[str] = []
        self.fail: OSError | None = None

    def sync(self, directory: str) -> None:
        self.syncs.append(directory)
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure


class Room:
    """A set of names with a mark."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.marked: list[str] = []

    def unsynced(self) -> list[str]:
        return list(self.marked)

    def synced(self, names: Iterable[str]) -> None:
        self.marked = [name for name in self.marked if name not in names]


async def test_a_sync_takes_the_marks_of_what_was_there_when_it_began(tmp_path: Path) -> None:
    disk, room = Disk(), Room(tmp_path)
    syncing = Syncing([room], sync=disk.sync)
    room.marked = ["a"]
    syncing.later()
    room.marked.append("late")
    await syncing.settle()
    assert (disk.syncs, room.marked) == ([str(tmp_path)], ["late"])


async def test_pulls_that_end_during_a_sync_share_the_next_one(tmp_path: Path) -> None:
    disk, room = Disk(), Room(tmp_path)
    syncing = Syncing([room], sync=disk.sync)
    for name in ("a", "b", "c"):
        room.marked.append(name)
        syncing.later()
    await syncing.settle()
    assert (len(disk.syncs), room.marked) == (2, [])
    syncing.later()
    await syncing.settle()
    assert len(disk.syncs) == 2


async def test_rooms_on_one_file_system_need_one_sync(tmp_path: Path) -> None:
    disk, rooms = Disk(), [Room(tmp_path), Room(tmp_path)]
    for room in rooms:
        room.marked = ["a"]
    syncing = Syncing(rooms, sync=disk.sync)
    syncing.later()
    await syncing.settle()
    assert (len(disk.syncs), rooms[0].marked, rooms[1].marked) == (1, [], [])


async def test_a_sync_that_fails_leaves_the_marks(tmp_path: Path) -> None:
    disk, room = Disk(), Room(tmp_path)
    disk.fail = OSError(5, "Input/output error")
    room.marked = ["a"]
    syncing = Syncing([room], sync=disk.sync)
    syncing.later()
    await syncing.settle()
    assert room.marked == ["a"]


async def test_a_daemon_that_ends_leaves_the_marks(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.marked = ["a"]
    syncing = Syncing([room], sync=Disk().sync)
    syncing.later()
    syncing.close()
    await syncing.settle()
    assert room.marked == ["a"]

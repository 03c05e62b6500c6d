"""Removals go on in the background, one after the other, whatever becomes of one."""

import threading
from collections.abc import Iterable
from pathlib import Path

from proa.engine.images.disposal import Disposal
from proa.errors import System


class Disk:
    """Removes when it is let; never two at once."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.removed: list[Path] = []
        self.busy = threading.Lock()

    def remove(self, paths: Iterable[Path]) -> None:
        assert self.busy.acquire(blocking=False)
        self.free.wait(5)
        self.removed += paths
        self.busy.release()


def test_who_adds_does_not_wait() -> None:
    disk = Disk()
    disposal = Disposal(disk.remove)
    disposal.add([Path("a"), Path("b")])
    disposal.add([Path("c")])
    assert disk.removed == []
    disk.free.set()
    disposal.settle()
    assert disk.removed == [Path("a"), Path("b"), Path("c")]
    disposal.add([Path("d")])
    disposal.settle()
    assert disk.removed[-1] == Path("d")


def test_an_end_is_waited_for_by_nothing_but_the_tree_at_hand() -> None:
    disk = Disk()
    disposal = Disposal(disk.remove)
    disposal.add([Path("a")])
    disposal.close()
    disposal.add([Path("b")])
    disk.free.set()
    disposal.settle()
    assert disk.removed in ([], [Path("a")])  # by whether it had begun


def test_one_that_cannot_be_removed_keeps_no_other() -> None:
    removed: list[Path] = []

    def remove(paths: Iterable[Path]) -> None:
        for path in paths:
            if path.name == "bad":
                raise System("busy")
            removed.append(path)

    disposal = Disposal(remove)
    disposal.add([Path("bad"), Path("good")])
    disposal.settle()
    assert removed == [Path("good")]

"""Directories as clients send them: whole trees, and what must not be made of hostile ones."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from proa_native import ReceivedTree

from proa.buildkit import filesync, messages
from proa.buildkit.filesync import DATA, ERR, FIN, STAT, go_mode

TIME = 1_700_000_000_123_456_789


def told(path: str, mode: int = 0o100644, **more: Any) -> bytes:
    entry = messages.Stat(path=path, mode=go_mode(mode), **{"modTime": TIME, **more})
    packet: bytes = messages.Packet(type=STAT, stat=entry).SerializeToString()
    return packet


def data(number: int, content: bytes) -> bytes:
    packet: bytes = messages.Packet(type=DATA, ID=number, data=content).SerializeToString()
    return packet


END = messages.Packet(type=STAT).SerializeToString()
DIRECTORY, LINK = 0o040755, 0o120777


class Tree:
    """One on its way, by packets."""

    def __init__(self, directory: Path) -> None:
        self.received = ReceivedTree(str(directory / "root"), str(directory / "records"))
        self.finished = False

    def take(self, packets: list[bytes]) -> list[int]:
        """The numbers of the files that are asked for."""
        framed = (b"\0" + len(packet).to_bytes(4, "big") + packet for packet in packets)
        answer = self.received.take(b"".join(framed))
        wanted = []
        while answer:
            end = 5 + int.from_bytes(answer[1:5], "big")
            packet = messages.Packet.FromString(answer[5:end])
            if packet.type == FIN:
                self.finished = True
            else:
                wanted.append(packet.ID)
            answer = answer[end:]
        return wanted


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_whole_tree(tree: Tree, tmp_path: Path) -> None:
    root = tmp_path / "root"
    wanted = tree.take(
        [
            told("a", 0o100600, size=5),
            told("d", 0o042750),
            told("d/empty"),
            told("d/link", LINK, linkname="../../outside"),
            told("d/run", 0o100755, size=3),
            told("d/same", 0o100755, linkname="d/run"),
            told("pipe", 0o010644),
        ]
    )
    assert wanted == [0, 4]
    assert not tree.received.whole
    tree.take([END, data(4, b"#!x"), data(0, b"he"), data(4, b""), data(0, b"llo"), data(0, b"")])
    assert tree.received.whole
    assert tree.finished
    tree.received.finish()
    assert (root / "a").read_bytes() == b"hello"
    assert (root / "d/run").read_bytes() == b"#!x"
    assert (root / "d/link").readlink() == Path("../../outside")
    assert (root / "d/same").samefile(root / "d/run")
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2750
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o600
    for path in (root / "a", root / "d", root / "d/empty", root / "d/run"):
        assert path.stat().st_mtime_ns == TIME
    assert (root / "d/link").lstat().st_mtime_ns == TIME
    assert (tree.received.bytes, tree.received.size) == (8, 8)


@pytest.mark.parametrize(
    "packets",
    [
        [told("../x")],
        [told("/x")],
        [told("a/b")],
        [told("")],
        [told(".")],
        [told("d", DIRECTORY), told("d/..")],
        [told("d", DIRECTORY), told("d/../../x")],
        [told("l", LINK, linkname="/"), told("l/x")],
        [told("l", LINK, linkname="/tmp"), told("l", DIRECTORY), told("l/x")],
        [told("l", LINK, linkname="/"), told("h", linkname="l/etc/passwd")],
        [told("h", linkname="../secret")],
        [told("h", linkname="/etc/passwd")],
        [told("a\0b")],
        [told("l", LINK, linkname="a\0b")],
        [told("a", uid=2**32 - 1, gid=2**32 - 1, modTime=2**63 - 1), data(0, b"")],
        [data(0, b"x")],
        [told("a", size=1), data(1, b"x")],
        [told("a", size=1), data(0, b"x"), data(0, b""), data(0, b"more")],
        [told("a"), told("a")],
        [b"\xff\xff\xff"],
    ],
)
def test_hostile_ones_are_refused_and_stay_inside(tree: Tree, tmp_path: Path, packets: list[bytes]) -> None:
    (tmp_path / "secret").write_text("s")
    with pytest.raises((ValueError, OSError)):
        tree.take(packets)
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    inside = [Path(parent) / name for parent, _, names in os.walk(tmp_path / "root") for name in names]
    assert not any(
        path.stat().st_ino == (tmp_path / "secret").stat().st_ino for path in inside if path.exists()
    )


@pytest.mark.parametrize("head", [b"\1\0\0\0\1", b"\0\xff\xff\xff\xff"])
def test_compressed_and_giant_messages_are_refused(tree: Tree, head: bytes) -> None:
    with pytest.raises(ValueError, match="too large"):
        tree.received.take(head)


def test_a_link_to_nothing_is_refused(tree: Tree) -> None:
    tree.take([told("a", linkname="missing"), END])
    with pytest.raises(OSError, match="link a"):
        tree.received.finish()


def test_a_file_that_a_link_stands_in_for_is_not_written_through(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    assert tree.take([told("a", size=1)]) == [0]
    (tmp_path / "root/a").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="create a"):
        tree.take([data(0, b"x")])
    assert (tmp_path / "victim").read_text() == "untouched"


def test_the_clients_own_failure_is_told(tree: Tree) -> None:
    tree.take([messages.Packet(type=ERR, data=b"permission denied").SerializeToString()])
    assert tree.received.failure == "permission denied"


def test_what_was_kept_is_not_asked_for_again(tree: Tree, tmp_path: Path) -> None:
    packets = [told("a", size=2), told("d", DIRECTORY), told("d/f", size=1, xattrs={"user.k": b"v"}), END]
    assert tree.take(packets) == [0, 2]
    tree.take([data(0, b"hi"), data(0, b""), data(2, b"f"), data(2, b"")])
    tree.received.finish()
    again = Tree(tmp_path)
    assert again.take(packets) == []
    again.received.finish()
    changed = Tree(tmp_path)
    assert changed.take([told("a", size=2, modTime=TIME + 1), packets[1], packets[2], END]) == [0]
    dropped = Tree(tmp_path)  # the one before did not come to its end: nothing is known any more
    assert dropped.take(packets) == [0, 2]


@pytest.mark.parametrize("blocked", ["open", "take", "finish"])
async def test_a_cancelled_receipt_ends_when_nothing_writes_any_more(
    blocked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    begun, goes_on, ended = asyncio.Event(), threading.Event(), threading.Event()

    class Slow:
        """A tree, one of whose calls lasts until it is told to go on."""

        failure, whole, size = None, True, 0

        def __init__(self, *places: str) -> None:
            self.call("open")

        def call(self, name: str) -> None:
            if name == blocked:
                loop.call_soon_threadsafe(begun.set)
                goes_on.wait(10)
                ended.set()

        def take(self, data: bytes) -> bytes:
            self.call("take")
            return b""

        def finish(self) -> None:
            self.call("finish")

    class Stream:
        """Has one piece of data."""

        closed_by_us = True

        def __init__(self) -> None:
            self.pieces = [b"x"]

        async def read(self) -> bytes:
            return self.pieces.pop() if self.pieces else b""

    @asynccontextmanager
    async def calling(*asked: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(call=SimpleNamespace(stream=Stream()))

    monkeypatch.setattr(filesync, "ReceivedTree", Slow)
    monkeypatch.setattr(filesync, "Calling", calling)
    session: Any = SimpleNamespace(connection=None)
    task = asyncio.create_task(filesync.receive(session, "context", tmp_path, None))
    await begun.wait()
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()

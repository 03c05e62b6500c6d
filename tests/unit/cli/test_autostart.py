"""The local daemon is started when nothing listens, once, and a failure says why."""

import sys
import threading
from pathlib import Path

import pytest

from proa.cli import autostart
from proa.cli.failure import ConnectionFailed

# What stands for the daemon: leaves a mark, listens, says so, and ends after so many looks.
LISTENS = """
import _socket, os, sys
path, mark, fd, looks = sys.argv[1:]
open(mark, "a").write("x")
server = _socket.socket(_socket.AF_UNIX)
server.bind(path)
server.listen(8)
os.write(int(fd), b"1")
os.close(int(fd))
server.settimeout(60)
for _ in range(int(looks)):
    server._accept()
"""

FAILS = """
import sys
print("some trace", "proad: no room on the device", "", sep="\\n", file=sys.stderr)
sys.exit(1)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exec root that is not there yet, for a caller who is root."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path / "run"


def plays(monkeypatch: pytest.MonkeyPatch, program: str, root: Path, looks: int = 1) -> Path:
    """Run `program` for the daemon; returns the file that counts its starts."""
    mark = root.parent / "mark"

    def command(ready_fd: int) -> list[str]:
        arguments = [str(root / "proad.sock"), str(mark), str(ready_fd), str(looks)]
        return [sys.executable, "-I", "-S", "-c", program, *arguments]

    monkeypatch.setattr(autostart, "_command", command)
    return mark


def test_it_is_started_and_connected_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = plays(monkeypatch, LISTENS, root)
    autostart.start_and_connect(str(root / "proad.sock")).close()
    assert mark.read_text() == "x"
    assert root.stat().st_mode & 0o777 == 0o700


def test_of_many_at_once_one_starts_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = plays(monkeypatch, LISTENS, root, looks=4)
    connected = []

    def connect() -> None:
        connected.append(autostart.start_and_connect(str(root / "proad.sock")))

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mark.read_text() == "x"
    assert len(connected) == 4
    for connection in connected:
        connection.close()


def test_a_failure_is_told_in_its_last_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plays(monkeypatch, FAILS, root)
    with pytest.raises(ConnectionFailed, match=r"the daemon did not start: proad: no room on the device$"):
        autostart.start_and_connect(str(root / "proad.sock"))


def test_it_is_started_again_once_another_has_gone_down(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_fails = LISTENS.replace("server =", "if os.path.getsize(mark) == 1: sys.exit(1)\nserver =", 1)
    mark = plays(monkeypatch, first_fails, root)
    held = iter([True, True, False])
    monkeypatch.setattr(autostart, "_is_held", lambda lock: next(held))
    autostart.start_and_connect(str(root / "proad.sock")).close()
    assert mark.read_text() == "xx"


def test_another_user_is_told_that_only_root_can(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConnectionFailed, match="Only root can start it: rootless mode is not available yet"):
        autostart.start_and_connect(str(root / "proad.sock"))
    assert not root.exists()


def test_nothing_of_the_working_directory_is_imported_by_root() -> None:
    assert autostart._command(3)[1:4] == ["-P", "-m", "proa.daemon"]

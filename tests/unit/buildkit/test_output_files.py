"""What of an image's files is sent to a client that asks for them."""

import os
from pathlib import Path

import pytest

from proa.buildkit.grpc import CallFailed
from proa.buildkit.outputs import _open_regular


def test_a_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with _open_regular(str(tmp_path / "file")) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "nothing"])
def test_nothing_else_is_opened(tmp_path: Path, kind: str) -> None:
    """A link of the image leads to a file of the host, and a fifo would keep a thread for ever."""
    path = tmp_path / "it"
    if kind == "link":
        (tmp_path / "secret").write_text("the host's")
        path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(CallFailed, match="not a regular file"):
        _open_regular(str(path))

"""--ssh with keys in files: an agent of the build's own, which answers and is gone with it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from proa.cli.build_ssh import Agents
from proa.cli.failure import Failure


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if not shutil.which("ssh-keygen") or not shutil.which("ssh-agent"):
        pytest.skip("needs OpenSSH's ssh-keygen and ssh-agent")
    path = tmp_path / "key.pem"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", path], check=True)
    return path


def test_a_key_is_served_as_long_as_the_block_lasts(key: Path) -> None:
    with Agents([f"mine={key}"]) as sockets:
        (socket,) = sockets.values()
        listed = subprocess.run(
            ["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": socket}, capture_output=True, check=True
        )
        assert b"the-key" in listed.stdout
        # Another agent's socket goes as it is.
        with Agents([f"other={socket}"]) as others:
            assert others == {"other": socket}
        with pytest.raises(Failure, match="only single socket allowed"), Agents([f"x={socket},{socket}"]):
            pass
    assert not Path(socket).parent.exists()


def test_a_key_that_is_none_leaves_nothing(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").write_text("no key")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(Failure, match="could not parse ssh"), Agents([f"mine={tmp_path / 'bad'}"]):
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_openssh_it_says_what_is_missing(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Failure, match="needs ssh-agent: install OpenSSH"), Agents([f"mine={key}"]):
        pass

"""A directory as the tar that a daemon elsewhere builds from."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from proa.cli.build_tar import context_tar
from proa.cli.failure import Failure


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "sub/deep").mkdir(parents=True)
    (directory / "Dockerfile").write_text("FROM a\n")
    (directory / "sub/a.log").write_text("a")
    (directory / "sub/deep/keep.log").write_text("keep")
    (directory / "link").symlink_to("sub")
    return directory


Read = tuple[dict[str, tarfile.TarInfo], str, dict[str, bytes]]


def read(root: Path, file: str = "", text: bytes | None = None) -> Read:
    parts, name = context_tar(str(root), file, text)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        members = {member.name: member for member in archive}
        files = {key: archive.extractfile(member) for key, member in members.items() if member.isreg()}
        return members, name, {key: file.read() for key, file in files.items() if file is not None}


def test_everything_is_roots_and_in_order(root: Path) -> None:
    os.chown(root / "sub/a.log", 12, 34) if os.geteuid() == 0 else None
    members, name, contents = read(root)
    assert name == "Dockerfile"
    assert list(members) == ["Dockerfile", "link", "sub", "sub/a.log", "sub/deep", "sub/deep/keep.log"]
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert members["link"].linkname == "sub"
    assert contents["sub/a.log"] == b"a"


def test_what_is_ignored_stays_but_for_the_dockerfile_and_what_is_taken_back(root: Path) -> None:
    (root / ".dockerignore").write_text("*\n!sub/deep/keep.log\n")
    members, _, _ = read(root)
    assert list(members) == [".dockerignore", "Dockerfile", "sub", "sub/deep", "sub/deep/keep.log"]


def test_a_dockerfile_has_its_own_ignore_file(root: Path) -> None:
    (root / ".dockerignore").write_text("*\n")
    (root / "sub/other").write_text("FROM b\n")
    (root / "sub/other.dockerignore").write_text("**/*.log\nsub\n")
    members, name, _ = read(root, str(root / "sub/other"))
    assert name == "sub/other"
    assert list(members) == [
        ".dockerignore", "Dockerfile", "link", "sub", "sub/other", "sub/other.dockerignore"
    ]  # fmt: skip


def test_a_dockerfile_from_elsewhere_travels_along(root: Path, tmp_path: Path) -> None:
    (tmp_path / "d").write_text("FROM c\n")
    (tmp_path / "d.dockerignore").write_text("sub\nlink\n")
    members, name, contents = read(root, str(tmp_path / "d"))
    assert name.startswith(".dockerfile.")
    assert list(members) == [name, f"{name}.dockerignore", "Dockerfile"]
    assert contents[name] == b"FROM c\n"
    assert contents[f"{name}.dockerignore"] == f"sub\nlink\n\n{name}\n{name}.dockerignore\n".encode()
    _, name, contents = read(root, "-", b"FROM d\n")
    assert contents[name] == b"FROM d\n"


def test_a_dockerfile_that_is_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="failed to read dockerfile: open nope: no such file"):
        context_tar(str(root), str(root / "nope"), None)
    with pytest.raises(Failure, match="failed to read dockerfile"):
        context_tar(str(root), str(tmp_path / "nope"), None)
    (root / ".dockerignore").write_text("[\n")
    with pytest.raises(Failure, match=r"failed to read \.dockerignore"):
        context_tar(str(root), "", None)

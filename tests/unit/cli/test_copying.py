"""`cp`: what paths mean, and a tar of a container that nobody can be trusted to have left sane."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proa.cli.copying import (
    Place,
    absolute,
    check_output,
    destination,
    link_of,
    parted,
    prepare,
    renamed,
    source_of,
    split,
)
from proa.cli.failure import Failure
from proa.cli.localtar import pack, unpack


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("c:/a", ("c", "/a")),
        ("c:", ("c", "")),
        ("/x:y", ("", "/x:y")),
        ("./x:y", ("", "./x:y")),
        ("..:y", ("", "..:y")),
        ("plain", ("", "plain")),
        ("-", ("", "-")),
    ],
)
def test_an_argument_names_a_container_or_a_local_path(argument: str, found: tuple[str, str]) -> None:
    assert split(argument) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/b", ("/a", "b")),
        ("/a/b/", ("/a", "b")),
        ("/a/b/.", ("/a/b", ".")),
        ("/", ("/", "/")),
        ("/.", ("/", ".")),
        ("a", (".", "a")),
        ("/a/../b", ("/", "b")),
    ],
)
def test_directory_and_last_name(path: str, found: tuple[str, str]) -> None:
    assert parted(path) == found


def test_the_end_of_a_path_stays() -> None:
    here = os.getcwd()
    assert absolute("x/") == f"{here}/x/"
    assert absolute("x/.") == f"{here}/x/."
    assert absolute(".") == f"{here}/."
    assert absolute("/a//b") == "/a/b"
    assert renamed("/l/", "/target") == ("/target/", "l")
    assert renamed("/x/l", "/y/l") == ("/y/l", "")
    assert link_of("/a/l", "../b") == "/b"
    assert link_of("/a/l", "/c") == "/c"


FILE, DIRECTORY = Place("/s/f", exists=True), Place("/s/d", exists=True, directory=True)


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        (FILE, Place("/t", exists=True, directory=True), ("/t", [])),
        (DIRECTORY, Place("/t", exists=True, directory=True), ("/t", [])),
        (FILE, Place("/t/x", exists=True), ("/t", [("f", "x")])),
        (FILE, Place("/t/x"), ("/t", [("f", "x")])),
        (DIRECTORY, Place("/t/x"), ("/t", [("d", "x")])),
        (DIRECTORY, Place("/t/x/"), ("/t", [("d", "x")])),
        (Place("/s/d/.", exists=True, directory=True), Place("/t/x"), ("/t", [(".", "x")])),
        (Place("/s/d", exists=True, directory=True, rename="l"), Place("/t/x"), ("/t", [("l", "x")])),
    ],
)
def test_where_it_goes_and_under_which_name(source: Place, target: Place, found: object) -> None:
    assert prepare(source, target) == found


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (DIRECTORY, Place("/t/x", exists=True), "cannot copy directory"),
        (FILE, Place("/t/x/"), "no such directory"),
        (FILE, Place("/t/x/."), "no such directory"),
        (FILE, Place(""), "no such directory"),
    ],
)
def test_what_cannot_be(source: Place, target: Place, words: str) -> None:
    with pytest.raises(Failure, match=words):
        prepare(source, target)


def test_local_ends_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "broken").symlink_to("new")
    os.mkfifo(tmp_path / "fifo")
    assert destination(f"{tmp_path}/link").path == f"{tmp_path}/dir"
    assert not destination(f"{tmp_path}/broken").exists
    assert destination(f"{tmp_path}/broken").path == f"{tmp_path}/new"
    assert not source_of(f"{tmp_path}/link", False).directory
    followed = source_of(f"{tmp_path}/link", True)
    assert (followed.path, followed.directory, followed.rename) == (f"{tmp_path}/dir", True, "link")
    with pytest.raises(Failure, match=r"lstat .*/nope: no such file or directory"):
        source_of(f"{tmp_path}/nope", False)
    with pytest.raises(Failure, match=r'invalid output path: directory ".*nope" does not exist'):
        check_output(f"{tmp_path}/nope/x")
    with pytest.raises(Failure, match="got an irregular file"):
        check_output(f"{tmp_path}/fifo")


# ---- archives -----------------------------------------------------------------------------------


def archive(*members: tuple[str, bytes, bytes, str]) -> Iterator[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target:
        for name, kind, content, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(content), link, 0o755
            target.addfile(info, io.BytesIO(content))
    data = out.getvalue()
    return iter([data[:700], data[700:]])


F, D, S, H = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../out", F, b"x", "")],
        [("a/../../out", F, b"x", "")],
        [("l", S, b"", ".."), ("l/out", F, b"x", "")],
        [("l", S, b"", "{outside}"), ("l/out", F, b"x", "")],
        [("l", S, b"", "{outside}"), ("l/sub", D, b"", "")],
        [("l", S, b"", "{outside}"), ("l", D, b"", ""), ("l/out", F, b"x", "")],
        [("h", H, b"", "../secret")],
        [("l", S, b"", "{outside}"), ("h", H, b"", "l/secret")],
        [("there/out", F, b"x", "")],
        [("there", D, b"", ""), ("there/out", F, b"x", "")],
    ],
)
def test_nothing_is_written_or_linked_outside(
    tmp_path: Path, members: list[tuple[str, bytes, bytes, str]]
) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    (inside / "there").symlink_to(outside)
    made = [(n, k, c, link.replace("{outside}", str(outside))) for n, k, c, link in members]
    with pytest.raises(Failure):
        unpack(archive(*made), str(inside), [])
    assert os.listdir(outside) == ["secret"]
    assert os.stat(outside / "secret").st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["inside", "outside", "secret"]


def test_a_file_does_not_go_through_a_link_in_its_place(tmp_path: Path) -> None:
    victim, inside = tmp_path / "victim", tmp_path / "inside"
    victim.write_text("kept")
    inside.mkdir()
    (inside / "f").symlink_to(victim)
    unpack(archive(("f", F, b"new", "")), str(inside), [])
    assert victim.read_text() == "kept"
    assert (inside / "f").read_bytes() == b"new"


def test_no_kind_replaces_the_other(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("x")
    with pytest.raises(Failure, match=r'cannot overwrite directory ".*/d" with non-directory'):
        unpack(archive(("d", F, b"x", "")), str(tmp_path), [])
    with pytest.raises(Failure, match=r'cannot overwrite non-directory ".*/f" with directory'):
        unpack(archive(("f", D, b"", "")), str(tmp_path), [])


def test_what_is_packed_unpacks_under_its_new_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "file").write_bytes(b"x" * 300_000)
    os.chmod(source / "file", 0o640)
    os.utime(source / "file", ns=(10**18, 10**18))
    os.link(source / "file", source / "sub/hard")
    (source / "link").symlink_to("sub/../file")
    os.mkfifo(source / "fifo")
    os.chmod(source / "sub", 0o500)
    (source / ("n" * 200)).touch()
    try:
        unpack(pack(str(source), "", [("source", "renamed")]), str(target), [("renamed", "again")])
        found = target / "again"
        assert sorted(os.listdir(found)) == sorted(os.listdir(source))
        status = os.stat(found / "file")
        assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns) == (0o640, 300_000, 10**18)
        assert os.stat(found / "sub/hard").st_ino == status.st_ino
        assert os.readlink(found / "link") == "sub/../file"
        assert stat.S_IMODE(os.stat(found / "sub").st_mode) == 0o500
        assert stat.S_ISFIFO(os.stat(found / "fifo").st_mode)
    finally:
        for path in (source / "sub", target / "again/sub"):
            if path.exists():
                os.chmod(path, 0o700)


def test_a_dot_names_what_is_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    data = b"".join(pack(f"{tmp_path}/.", "", []))
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        assert found.getnames() == [".", "./f"]

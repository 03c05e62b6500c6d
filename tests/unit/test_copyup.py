"""Copy-up reads layers as overlayfs merges them, and never leaves the image."""

import os
from pathlib import Path

import proa_native
import pytest

from proa.copyup import copy_up
from proa.errors import System


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper" / "data").mkdir(parents=True)
    return tmp_path / "upper"


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    (tmp_path / "lower" / "data" / "sub").mkdir(parents=True)
    return tmp_path / "lower"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def copy(upper: Path, lower: Path, volume: Path, target: str = "/data") -> bool:
    return copy_up([str(upper), str(lower)], target, str(volume))


def test_layers_are_merged(upper: Path, lower: Path, volume: Path) -> None:
    (lower / "data" / "file").write_text("low")
    (upper / "data" / "file").write_text("up")
    (lower / "data" / "sub" / "deep").write_text("deep")
    (lower / "data" / "link").symlink_to("file")
    os.link(lower / "data" / "file", lower / "data" / "hard")
    (upper / "data").chmod(0o750)
    assert copy(upper, lower, volume)
    assert (volume / "file").read_text() == "up"
    assert (volume / "sub" / "deep").read_text() == "deep"
    assert os.readlink(volume / "link") == "file"
    assert (volume / "hard").read_text() == "low"
    assert volume.stat().st_mode & 0o7777 == 0o750


def test_modes_and_times_are_kept(upper: Path, lower: Path, volume: Path) -> None:
    (lower / "data" / "tool").write_text("#!")
    (lower / "data" / "tool").chmod(0o4711)
    os.utime(lower / "data" / "tool", ns=(1_000, 2_000_000_000))
    copy(upper, lower, volume)
    status = (volume / "tool").stat()
    assert status.st_mode & 0o7777 == 0o4711
    assert status.st_mtime_ns == 2_000_000_000


def test_hardlinks_stay_links(upper: Path, lower: Path, volume: Path) -> None:
    (lower / "data" / "a").write_text("x")
    os.link(lower / "data" / "a", lower / "data" / "b")
    copy(upper, lower, volume)
    assert (volume / "a").stat().st_ino == (volume / "b").stat().st_ino


def test_a_file_above_hides_a_directory_below(upper: Path, lower: Path, volume: Path) -> None:
    (upper / "data" / "sub").write_text("now a file")
    (lower / "data" / "sub" / "deep").write_text("hidden")
    copy(upper, lower, volume)
    assert (volume / "sub").read_text() == "now a file"


def test_a_volume_with_something_in_it_is_left_alone(upper: Path, lower: Path, volume: Path) -> None:
    (lower / "data" / "file").write_text("x")
    (volume / "mine").write_text("mine")
    assert not copy(upper, lower, volume)
    assert os.listdir(volume) == ["mine"]


@pytest.mark.parametrize("target", ["/missing", "/data/file", "/data/file/below", "/loop/x"])
def test_an_image_without_a_directory_there(upper: Path, lower: Path, volume: Path, target: str) -> None:
    (lower / "data" / "file").write_text("x")
    (lower / "loop").symlink_to("loop")
    assert not copy(upper, lower, volume, target)
    assert os.listdir(volume) == []


@pytest.mark.parametrize("link", ["/data", "data", "../../../../data", "/hop/../data"])
def test_symlinks_of_the_target_stay_inside(upper: Path, lower: Path, volume: Path, link: str) -> None:
    (lower / "data" / "file").write_text("inside")
    (lower / "hop").symlink_to("/data")
    (upper / "entry").symlink_to(link)
    assert copy(upper, lower, volume, "/entry")
    assert (volume / "file").read_text() == "inside"


def test_a_symlink_to_the_host_finds_nothing(upper: Path, lower: Path, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("k")
    (upper / "entry").symlink_to(tmp_path / "secret")
    (lower / "data" / "inner").symlink_to(tmp_path / "secret")
    assert not copy(upper, lower, volume, "/entry")
    assert copy(upper, lower, volume)
    assert (volume / "inner").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device nodes")
def test_whiteouts_and_opaque_directories(upper: Path, lower: Path, volume: Path) -> None:
    (lower / "data" / "gone").write_text("x")
    (lower / "data" / "sub" / "old").write_text("x")
    os.mknod(upper / "data" / "gone", 0o020000, 0)
    (upper / "data" / "sub").mkdir()
    (upper / "data" / "sub" / "new").write_text("x")
    try:
        os.setxattr(upper / "data" / "sub", "trusted.overlay.opaque", b"y")
    except OSError:
        pytest.skip("no trusted xattrs here")
    copy(upper, lower, volume)
    assert not (volume / "gone").exists()
    assert os.listdir(volume / "sub") == ["new"]


def test_a_tree_that_is_nested_too_deep_is_refused_and_nothing_stays(
    upper: Path, lower: Path, volume: Path
) -> None:
    here = os.open(upper / "data", os.O_DIRECTORY)
    for _ in range(2000):  # no path is that long: one level from the other
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(System, match="name too long"):
        copy(upper, lower, volume)
    assert list(volume.iterdir()) == []
    proa_native.remove_tree(str(upper / "data"))

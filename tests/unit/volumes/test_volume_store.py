"""The local volume driver's records and directories."""

import os
from pathlib import Path

import pytest

from proa.errors import Conflict, InvalidParameter, NotFound
from proa.metadata import Metadata
from proa.volumes import SCHEMA, VolumeStore


@pytest.fixture
def database(tmp_path: Path) -> Metadata:
    return Metadata(tmp_path / "db", {"volumes": SCHEMA})


@pytest.fixture
def store(database: Metadata, tmp_path: Path) -> VolumeStore:
    return VolumeStore(database, str(tmp_path / "volumes"))


def test_a_volume_is_made_once(store: VolumeStore) -> None:
    made, new = store.create("data", labels={"a": "b"})
    assert new
    assert made.path == store.path("data")
    assert os.path.isdir(made.path)
    assert store.create("data", labels={"other": "x"}) == (made, False)
    assert not made.anonymous


def test_without_a_name_it_is_anonymous(store: VolumeStore) -> None:
    made, _ = store.create()
    assert len(made.name) == 64
    assert made.anonymous


def test_volumes_are_there_for_the_next_daemon(
    store: VolumeStore, database: Metadata, tmp_path: Path
) -> None:
    store.create("bb", labels={"k": "v"})
    store.create("aa")
    again = VolumeStore(database, str(tmp_path / "volumes"))
    assert [v.name for v in again.list()] == ["aa", "bb"]
    assert again.get("bb") == store.get("bb")


def test_taking_away_leaves_a_directory_to_delete(store: VolumeStore) -> None:
    store.create("data")
    Path(store.path("data"), "file").write_text("x")
    grave = store.take_away("data")
    assert Path(grave, "_data", "file").exists()
    assert not Path(store.path("data")).parent.exists()
    assert store.sweep() == [grave]
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        store.get("data")
    store.create("data")
    assert not Path(store.path("data"), "file").exists()


def test_a_directory_removed_by_hand_does_not_keep_the_record(store: VolumeStore) -> None:
    store.create("data")
    os.rmdir(store.path("data"))
    os.rmdir(os.path.dirname(store.path("data")))
    store.take_away("data")
    assert store.find("data") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "create a: volume name is too short, names should be at least two alphanumeric characters"),
        ("../x", "includes invalid characters for a local volume name"),
        (".x", "includes invalid characters"),
        ("a/b", "includes invalid characters"),
        ("ok\n", "includes invalid characters"),
        ("x" * 256, "includes invalid characters"),
    ],
)
def test_names_that_are_refused(store: VolumeStore, name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        store.create(name)
    assert store.sweep() == []


def test_a_volume_has_one_driver_and_its_options(store: VolumeStore) -> None:
    store.create("data", options={"type": "tmpfs", "device": "tmpfs"})
    assert store.create("data")[0].mounts
    with pytest.raises(Conflict, match=r"^create data: conflict: volume name must be unique$"):
        store.create("data", driver="nfs")
    again, new = store.create("data", options={"type": "ext4", "device": "/dev/sdb"})
    assert (again.options["type"], new) == ("tmpfs", False), "it stays as it was made, as Docker has it"
    theirs, _ = store.create("theirs", driver="nfs")
    assert theirs.mounts
    assert not os.path.exists(theirs.path)


def test_mounts_are_known_to_the_next_daemon(store: VolumeStore, database: Metadata, tmp_path: Path) -> None:
    for name, holder in (("data", "c1"), ("data", "c2"), ("data", "c1")):
        store.mounted(name, holder)
    store.unmounted("data", "c1")
    store.unmounted("other", "c1")
    assert VolumeStore(database, str(tmp_path / "volumes")).mounts() == [("data", "c2")]

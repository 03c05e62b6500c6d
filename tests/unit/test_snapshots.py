"""Snapshots: committed ones by chain id, active ones by key."""

import os
from pathlib import Path

import pytest

from proa.errors import NotFound
from proa.metadata import Metadata
from proa.snapshots import SCHEMA, Snapshots


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(tmp_path: Path, root: Path) -> Snapshots:
    return Snapshots(root, Metadata(tmp_path / "db", {"snapshots": SCHEMA}))


def commit(snapshots: Snapshots, chain_id: str, parent: str = "", same_files: str = "") -> str:
    draft = snapshots.draft()
    (draft / chain_id).touch()
    assert snapshots.record(draft, chain_id, parent, size=1, inodes=1, same_files=same_files)
    return str(draft)


def test_the_same_files_count_once(snapshots: Snapshots) -> None:
    assert snapshots.size() == 0
    for chain_id, parent, same in (
        ("a", "", ""),
        ("b", "a", ""),
        ("c", "", ""),
        ("d", "a", "c"),
        ("e", "b", "c"),
    ):
        commit(snapshots, chain_id, parent, same)
    assert snapshots.size() == 3
    snapshots.forget(["c"])
    assert snapshots.size() == 3


def test_a_stack_is_listed_top_first(snapshots: Snapshots) -> None:
    base = commit(snapshots, "a")
    middle = commit(snapshots, "b", "a")
    top = commit(snapshots, "c", "b")
    assert snapshots.lower("c") == (top, middle, base)
    assert snapshots.lower("") == ()
    with pytest.raises(NotFound):
        snapshots.lower("missing")


def test_a_chain_id_is_committed_once(snapshots: Snapshots) -> None:
    first = commit(snapshots, "a")
    late = snapshots.draft()
    assert not snapshots.record(late, "a", "", size=1, inodes=1)
    assert snapshots.lower("a") == (first,)
    assert not snapshots.is_committed(late)


async def test_what_is_forgotten_can_be_discarded(snapshots: Snapshots, root: Path) -> None:
    commit(snapshots, "a")
    (draft,) = snapshots.forget(["a", "unknown"])
    assert snapshots.find("a") is None
    await snapshots.discard(draft)
    assert [path.name for path in root.iterdir()] == ["base"]


def test_an_active_snapshot_is_made_over_its_layers(snapshots: Snapshots, root: Path) -> None:
    lower = commit(snapshots, "a")
    os.chmod(lower, 0o1777)
    overlay = snapshots.prepare("key", [lower], volatile=True)
    assert overlay.lower == (lower, str(root / "base/container"))
    assert overlay.volatile
    assert (overlay.upper, overlay.work) == (str(root / "key/fs"), str(root / "key/work"))
    assert os.path.isdir(overlay.work)
    assert os.stat(overlay.upper).st_mode & 0o7777 == 0o1777
    Path(overlay.upper, "kept").touch()
    assert snapshots.prepare("key", [lower], volatile=True) == overlay
    assert Path(overlay.upper, "kept").exists()


def test_lowest_is_what_the_engine_mounts_over(snapshots: Snapshots, root: Path) -> None:
    for overlay, more in (
        (snapshots.begin([]), set()),
        (snapshots.prepare("key", []), {".dockerenv", "etc/mtab"}),
    ):
        (lower,) = overlay.lower
        found = {str(path.relative_to(lower)): path for path in Path(lower).rglob("*")}
        mounted = {"dev", "proc", "sys", "etc", "etc/hosts", "etc/hostname", "etc/resolv.conf"}
        assert set(found) == mounted | more
        assert not any(path.stat().st_size for path in found.values() if path.is_file())


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o700, 0o2755])
def test_the_root_has_the_mode_of_the_top_layer(snapshots: Snapshots, mode: int) -> None:
    lower = commit(snapshots, "a")
    os.chmod(lower, mode)
    assert os.stat(snapshots.prepare("key", [lower]).upper).st_mode & 0o7777 == mode


async def test_removal_and_usage(snapshots: Snapshots, root: Path) -> None:
    upper = Path(snapshots.prepare("key", []).upper)
    (upper / "file").write_bytes(b"12345")
    os.link(upper / "file", upper / "again")
    assert await snapshots.usage("key") == 5
    await snapshots.remove("key")
    await snapshots.remove("key")
    assert await snapshots.usage("key") == 0
    assert not (root / "key").exists()


async def test_sweeps_keep_what_is_known(snapshots: Snapshots, root: Path) -> None:
    lower = commit(snapshots, "a")
    snapshots.draft()
    for key in ("kept", "dead"):
        snapshots.prepare(key, [lower])
    (root / "removed-1/fs/x").mkdir(parents=True)
    snapshots.prepare("scratch", [])
    await snapshots.sweep(["kept", "scratch"])
    snapshots.sweep_committed()
    await snapshots.settle()
    assert {path.name for path in root.iterdir()} == {"kept", "scratch", "base", Path(lower).parent.name}


def boot(tmp_path: Path, name: str) -> Snapshots:
    """The store as the daemon finds it under that boot of the kernel."""
    return Snapshots(tmp_path / "snapshots", Metadata(tmp_path / "db", {"snapshots": SCHEMA}), boot=name)


def test_what_a_sync_has_seen_survives_a_power_loss(tmp_path: Path) -> None:
    snapshots = boot(tmp_path, "first")
    commit(snapshots, "a")
    seen = snapshots.unsynced()
    commit(snapshots, "late")
    snapshots.synced(seen)
    assert len(snapshots.unsynced()) == 1
    assert boot(tmp_path, "first").doubtful() == []
    assert [snapshot.chain_id for snapshot in boot(tmp_path, "second").doubtful()] == ["late"]


async def test_a_doubtful_snapshot_is_renewed_in_its_place(tmp_path: Path) -> None:
    first = boot(tmp_path, "first")
    lower = Path(commit(first, "a"))
    commit(first, "b", "a")
    snapshots = boot(tmp_path, "second")
    bottom, top = snapshots.doubtful()
    assert (bottom.chain_id, top.chain_id) == ("a", "b")
    draft = snapshots.draft()
    (draft / "whole").touch()
    await snapshots.renew(bottom, draft)
    assert snapshots.lower("a") == (str(lower),)
    assert [path.name for path in lower.iterdir()] == ["whole"]
    assert [snapshot.chain_id for snapshot in boot(tmp_path, "second").doubtful()] == ["b"]
    assert len(boot(tmp_path, "third").doubtful()) == 2


def test_a_store_from_before_the_mark_is_taken_as_it_is(tmp_path: Path) -> None:
    database = Metadata(tmp_path / "db", {"snapshots": SCHEMA[:1]})
    database.execute("INSERT INTO snapshots VALUES ('a', '', 'l1', 1, 1)")
    assert boot(tmp_path, "any").doubtful() == []

"""A power loss between a load and the sync after it: layers come back whole, or their image goes."""

import gzip
import shutil
from pathlib import Path

import pytest
from image_archives import chunks, docker_archive, oci_archive, tar
from images_rig import Rig

from proa.schema.reference import Digest

BASE = tar({"tmp": None, "bin/true": b"#!base"})
TOP = tar({"etc/os": b"top", "tmp/x": b"x"})


def lose(directory: str) -> None:
    """What a file system may have made of files that were not synced: names without content."""
    for path in Path(directory).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


async def test_layers_come_back_from_their_blobs_where_they_were(tmp_path: Path) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE, TOP], "app:1")))
    before = rig.images.resolve("app:1")
    (Path(before.layers[1]) / "tmp").chmod(0o1777)
    for directory in before.layers:
        lose(directory)
    rig = await rig.again(boot="second")
    image = rig.images.resolve("app:1")
    assert image.layers == before.layers
    top, base = (Path(directory) for directory in image.layers)
    assert (base / "bin/true").read_bytes() == b"#!base"
    assert (top / "etc/os").read_bytes() == b"top"
    assert (top / "tmp").stat().st_mode == (base / "tmp").stat().st_mode
    assert len([name for name in rig.files() if name.startswith("snapshots/")]) == 2


async def test_what_was_synced_is_not_touched(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.load(chunks(oci_archive([BASE], "app:1")))
    (base,) = rig.images.resolve("app:1").layers
    (Path(base) / "mark").touch()
    rig = await rig.again(boot="second")
    assert (Path(base) / "mark").exists()


async def test_a_daemon_that_died_is_no_power_loss(tmp_path: Path) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE], "app:1")))
    (base,) = rig.images.resolve("app:1").layers
    (Path(base) / "mark").touch()
    rig = await rig.again()
    assert (Path(base) / "mark").exists()
    # The next one synced what the dead one could not.
    rig = await rig.again(boot="second")
    assert (Path(base) / "mark").exists()


@pytest.mark.parametrize("how", ["missing", "other bytes", "cut short"])
async def test_an_image_without_its_blob_is_forgotten(tmp_path: Path, how: str) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE], "kept:1")))
    await rig.load(chunks(oci_archive([BASE, TOP], "lost:1")))
    blob = rig.content.path(rig.images.resolve("lost:1").content[1].digest)
    if how == "missing":
        blob.unlink()
    else:
        blob.write_bytes(tar({"etc/os": b"not it"}) if how == "other bytes" else TOP[:700])
    shutil.rmtree(rig.images.resolve("lost:1").layers[0])
    rig = await rig.again(boot="second")
    assert await rig.names() == ["kept:1"]
    (base,) = rig.images.resolve("kept:1").layers
    assert (Path(base) / "bin/true").read_bytes() == b"#!base"
    assert len([name for name in rig.files() if name.startswith("snapshots/")]) == 1


async def test_a_crash_while_layers_come_back_is_gone_over_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE], "app:1")))
    (base,) = rig.images.resolve("app:1").layers
    # Between its two renames there is no directory at all.
    shutil.rmtree(Path(base).parent)
    rig = await rig.again(boot="second")
    assert (Path(base) / "bin/true").read_bytes() == b"#!base"


def settled_layers(rig: Rig) -> None:
    """The snapshots' marks are gone and the blobs' are not: a blob made later of layers that were there."""
    rig.snapshots.synced(rig.snapshots.unsynced())


@pytest.mark.parametrize("how", ["missing", "other bytes", "cut short"])
async def test_a_blob_alone_that_was_lost_takes_its_images_with_it(tmp_path: Path, how: str) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE], "kept:1")))
    await rig.load(chunks(oci_archive([TOP], "lost:1")))
    settled_layers(rig)
    blob = rig.content.path(rig.images.resolve("lost:1").content[0].digest)
    if how == "missing":
        blob.unlink()
    else:
        blob.write_bytes(b"not it" if how == "other bytes" else TOP[:700])
    rig = await rig.again(boot="second")
    assert await rig.names() == ["kept:1"]
    kept = rig.images.resolve("kept:1").content[0]
    assert rig.content.find(kept.digest) is not None
    assert rig.files() == {
        f"blobs/{kept.digest[7:]}",
        f"snapshots/{Path(rig.images.resolve('kept:1').layers[0]).parent.name}",
    }
    # It is loaded again as if it had never been there.
    await rig.load(chunks(oci_archive([TOP], "lost:1")))
    assert rig.content.path(Digest("sha256:" + blob.name)).read_bytes() == gzip.compress(TOP, mtime=0)


async def test_blobs_that_are_whole_are_looked_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE, TOP], "app:1")))
    settled_layers(rig)
    rig = await rig.again(boot="second")
    assert await rig.names() == ["app:1"]
    # The sync after it has taken the doubt away: what comes of the blob now is not the power's fault.
    rig.content.path(rig.images.resolve("app:1").content[0].digest).unlink()
    assert await (await rig.again(boot="third")).names() == ["app:1"]


async def test_what_came_uncompressed_is_lost_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has no blob to come back from; what was pulled before it is not touched."""
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(oci_archive([BASE], "kept:1")))
    await rig.load(chunks(docker_archive([TOP], ["lost:1"])))
    rig = await rig.again(boot="second")
    assert await rig.names() == ["kept:1"]
    assert len(rig.files()) == 2
    assert (
        "(lost:1) was lost in a power loss: a layer loaded uncompressed or built here had not" in caplog.text
    )


async def test_what_came_uncompressed_comes_back_by_the_blob_of_another(tmp_path: Path) -> None:
    rig = Rig(tmp_path, synced=False)
    await rig.load(chunks(docker_archive([BASE, TOP], ["plain:1"])))
    await rig.load(chunks(oci_archive([BASE], "packed:1")))
    rig.snapshots.synced([Path(rig.images.resolve("plain:1").layers[0]).parent.name])
    (base,) = rig.images.resolve("packed:1").layers
    lose(base)
    Path(base).with_name("tar").write_bytes(b"")
    rig = await rig.again(boot="second")
    assert await rig.names() == ["packed:1", "plain:1"]
    assert (Path(base) / "bin/true").read_bytes() == b"#!base"
    packed = rig.images.resolve("packed:1").content[0].digest
    assert rig.images.resolve("plain:1").content[0].digest == packed
    assert gzip.compress(BASE, mtime=0) in await rig.save("plain:1")

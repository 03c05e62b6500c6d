"""load, save and import: every form of archive, round trips, and nothing left behind by a bad one."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from image_archives import chunks, config, digest, docker_archive, legacy_archive, oci_archive, tar
from images_rig import Rig, lines, told

from proa.errors import InvalidParameter, NotFound, System
from proa.registry import Interrupted

URL = "http://web.example/root.tar"
BASE = tar({"bin": None, "bin/true": b"#!base"})
TOP = tar({"etc/os": b"top"})


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_docker_archive_becomes_an_image(rig: Rig) -> None:
    told = await rig.load(chunks(docker_archive([BASE, TOP], ["busybox:1", "busybox"])), quiet=False)
    assert told[:2] == ["Loading layer"] * 2
    assert told[2:] == ["Loaded image: busybox:1\n", "Loaded image: busybox:latest\n"]
    image = rig.images.resolve("busybox")
    assert image.id == digest(config([BASE, TOP]))
    assert image.config.cmd == ["/bin/true"]
    top, base = (Path(directory) for directory in image.layers)
    assert (top / "etc/os").read_bytes() == b"top"
    assert (base / "bin/true").read_bytes() == b"#!base"
    assert image.size == len(b"#!base") + len(b"top")
    assert ("load", image.id) in rig.events.told
    assert not any(name.startswith("ingest/") for name in rig.files())


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
async def test_the_outer_archive_may_be_compressed(rig: Rig, compress: "type[bytes]") -> None:
    await rig.load(chunks(compress(docker_archive([BASE], ["a:1"]))))
    assert await rig.names() == ["a:1"]


async def test_without_names_the_id_is_told(rig: Rig) -> None:
    told = await rig.load(chunks(docker_archive([BASE])))
    assert told == [f"Loaded image ID: {digest(config([BASE]))}\n"]


@pytest.mark.parametrize("nested", [False, True])
async def test_an_oci_layout_becomes_an_image(rig: Rig, nested: bool) -> None:
    archive = oci_archive([BASE, TOP], "docker.io/library/app:2", nested=nested)
    assert await rig.load(chunks(archive)) == ["Loaded image: app:2\n"]
    image = rig.images.resolve("app:2")
    assert [layer.diff_id for layer in image.content] == [digest(BASE), digest(TOP)]
    assert [layer.digest for layer in image.content] == [
        digest(gzip.compress(layer, mtime=0)) for layer in (BASE, TOP)
    ]


async def test_layers_behind_links_are_found(rig: Rig) -> None:
    blob = config([BASE, BASE])
    manifest = [{"Config": "c.json", "RepoTags": ["twice:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    archive = tar(
        {
            "a/layer.tar": BASE,
            "b/layer.tar": "../a/layer.tar",
            "c.json": blob,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )
    await rig.load(chunks(archive))
    upper, lower = rig.images.resolve("twice:1").layers
    assert upper != lower
    assert (Path(upper) / "bin/true").read_bytes() == b"#!base"


async def test_what_is_saved_loads_as_the_same_image(rig: Rig, tmp_path: Path) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["one:1", "one:2"])))
    await rig.load(chunks(oci_archive([BASE], "docker.io/library/two:latest")))
    saved = await rig.save("one", "two:latest")
    assert saved == await rig.save("one", "two:latest")
    (tmp_path / "other").mkdir()
    other = Rig(tmp_path / "other")
    told = await other.load(chunks(saved, 4096))
    assert sorted(told) == [f"Loaded image: {name}\n" for name in ("one:1", "one:2", "two:latest")]
    for name in ("one:1", "two"):
        assert other.images.resolve(name).content == rig.images.resolve(name).content
        assert other.images.resolve(name).id == rig.images.resolve(name).id
    assert await other.save("one", "two:latest") == saved


async def test_the_saved_archive_has_both_views(rig: Rig) -> None:
    await rig.load(chunks(oci_archive([BASE], "docker.io/library/app:1")))
    with tarfile.open(fileobj=io.BytesIO(await rig.save("app:1"))) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None
            return member.read()

        (docker,) = json.loads(read("manifest.json"))
        (descriptor,) = json.loads(read("index.json"))["manifests"]
        manifest = json.loads(read(f"blobs/sha256/{descriptor['digest'][7:]}"))
        assert docker["RepoTags"] == ["app:1"]
        assert docker["Layers"] == [f"blobs/sha256/{layer['digest'][7:]}" for layer in manifest["layers"]]
        assert manifest["layers"][0]["mediaType"].endswith("tar+gzip")
        assert descriptor["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"
        for name in archive.getnames():
            if name.startswith("blobs/sha256/"):
                assert digest(read(name)) == f"sha256:{name[13:]}"


async def test_saving_by_id_saves_no_name(rig: Rig, tmp_path: Path) -> None:
    await rig.load(chunks(docker_archive([BASE], ["a:1"])))
    saved = await rig.save(rig.images.resolve("a:1").id[7:19])
    assert (await rig.load(chunks(saved)))[0].startswith("Loaded image ID")
    with pytest.raises(NotFound, match="No such image: missing:latest"):
        await rig.images.save(["missing"])


async def test_little_is_held_of_an_archive_that_nobody_reads(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([tar({"big": os.urandom(1 << 20)})], ["big:1"]), 1 << 20))
    pieces = [len(piece) async for piece in await rig.images.save(["big:1"])]
    assert sum(pieces) > 1 << 20
    assert max(pieces) <= 1 << 18


async def test_a_known_layer_is_not_unpacked_again(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["a:1"])))
    saved = await rig.save("a:1")
    before = rig.files()
    told = await rig.load(chunks(saved), quiet=False)
    assert told == ["Loaded image: a:1\n"]
    assert rig.files() == before


async def test_a_name_moves_and_the_old_image_stays(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE], ["a:1"])))
    old = rig.images.resolve("a:1").id
    told = await rig.load(chunks(docker_archive([TOP], ["a:1"])))
    assert told[0].startswith(f"The image a:1 already exists, renaming the old one with ID {old}")
    assert await rig.names(dangling=["true"]) == ["<none>"]


async def test_images_are_there_for_the_next_daemon(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["a:1"])))
    before = rig.images.resolve("a:1")
    (rig.root / "content/ingest/left").mkdir()
    (rig.root / "content/blobs/sha256" / ("0" * 64)).touch()
    (rig.root / "snapshots/l00000000/fs").mkdir(parents=True)
    files = rig.files() - {"ingest/left", f"blobs/{'0' * 64}", "snapshots/l00000000"}
    after = await rig.again()
    assert after.images.resolve("a:1") == before
    assert after.files() == files


def _oci_with_wrong_layer() -> bytes:
    archive = oci_archive([BASE], "docker.io/library/a:1")
    members: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        for member in source:
            file = source.extractfile(member)
            members[member.name] = file.read() if file else None
    members[f"blobs/sha256/{digest(gzip.compress(BASE, mtime=0))[7:]}"] = gzip.compress(TOP, mtime=0)
    return tar(members)


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (b"", "does not contain a manifest.json"),
        (b"garbage" * 400, "not a tar archive"),
        (docker_archive([BASE], ["a:1"])[:3000], "unexpected end"),
        (gzip.compress(docker_archive([BASE], ["a:1"]))[:-20], "gzip"),
        (lzma.compress(docker_archive([BASE], ["a:1"]))[:-20], "unexpected end of the compressed"),
        (tar({"manifest.json": b"[]x"}), "manifest.json"),
        (tar({"manifest.json": b'[{"Config": "../x"}]'}), "config ../x is missing"),
        (docker_archive([BASE], ["UPPER:1"]), "must be lowercase"),
        (docker_archive([BASE], ["a:1"], blob=b"{}"), "layers length mismatch"),
        (docker_archive([BASE], ["a:1"], blob=config([TOP])), "invalid diffID for layer 0"),
        (docker_archive([BASE], ["a:1"], os="windows"), "windows"),
        (docker_archive([b"not a layer"], ["a:1"]), "not a tar|unexpected end"),
        (docker_archive([tar({"../escape": b"x"})], ["a:1"]), "outside of the root"),
        (_oci_with_wrong_layer(), "invalid diffID"),
        (tar({"index.json": b'{"manifests": [{"digest": "sha256:../../x"}]}'}), "invalid digest"),
    ],
)
async def test_a_bad_archive_says_so_and_leaves_nothing(rig: Rig, archive: bytes, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        await rig.load(chunks(archive))
    assert rig.files() == set()
    assert await rig.names() == []


async def test_a_parent_that_is_none_is_refused(rig: Rig) -> None:
    """One that is not in the archive means nothing."""
    parent, child = config([BASE]), config([BASE, TOP])
    for named, known in ((digest(parent), True), ("sha256:" + "0" * 64, False)):
        await rig.load(chunks(_with_parent(parent, child, named)))
        assert (await rig.images.inspect(digest(child))).parent == (digest(parent) if known else "")
        await rig.images.remove(digest(child), force=True, prune=True)
    with pytest.raises(InvalidParameter, match="is not a valid parent"):
        await rig.load(chunks(_with_parent(child, parent, digest(child))))


def _with_parent(parent: bytes, child: bytes, told: str) -> bytes:
    members: dict[str, bytes | str | None] = {"0.tar": BASE, "1.tar": TOP}
    images = []
    for number, blob in enumerate((parent, child)):
        members[f"{number}.json"] = blob
        layers = ["0.tar", "1.tar"][: len(json.loads(blob)["rootfs"]["diff_ids"])]
        images.append({"Config": f"{number}.json", "RepoTags": None, "Layers": layers})
    images[1]["Parent"] = told
    return tar({**members, "manifest.json": json.dumps(images).encode()})


HEAD = f"{1:064x}"
LEGACY = legacy_archive([BASE, TOP], {"old": {"1": HEAD}, "reg.example/old": {"latest": HEAD}})


async def test_an_archive_of_docker_before_manifests(rig: Rig) -> None:
    told = await rig.load(chunks(LEGACY))
    assert told == ["Loaded image: old:1\n", "Loaded image: reg.example/old:latest\n"]
    image = rig.images.resolve("old:1")
    assert [layer.diff_id for layer in image.content] == [digest(BASE), digest(TOP)]
    assert (image.config.cmd, image.file.author) == (["/bin/true"], "a <b@c>")
    history = await rig.images.history("old:1")
    assert [step.created_by for step in history] == [f"/bin/sh -c echo {n} > /x && true" for n in (1, 0)]
    document = json.loads(image.config_blob)
    assert not document.keys() & {"id", "parent", "Size"}
    assert b"<" not in image.config_blob
    assert not [name for name in rig.files() if name.startswith("ingest/")]


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        (legacy_archive([BASE], {}), "does not contain a manifest.json"),
        (legacy_archive([BASE], {"a": {"1": "f" * 64}}), "invalid target ID: ffff"),
        (legacy_archive([BASE], {"A": {"1": HEAD}}), "must be lowercase"),
        (legacy_archive([BASE, TOP], {"a": {"1": HEAD}}, os="windows"), "cannot load windows image"),
        (legacy_archive([BASE], {"a": {"1": f"{0:064x}"}}, parent="e" * 64), "eeee/json is missing"),
        (legacy_archive([BASE], {"a": {"1": f"{0:064x}"}}, parent=f"{0:064x}"), "has no base"),
        (legacy_archive([b"no tar"], {"a": {"1": f"{0:064x}"}}), "not a tar|unexpected end"),
        (tar({"repositories": b"[]"}), "invalid archive: repositories"),
        (tar({"x/json": b"[]", "repositories": b"{}"}), "invalid archive: x/json"),
        (tar({"x/json": b"{}", "repositories": b"{}"}), "layer x/layer.tar is missing"),
    ],
)
async def test_a_bad_archive_of_before_manifests(rig: Rig, archive: bytes, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        await rig.load(chunks(archive))
    assert rig.files() == set()


async def test_a_client_that_goes_away_leaves_nothing(rig: Rig) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield docker_archive([BASE], ["a:1"])[:4000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await rig.load(body())
    assert rig.files() == set()


# ---- import -------------------------------------------------------------------------------------


async def import_(rig: Rig, data: bytes, *changes: str, repo: str = "made", tag: str = "") -> str:
    told = await lines(
        rig.images.import_(chunks(data), repo=repo, tag=tag, message="by hand", changes=changes, platform="")
    )
    return str(told[-1])


async def test_any_tar_becomes_an_image(rig: Rig) -> None:
    image_id = await import_(rig, gzip.compress(BASE, mtime=0), 'CMD ["sh"]', "ENV A=1 B='2 3'", tag="1")
    image = rig.images.resolve("made:1")
    assert image.id == image_id
    assert image.config.cmd == ["sh"]
    assert image.config.env == ["A=1", "B=2 3"]
    assert (Path(image.layers[0]) / "bin/true").exists()
    (step,) = await rig.images.history("made:1")
    assert step.comment == "by hand"
    assert rig.content.path(image.content[0].digest).read_bytes() == gzip.compress(BASE, mtime=0)


async def test_what_a_url_has_is_imported_as_it_comes(rig: Rig) -> None:
    rig.registry.web[URL] = gzip.compress(BASE, mtime=0)
    said = await import_url(rig)
    image = rig.images.resolve("made:latest")
    assert said == [f"Downloading from {URL}", image.id]
    assert (Path(image.layers[0]) / "bin/true").exists()


async def test_a_url_that_has_nothing_or_breaks_off_leaves_nothing(rig: Rig) -> None:
    with pytest.raises(NotFound, match="failed to GET"):
        await import_url(rig)
    rig.registry.web[URL] = BASE
    rig.registry.break_at[URL] = [len(BASE) // 2]
    with pytest.raises(Interrupted):
        await import_url(rig)
    assert (await rig.names(), rig.files()) == ([], set())


async def import_url(rig: Rig) -> list[Any]:
    wish = {"repo": "made", "tag": "", "message": "", "changes": (), "platform": ""}
    return await told(rig.images.import_(chunks(b""), url=URL, **wish))


async def test_an_import_without_a_name_has_none(rig: Rig) -> None:
    image_id = await import_(rig, BASE, repo="")
    assert rig.images.resolve(image_id).id == image_id
    assert await rig.names() == ["<none>"]


@pytest.mark.parametrize(
    ("data", "changes", "repo", "text"),
    [
        (b"x" * 2000, (), "a", "not a tar archive"),
        (BASE, ("FROM x",), "a", "from is not a valid change command"),
        (BASE, (), "A", "must be lowercase"),
    ],
)
async def test_a_bad_import_leaves_nothing(
    rig: Rig, data: bytes, changes: tuple[str, ...], repo: str, text: str
) -> None:
    with pytest.raises(InvalidParameter, match=text):
        await import_(rig, data, *changes, repo=repo)
    assert rig.files() == set()


async def test_a_plain_layer_is_kept_once_and_saved_as_it_came(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["app:1"])))
    image = rig.images.resolve("app:1")
    assert not any(name.startswith("blobs/") for name in rig.files())
    assert all(Path(directory).with_name("tar").exists() for directory in image.layers)
    saved = await rig.save("app:1")
    assert [rig.content.path(layer.digest).read_bytes() for layer in image.content] == [BASE, TOP]
    assert BASE in saved
    assert TOP in saved


async def test_a_plain_layer_whose_files_changed_is_not_saved(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE], ["app:1"])))
    (base,) = rig.images.resolve("app:1").layers
    Path(base, "bin/true").write_bytes(b"#!esab")
    with pytest.raises(System, match="its files are not what they were"):
        await rig.save("app:1")
    assert not any(name.startswith(("blobs/", "ingest/")) for name in rig.files())


async def test_a_plain_layer_that_was_there_packed_is_saved_as_it_came(rig: Rig) -> None:
    await rig.load(chunks(oci_archive([BASE], "packed:1")))
    await rig.load(chunks(docker_archive([BASE, TOP], ["plain:1"])))
    assert rig.images.resolve("plain:1").layers[1:] == rig.images.resolve("packed:1").layers
    await rig.images.remove("packed:1", force=False, prune=True)
    assert BASE in await rig.save("plain:1")


async def test_the_same_plain_layer_twice_in_a_stack(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP, BASE], ["app:1"])))
    image = rig.images.resolve("app:1")
    assert image.layers[0] != image.layers[2]
    assert len({layer.digest for layer in image.content}) == 2
    assert BASE in await rig.save("app:1")


async def test_only_the_images_of_a_platform_are_loaded(rig: Rig) -> None:
    with pytest.raises(NotFound, match=r"^requested platform \(linux/arm64\) not found: "):
        await rig.load(chunks(docker_archive([BASE], ["app:1"])), platform="linux/arm64")
    assert rig.files() == set()
    await rig.load(chunks(docker_archive([BASE], ["app:1"], architecture="arm64")), platform="linux/arm64")
    assert await rig.names() == ["app:1"]

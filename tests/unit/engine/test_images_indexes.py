"""A name that stands for several platforms: shown as one, loaded, saved, pushed and removed as a whole."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry
from image_archives import chunks, config, digest, docker_archive, tar
from images_rig import Rig

from proa.errors import NotFound
from proa.schema.image import ImageSummary
from proa.schema.oci import CONFIG, INDEX, LAYER, MANIFEST

ARCHITECTURES = ("amd64", "arm64")
LAYERS = {
    name: gzip.compress(tar({"bin": name.encode() * 500}), mtime=0) for name in (*ARCHITECTURES, "s390x")
}
REPOSITORY = "docker.io/library/multi"


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def rig(tmp_path: Path, registry: FakeRegistry) -> Rig:
    return Rig(tmp_path, registry)


def other_rig(directory: Path, name: str) -> Rig:
    (directory / name).mkdir()
    return Rig(directory / name)


def described(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def image(architecture: str) -> tuple[bytes, bytes]:
    """(manifest, config) of one platform."""
    layer = LAYERS[architecture]
    settings = config([gzip.decompress(layer)], architecture=architecture)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(settings, CONFIG),
        "layers": [described(layer, f"{LAYER}+gzip")],
    }
    return json.dumps(manifest).encode(), settings


def index_of(architectures: Sequence[str], attested: bool = False) -> bytes:
    manifests = [
        described(image(each)[0], MANIFEST, platform={"os": "linux", "architecture": each})
        for each in architectures
    ]
    if attested:
        notes = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": "sha256:x",
        }
        unknown = {"os": "unknown", "architecture": "unknown"}
        manifests.append(described(b"{}", MANIFEST, platform=unknown, annotations=notes))
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


def layout(architectures: Sequence[str], *, present: Sequence[str] = (), attested: bool = False) -> bytes:
    """An OCI layout of an index named multi:1, with all of its images or those that are `present`."""
    index = index_of(architectures, attested)
    blobs = [index]
    for each in present or architectures:
        blobs += [*image(each), LAYERS[each]]
    named = {"io.containerd.image.name": f"{REPOSITORY}:1"}
    top = {"schemaVersion": 2, "manifests": [described(index, INDEX, annotations=named)]}
    return tar(
        {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(top).encode(),
            **{f"blobs/sha256/{digest(blob)[7:]}": blob for blob in blobs},
        }
    )


async def load(rig: Rig, *architectures: str, **more: Any) -> list[Any]:
    return await rig.load(chunks(layout(architectures or ARCHITECTURES, **more)))


async def listed(rig: Rig, *, all: bool = False) -> Sequence[ImageSummary]:
    return await rig.images.list(all=all, filters={}, digests=False, shared_size=False, manifests=True)


def digests(*architectures: str) -> list[str]:
    return [digest(image(each)[0]) for each in architectures]


async def test_it_is_one_image_to_lists_with_a_manifest_for_each_platform(rig: Rig) -> None:
    assert await load(rig) == ["Loaded image: multi:1\n"]
    (found,) = await listed(rig)
    assert found.repo_tags == ["multi:1"]
    assert found.descriptor is not None
    assert (found.descriptor.media_type, found.descriptor.digest) == (INDEX, digest(index_of(ARCHITECTURES)))
    assert found.manifests is not None
    assert [each.id for each in found.manifests] == digests(*ARCHITECTURES)
    for each, architecture in zip(found.manifests, ARCHITECTURES, strict=True):
        manifest, settings = image(architecture)
        assert each.image_data is not None
        assert (each.kind, each.available) == ("image", True)
        assert (each.image_data.platform.os, each.image_data.platform.architecture) == ("linux", architecture)
        content = len(manifest) + len(settings) + len(LAYERS[architecture])
        assert (each.size.content, each.image_data.size.unpacked) == (content, 2500)
        assert each.size.total == content + 2500
    assert found.size == sum(each.size.total for each in found.manifests)
    assert len(await listed(rig, all=True)) == 2


async def test_an_image_alone_has_one_manifest(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([tar({"a": b"x" * 700})], ["plain:1"])))
    rig.containers.users = [("c1", True)]
    (found,) = await listed(rig)
    assert found.manifests is not None
    (one,) = found.manifests
    assert (one.id, one.available, one.image_data and one.image_data.containers) == (found.id, True, ["c1"])
    assert one.size.content < 700  # its layer has no blob yet
    await rig.save("plain:1")
    (found,) = await listed(rig)
    assert found.manifests is not None
    (one,) = found.manifests
    assert one.descriptor.media_type == MANIFEST
    assert one.size.content > 700
    inspected = await rig.images.inspect("plain:1", manifests=True)
    assert (inspected.manifests, inspected.descriptor) == ([one], one.descriptor)
    assert (await rig.images.inspect("plain:1")).manifests is None


async def test_what_is_not_here_is_shown_as_such(rig: Rig) -> None:
    await load(rig, *ARCHITECTURES, "s390x", present=ARCHITECTURES, attested=True)
    (found,) = await listed(rig)
    kinds = [(each.kind, each.available, each.size.total > 0) for each in found.manifests or ()]
    assert kinds == [("image", True, True)] * 2 + [("image", False, False), ("attestation", False, False)]
    missing, note = (found.manifests or [])[2:]
    assert missing.image_data is not None
    assert missing.image_data.platform.architecture == "s390x"
    assert note.attestation_data is not None
    assert note.attestation_data.for_ == "sha256:x"


@pytest.mark.parametrize("view", ["manifest.json", "index.json"])
async def test_save_and_load_keep_every_platform(rig: Rig, tmp_path: Path, view: str) -> None:
    """Of a saved archive both views are there: whoever reads the other one only is served as well."""
    await load(rig)
    saved = await rig.save("multi:1")
    assert digest(await rig.save("multi:1")) == digest(saved)
    members = {}
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            members[member.name] = file.read() if file else None
    assert {f"blobs/sha256/{digest(blob)[7:]}" for blob in LAYERS.values()} - members.keys() == {
        f"blobs/sha256/{digest(LAYERS['s390x'])[7:]}"
    }
    if view == "index.json":
        del members["manifest.json"]
    other = other_rig(tmp_path, "other")
    assert await other.load(chunks(tar(members))) == ["Loaded image: multi:1\n"]
    (found,) = await listed(other)
    assert [each.id for each in found.manifests or ()] == digests(*ARCHITECTURES)
    assert await other.save("multi:1") == saved


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_one_platform_of_it_is_saved_and_loaded_alone(
    rig: Rig, tmp_path: Path, architecture: str
) -> None:
    await load(rig)
    stream = await rig.images.save(["multi:1"], platform=f"linux/{architecture}")
    alone = b"".join([chunk async for chunk in stream])
    whole = await rig.save("multi:1")
    ids = set()
    for name, archive, platform in (("a", alone, ""), ("b", whole, f"linux/{architecture}")):
        other = other_rig(tmp_path, name)
        assert await other.load(chunks(archive), platform=platform) == ["Loaded image: multi:1\n"]
        (found,) = await listed(other, all=True)
        (one,) = found.manifests or ()
        assert one.image_data is not None
        assert one.image_data.platform.architecture == architecture
        ids.add(found.id)
    assert ids == {digest(image(architecture)[1])}
    with pytest.raises(NotFound, match="no suitable export target found for platform linux/s390x"):
        await rig.images.save(["multi:1"], platform="linux/s390x")


async def test_it_is_removed_as_a_whole(rig: Rig) -> None:
    await load(rig)
    await rig.images.tag("multi:1", "one", "2")
    removed = await rig.images.remove("multi:1", force=False, prune=True)
    assert [item.untagged for item in removed if item.untagged] == ["multi:1"]
    assert [name for image in await listed(rig, all=True) for name in image.repo_tags or ()] == ["one:2"]
    await rig.images.remove("one:2", force=False, prune=True)
    assert await listed(rig, all=True) == []
    assert rig.files() == set()


async def test_what_else_needs_one_of_it_keeps_it(rig: Rig) -> None:
    await load(rig)
    arm = digest(image("arm64")[1])
    rig.containers.by_image[arm] = [("c1", False)]
    await rig.images.remove("multi:1", force=False, prune=True)
    (left,) = await listed(rig, all=True)
    assert (left.id, left.repo_tags, left.repo_digests) == (arm, [], [])


async def test_a_name_given_anew_lets_its_images_go(rig: Rig) -> None:
    await load(rig)
    await load(rig, "amd64", "s390x")
    (found,) = [image for image in await listed(rig, all=True) if image.repo_tags]
    assert [each.id for each in found.manifests or ()] == digests("amd64", "s390x")
    pruned = await rig.images.prune({})
    assert digest(image("arm64")[1]) in [item.deleted for item in pruned.images_deleted or ()]
    again = await rig.again()
    assert [each.id for each in (await listed(again))[0].manifests or ()] == digests("amd64", "s390x")


async def test_it_is_pushed_as_a_whole_or_said_not_to_be(rig: Rig, registry: FakeRegistry) -> None:
    await load(rig)
    lines = await rig.push("multi", "1")
    index = index_of(ARCHITECTURES)
    assert lines[-1]["aux"] == {"Tag": "1", "Digest": digest(index), "Size": len(index)}
    assert registry.manifests[REPOSITORY, "1"] == (INDEX, index)
    for each in ARCHITECTURES:
        assert registry.manifests[REPOSITORY, digest(image(each)[0])][1] == image(each)[0]

    await rig.images.remove(digest(image("arm64")[1]), force=True, prune=True)
    lines = await rig.push("multi", "1")
    manifest = image("amd64")[0]
    note = {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": described(index, INDEX),
        "selectedManifest": described(manifest, MANIFEST),
    }
    assert note in [line.get("aux") for line in lines if isinstance(line, dict)]
    assert registry.manifests[REPOSITORY, "1"] == (MANIFEST, manifest)

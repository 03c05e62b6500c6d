"""Pushes to a registry in memory: what is sent, what is not, under which digests."""

import asyncio
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import chunks, digest, docker_archive, tar
from images_rig import Rig, told

from proa.errors import InvalidParameter, NotFound, ProaError
from proa.schema.registry import Credentials

BASE = tar({"etc": None, "etc/os": b"base"})
TOP = tar({"top": os.urandom(4000)})
REPOSITORY = "docker.io/library/app"


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def rig(tmp_path: Path, registry: FakeRegistry) -> Rig:
    return Rig(tmp_path, registry)


def packed(layer: bytes) -> str:
    return digest(gzip.compress(layer, mtime=0))


def manifest(registry: FakeRegistry, tag: str = "1", repository: str = REPOSITORY) -> bytes:
    return registry.manifests[repository, tag][1]


async def test_what_was_made_here_is_compressed_once_and_described_as_docker_does(
    rig: Rig, registry: FakeRegistry
) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["app:1", "app:2"])))
    lines = await rig.push("app", "1")
    pushed = digest(manifest(registry))
    size = len(manifest(registry))
    ids = [digest(layer)[7:19] for layer in (TOP, BASE)]
    assert lines[:3] == [
        f"The push refers to repository [{REPOSITORY}]",
        *(f"{id_}: Preparing" for id_ in ids),
    ]
    assert set(lines[3:5]) == {f"{id_}: Pushed" for id_ in ids}
    assert lines[5:] == [
        f"1: digest: {pushed} size: {size}",
        {"progressDetail": {}, "aux": {"Tag": "1", "Digest": pushed, "Size": size}},
    ]
    document = json.loads(manifest(registry))
    docker = "application/vnd.docker"
    assert document["mediaType"] == f"{docker}.distribution.manifest.v2+json"
    assert document["config"]["mediaType"] == f"{docker}.container.image.v1+json"
    image = rig.images.resolve("app:1")
    assert document["config"]["digest"] == image.id
    for layer, descriptor in zip((BASE, TOP), document["layers"], strict=True):
        assert descriptor["mediaType"] == f"{docker}.image.rootfs.diff.tar.gzip"
        assert gzip.decompress(registry.blobs[REPOSITORY][descriptor["digest"]]) == layer
    assert [layer.digest for layer in image.content] == [each["digest"] for each in document["layers"]]
    assert (await rig.images.inspect("app:1")).repo_digests == [f"app@{pushed}"]
    assert rig.events.told[-1] == ("push", "app")
    uploads = registry.asked.copy()
    again = await rig.push("app", "2")
    assert [line for line in again if "already exists" in str(line)] == [
        f"{id_}: Layer already exists" for id_ in ids
    ]
    assert registry.asked == uploads
    assert manifest(registry, "2") == manifest(registry, "1")


async def test_the_plain_blob_is_gone_once_there_is_a_compressed_one(
    rig: Rig, registry: FakeRegistry
) -> None:
    await rig.load(chunks(docker_archive([BASE], ["app:1", "other:1"])))
    await asyncio.gather(rig.push("app", "1"), rig.push("other", "1"))
    blobs = {path for path in rig.files() if path.startswith("blobs")}
    assert blobs == {f"blobs/{rig.images.resolve('app:1').content[0].digest[7:]}"}
    with tarfile.open(fileobj=io.BytesIO(await rig.save("app:1"))) as saved:
        assert f"blobs/sha256/{rig.images.resolve('app:1').content[0].digest[7:]}" in saved.getnames()
    again = await rig.again()
    assert again.images.resolve("app:1").content == rig.images.resolve("app:1").content


async def test_what_was_pulled_goes_out_as_it_came(rig: Rig, registry: FakeRegistry) -> None:
    pulled = registry.put_image("app:1", [BASE, TOP])
    plain = registry.put_image("plain:1", [BASE], packed=False)
    await rig.pull("app", "1")
    await rig.pull("plain", "1")
    await rig.images.tag("app:1", "host:5000/b/app", "2")
    await rig.images.tag("plain:1", "host:5000/b/plain", "2")
    await rig.push("host:5000/b/app", "2")
    await rig.push("host:5000/b/plain", "2")
    assert digest(manifest(registry, "2", "host:5000/b/app")) == pulled
    assert digest(manifest(registry, "2", "host:5000/b/plain")) == plain
    assert set(registry.blobs["host:5000/b/app"]) == set(registry.blobs[REPOSITORY])
    assert (await rig.images.inspect("app:1")).repo_digests == [f"app@{pulled}", f"host:5000/b/app@{pulled}"]


async def test_layers_of_another_repository_are_mounted(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE, TOP])
    await rig.pull("app", "1")
    await rig.images.tag("app:1", "mine/copy", "1")
    lines = await rig.push("mine/copy", "1")
    assert f"{digest(TOP)[7:19]}: Mounted from library/app" in lines
    assert f"{digest(BASE)[7:19]}: Mounted from library/app" in lines
    uploads = [key for key in registry.asked if key.startswith("PUT")]
    assert uploads == [f"PUT {rig.images.resolve('app:1').id}"]
    # Not from a registry that it is not in.
    await rig.images.tag("app:1", "host:5000/copy", "1")
    assert f"{digest(TOP)[7:19]}: Pushed" in await rig.push("host:5000/copy", "1")


async def test_every_tag(rig: Rig, registry: FakeRegistry) -> None:
    await rig.load(chunks(docker_archive([BASE], ["app:1", "app:2"])))
    lines = await rig.push("app")
    assert [line.split(":")[0] for line in lines if " size: " in str(line)] == ["1", "2"]


async def test_what_cannot_be_pushed(rig: Rig, registry: FakeRegistry) -> None:
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: app"):
        await rig.push("app", "1")
    pulled = registry.put_image("app:1", [BASE])
    await rig.pull("app", pulled)
    with pytest.raises(NotFound, match="no tags to push for app"):
        await rig.push("app")
    with pytest.raises(NotFound, match="tag does not exist: app:2"):
        await rig.push("app", "2")
    with pytest.raises(InvalidParameter, match="cannot push a digest reference"):
        await rig.push("app", pulled)
    await rig.images.tag(f"app@{pulled}", "app", "1")
    with pytest.raises(NotFound, match="does not match the specified platform"):
        await rig.push("app", "1", "linux/s390x")


async def test_a_failure_ends_what_is_under_way(rig: Rig, registry: FakeRegistry) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["app:1"])))
    refused = ProaError("denied: requested access to the resource is denied")

    async def refuse(*_: object) -> bool:
        raise refused

    registry.has_blob = refuse  # type: ignore[method-assign]
    with pytest.raises(ProaError, match="denied: requested access"):
        await rig.push("app", "1")
    assert (REPOSITORY, "1") not in registry.manifests
    assert (await rig.images.inspect("app:1")).repo_digests == []


async def test_credentials_reach_the_registry(rig: Rig, registry: FakeRegistry) -> None:
    await rig.load(chunks(docker_archive([BASE], ["app:1"])))
    credentials = Credentials(username="user", password="secret")
    await told(await rig.images.push("app", "1", "", credentials))
    assert set(registry.credentials) == {credentials}


async def test_what_came_uncompressed_has_the_same_digests_whatever_is_done_first(
    rig: Rig, registry: FakeRegistry
) -> None:
    archive = docker_archive([BASE, TOP], ["app:1", "app:2"])
    await rig.load(chunks(archive))
    await rig.push("app", "1")
    await rig.images.remove(rig.images.resolve("app:1").id, force=True, prune=True)
    await rig.load(chunks(archive))
    with tarfile.open(fileobj=io.BytesIO(await rig.save("app:2"))) as saved:
        assert {f"blobs/sha256/{digest(layer)[7:]}" for layer in (BASE, TOP)} <= set(saved.getnames())
    await rig.push("app", "2")
    assert manifest(registry, "2") == manifest(registry, "1")

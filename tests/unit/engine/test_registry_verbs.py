"""Login, search and inspection of what a registry has, over a fake client of registries."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proa.engine.registries import Registries
from proa.errors import InvalidParameter, System
from proa.registry import Manifest, RegistrySettings
from proa.registry.manifests import read_manifest, verified
from proa.schema import oci
from proa.schema.config import DaemonConfig
from proa.schema.oci import Descriptor, Platform
from proa.schema.reference import Digest, Reference
from proa.schema.registry import AuthResponse, Credentials, SearchResult

DIGEST = "sha256:" + "a" * 64


class FakeClient:
    """One document and one configuration, whatever is asked for."""

    def __init__(self, document: Any, media_type: str, config: bytes = b"{}") -> None:
        self.data = json.dumps({"schemaVersion": 2, **document}).encode()
        self.media_type = media_type
        self.config = config
        self.asked: list[tuple[object, ...]] = []
        self.mountable: set[str] = set()
        self.there: set[str] = set()

    def reload(self, settings: RegistrySettings) -> None:
        self.asked.append(("reload", settings.mirrors))

    async def resolve(
        self, ref: Reference, credentials: Credentials | None = None, *, insecure: bool = False
    ) -> Manifest:
        self.asked.append((ref.canonical, credentials, insecure))
        media_type, content = read_manifest(self.data, self.media_type, ref)
        digest = verified(self.data, "", "", ref)
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(self.data))
        return Manifest(descriptor=descriptor, data=self.data, content=content, host="reg.example")

    async def small_blob(
        self,
        ref: Reference,
        descriptor: Descriptor,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bytes:
        return self.config

    async def has_blob(
        self,
        ref: Reference,
        digest: Digest,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool:
        self.asked.append(("has", ref.path, digest))
        return digest in self.there

    async def mount_blob(
        self,
        ref: Reference,
        digest: Digest,
        source: Reference,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> bool:
        self.asked.append(("mount", source.path, ref.path, digest))
        return digest in self.mountable

    async def put_manifest(
        self,
        ref: Reference,
        media_type: str,
        data: bytes,
        credentials: Credentials | None = None,
        *,
        insecure: bool = False,
    ) -> Digest:
        self.asked.append(("put", ref.canonical, media_type))
        return Digest(DIGEST)

    async def check(self, credentials: Credentials) -> AuthResponse:
        return AuthResponse(status=credentials.username)

    async def search(
        self,
        term: str,
        limit: int,
        filters: Mapping[str, list[str]],
        credentials: Credentials | None = None,
    ) -> list[SearchResult]:
        return [SearchResult(name=term)]


def image(config_type: str = oci.CONFIG) -> dict[str, Any]:
    return {"config": {"mediaType": config_type, "digest": DIGEST, "size": 2}, "layers": []}


async def test_an_index_has_the_platforms_of_its_images() -> None:
    one = {"digest": DIGEST, "size": 1}
    arm = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    client = FakeClient({"manifests": [{**one, "platform": arm}, one]}, oci.INDEX)
    found = await Registries(client).inspect("x", None)
    assert found.platforms == [Platform(os="linux", architecture="arm64", variant="v8")]
    assert found.descriptor.media_type == oci.INDEX
    assert client.asked == [("docker.io/library/x:latest", None, False)]


async def test_an_image_has_the_platform_of_its_configuration() -> None:
    client = FakeClient(image(), oci.MANIFEST, b'{"os":"linux","architecture":"amd64","config":{}}')
    found = await Registries(client).inspect("x@" + DIGEST, None)
    assert found.platforms == [Platform(os="linux", architecture="amd64")]
    client.config = b"<html>"
    with pytest.raises(InvalidParameter, match="invalid configuration"):
        await Registries(client).inspect("x", None)


async def test_an_artifact_has_none() -> None:
    client = FakeClient(image("application/vnd.example+json"), oci.MANIFEST)
    assert (await Registries(client).inspect("x", None)).platforms == []


async def test_the_document_as_it_is() -> None:
    client = FakeClient(image(), oci.MANIFEST)
    who = Credentials(username="me", password="p")
    media_type, _, data = await Registries(client).manifest("reg.example/x:1", who, insecure=True)
    assert (media_type, data) == (oci.MANIFEST, client.data)
    assert client.asked == [("reg.example/x:1", who, True)]
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        await Registries(client).manifest("..", None, insecure=False)


async def test_login_search_and_new_settings() -> None:
    client = FakeClient(image(), oci.MANIFEST)
    registries = Registries(client)
    assert (await registries.login(Credentials(username="me"))).status == "me"
    assert await registries.search("x", 0, {}, None) == [SearchResult(name="x")]
    registries.reload(DaemonConfig(registry_mirrors=("https://m.example",)))
    assert client.asked == [("reload", ("https://m.example",))]
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        registries.reload(DaemonConfig(registry_mirrors=("m.example",)))


LAYERS = ["sha256:" + letter * 64 for letter in "bcd"]


async def put(client: FakeClient, source: str) -> str:
    document = image() | {
        "schemaVersion": 2,
        "layers": [
            {"mediaType": oci.LAYER, "digest": LAYERS[0], "size": 1},
            {"mediaType": oci.LAYER, "digest": LAYERS[1], "size": 1},
            {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": LAYERS[2]},
        ],
    }
    data = json.dumps(document).encode()
    registries = Registries(client)
    return await registries.put_manifest(
        "reg.example/b:1", oci.MANIFEST, data, None, source=source, insecure=True
    )


async def test_what_a_manifest_names_is_mounted_before_it() -> None:
    """But for what the registry has already, and for layers that are elsewhere."""
    client = FakeClient(image(), oci.MANIFEST)
    client.mountable, client.there = {DIGEST, LAYERS[0]}, {LAYERS[1]}
    assert await put(client, "reg.example/a") == DIGEST
    assert client.asked == [
        ("mount", "a", "b", DIGEST),
        ("mount", "a", "b", LAYERS[0]),
        ("mount", "a", "b", LAYERS[1]),
        ("has", "b", LAYERS[1]),
        ("put", "reg.example/b:1", oci.MANIFEST),
    ]
    client.asked.clear()
    await put(client, "")
    assert client.asked == [("put", "reg.example/b:1", oci.MANIFEST)]


async def test_what_cannot_be_mounted_is_not_pushed() -> None:
    client = FakeClient(image(), oci.MANIFEST)
    with pytest.raises(System, match=f"error mounting a@{DIGEST} to reg.example/b:1"):
        await put(client, "reg.example/a")
    with pytest.raises(InvalidParameter, match="cannot use source images from a different registry"):
        await put(client, "other.example/a")
    assert not [one for one in client.asked if one[0] == "put"]

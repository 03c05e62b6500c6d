"""What is stored as a manifest and what is not; deletions and the collection."""

import json
import os
from pathlib import Path

import pytest
from registry_thread import INDEX, MANIFEST, RegistryThread, descriptor, digest_of, image

from proa import registryd

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def put(registry: RegistryThread, data: bytes, kind: str = MANIFEST, reference: str = "t") -> tuple[int, str]:
    answer = registry.call("PUT", f"/v2/r/manifests/{reference}", data, {"Content-Type": kind})
    return answer.status, answer.code if answer.status >= 400 else ""


def collect(registry: RegistryThread, *words: str) -> None:
    registryd.collect_garbage(registryd.parser().parse_args(["gc", "--root", str(registry.root), *words]))


def blobs(registry: RegistryThread) -> set[str]:
    return {f"sha256:{name}" for name in os.listdir(registry.root / "content/blobs/sha256")}


def test_docker_s_types(registry: RegistryThread) -> None:
    registry.push_blob("r", b"{}")
    data = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor(b"{}", "application/vnd.docker.container.image.v1+json"),
            "layers": [],
        }
    ).encode()
    assert put(registry, data, DOCKER_MANIFEST)[0] == 201
    listed = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_LIST,
            "manifests": [
                descriptor(data, DOCKER_MANIFEST) | {"platform": {"architecture": "amd64", "os": "linux"}}
            ],
        }
    ).encode()
    assert put(registry, listed, DOCKER_LIST, "list")[0] == 201
    answer = registry.call("GET", "/v2/r/manifests/list")
    assert (answer.body, answer.headers["content-type"]) == (listed, DOCKER_LIST)


def test_what_it_refers_to_must_be_there(registry: RegistryThread) -> None:
    config, layer = b"{}", b"layer"
    assert put(registry, image(config, layer)) == (404, "MANIFEST_BLOB_UNKNOWN")
    registry.push_blob("r", config)
    registry.push_blob("other", layer)
    assert put(registry, image(config, layer)) == (404, "MANIFEST_BLOB_UNKNOWN")
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor(b"child", MANIFEST)]}).encode()
    assert put(registry, index, INDEX) == (404, "MANIFEST_BLOB_UNKNOWN")
    wrong = json.loads(image(config))
    wrong["config"]["size"] = 3
    assert put(registry, json.dumps(wrong).encode()) == (400, "MANIFEST_INVALID")
    foreign = json.loads(image(config, layer))
    foreign["layers"][0]["urls"] = ["https://example.com/layer"]
    assert put(registry, json.dumps(foreign).encode())[0] == 201


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", MANIFEST),
        (b"[]", MANIFEST),
        (b"\xff", MANIFEST),
        (b"[" * 100_000, MANIFEST),
        (b'{"schemaVersion":2}', MANIFEST),
        (b'{"schemaVersion":3,"config":{},"layers":[]}', MANIFEST),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', INDEX),
        (b'{"schemaVersion":2,"mediaType":"%b","manifests":[]}' % INDEX.encode(), MANIFEST),
        (b'{"schemaVersion":2,"config":{"digest":"../../x"},"layers":[]}', MANIFEST),
        (b'{"schemaVersion":2,"manifests":[]}', "text/plain"),
        (b'{"schemaVersion":2,"manifests":[]}', ""),
        (b'{"schemaVersion":1,"fsLayers":[]}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ],
)
def test_no_manifest(registry: RegistryThread, data: bytes, kind: str) -> None:
    status, code = put(registry, data, kind)
    assert (status, code) in ((400, "MANIFEST_INVALID"), (400, "DIGEST_INVALID"))


def test_a_manifest_of_more_than_four_megabytes(registry: RegistryThread) -> None:
    assert put(registry, b" " * (4 * 1024 * 1024 + 1)) == (413, "SIZE_INVALID")


def test_by_digest_with_tags(registry: RegistryThread) -> None:
    registry.push_blob("r", b"{}")
    data = image(b"{}")
    assert put(registry, data, reference=digest_of(b"other")) == (400, "DIGEST_INVALID")
    assert put(registry, data, reference=f"{digest_of(data)}?tag=x&tag=y")[0] == 201
    assert json.loads(registry.call("GET", "/v2/r/tags/list").body)["tags"] == ["x", "y"]
    assert put(registry, data, reference=digest_of(data, "sha512"))[0] == 201
    assert registry.call("GET", f"/v2/r/manifests/{digest_of(data, 'sha512')}").body == data


def test_deletions(registry: RegistryThread) -> None:
    digest = registry.push_image("r", "one")
    registry.push_image("r", "two")
    assert registry.call("DELETE", "/v2/r/manifests/one").status == 202
    assert registry.call("GET", "/v2/r/manifests/one").code == "MANIFEST_UNKNOWN"
    assert registry.call("GET", "/v2/r/manifests/two").status == 200
    assert registry.call("DELETE", f"/v2/r/manifests/{digest}").status == 202
    assert json.loads(registry.call("GET", "/v2/r/tags/list").body)["tags"] == []
    assert registry.call("DELETE", f"/v2/r/manifests/{digest}").code == "MANIFEST_UNKNOWN"
    blob = digest_of(b"layer")
    assert registry.call("DELETE", f"/v2/r/blobs/{blob}").status == 202
    assert registry.call("GET", f"/v2/r/blobs/{blob}").code == "BLOB_UNKNOWN"
    assert registry.call("DELETE", f"/v2/r/blobs/{blob}").code == "BLOB_UNKNOWN"


def test_the_collection_takes_what_nothing_needs(registry: RegistryThread) -> None:
    kept = registry.push_image("kept", salt="kept")
    gone = registry.push_image("gone", salt="gone")
    loose = registry.push_blob("kept", b"loose")
    registry.call("DELETE", f"/v2/gone/manifests/{gone}")
    before = blobs(registry)
    collect(registry)
    assert blobs(registry) == before  # all of it is young
    collect(registry, "--grace=-1")
    assert blobs(registry) == {digest_of(b"layerkept"), digest_of(b'{"salt":"kept"}')}
    assert registry.call("GET", f"/v2/kept/blobs/{loose}").code == "BLOB_UNKNOWN"
    assert registry.call("GET", f"/v2/kept/manifests/{kept}").status == 200
    assert json.loads(registry.call("GET", "/v2/_catalog").body) == {"repositories": ["kept"]}
    registry.push_image("gone", salt="gone")
    assert registry.call("GET", f"/v2/gone/blobs/{digest_of(b'layergone')}").body == b"layergone"


def test_the_collection_and_what_no_tag_leads_to(registry: RegistryThread) -> None:
    child = registry.push_image("r", "", "child")
    data = registry.call("GET", f"/v2/r/manifests/{child}").body
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor(data, MANIFEST)]}).encode()
    assert put(registry, index, INDEX, "list")[0] == 201
    signature = registry.push_image(
        "r", "", "sig", subject={"mediaType": INDEX, "digest": digest_of(index), "size": len(index)}
    )
    lost = registry.push_image("r", "", "lost")
    collect(registry, "--grace=-1", "--delete-untagged")
    for digest, status in ((child, 200), (signature, 200), (lost, 404)):
        assert registry.call("GET", f"/v2/r/manifests/{digest}").status == status
    registry.call("DELETE", "/v2/r/manifests/list")
    collect(registry, "--grace=-1", "--delete-untagged")
    assert registry.call("GET", f"/v2/r/manifests/{child}").status == 404
    assert blobs(registry) == set()


def test_a_push_during_the_collection_is_told_what_is_gone(registry: RegistryThread) -> None:
    config = registry.push_blob("r", b"{}")
    collect(registry, "--grace=-1")
    assert put(registry, image(b"{}")) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert registry.push_blob("r", b"{}") == config
    assert put(registry, image(b"{}"))[0] == 201


def test_a_blob_deleted_during_a_pull_is_pulled_to_its_end(registry: RegistryThread) -> None:
    data = os.urandom(1 << 20) * 32
    digest = registry.push_blob("r", data)
    with registry.connect() as client:
        client.sendall(f"GET /v2/r/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = bytearray(client.recv(1000))
        registry.call("DELETE", f"/v2/r/blobs/{digest}")
        collect(registry, "--grace=-1")
        assert blobs(registry) == set()
        while chunk := client.recv(1 << 20):
            received += chunk
    assert received.endswith(data)


def test_a_row_whose_file_a_dead_collection_took(registry: RegistryThread) -> None:
    digest = registry.push_blob("r", b"data")
    (registry.root / "content/blobs/sha256" / digest[7:]).unlink()
    assert registry.call("GET", f"/v2/r/blobs/{digest}").code == "BLOB_UNKNOWN"
    registry.push_blob("r", b"data")
    assert registry.call("GET", f"/v2/r/blobs/{digest}").body == b"data"


def test_one_server_a_root(registry: RegistryThread, tmp_path: Path) -> None:
    with pytest.raises(registryd.Conflict), RegistryThread(registry.root):
        pass

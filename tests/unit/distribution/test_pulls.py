"""What clients read: blobs and their ranges, manifests, lists, referrers."""

import json

import pytest
from registry_thread import INDEX, MANIFEST, RegistryThread, digest_of, image

DATA = bytes(range(256)) * 1024


def test_base(registry: RegistryThread) -> None:
    answer = registry.call("GET", "/v2/")
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


def test_head_of_a_blob(registry: RegistryThread) -> None:
    digest = registry.push_blob("r", DATA)
    answer = registry.call("HEAD", f"/v2/r/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["docker-content-digest"] == digest
    assert registry.call("HEAD", f"/v2/r/blobs/{digest_of(b'')}").status == 404
    assert registry.call("HEAD", f"/v2/s/blobs/{digest}").status == 404


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, len(DATA)),
        ("bytes=-100", len(DATA) - 100, len(DATA)),
        ("bytes=-99999999", 0, len(DATA)),
        ("bytes=5-99999999", 5, len(DATA)),
        ("bytes=1000-200000", 1000, 200001),
    ],
)
def test_a_range(registry: RegistryThread, asked: str, first: int, last: int) -> None:
    digest = registry.push_blob("r", DATA)
    answer = registry.call("GET", f"/v2/r/blobs/{digest}", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, DATA[first:last])
    assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=9-2", "bytes=a-b"])
def test_a_range_that_is_passed_over(registry: RegistryThread, asked: str) -> None:
    digest = registry.push_blob("r", DATA)
    answer = registry.call("GET", f"/v2/r/blobs/{digest}", headers={"Range": asked})
    assert (answer.status, answer.body) == (200, DATA)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=-0"])
def test_a_range_of_nothing(registry: RegistryThread, asked: str) -> None:
    digest = registry.push_blob("r", DATA)
    answer = registry.call("GET", f"/v2/r/blobs/{digest}", headers={"Range": asked})
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(DATA)}")


def test_if_range_and_if_none_match(registry: RegistryThread) -> None:
    digest = registry.push_blob("r", DATA)
    path = f"/v2/r/blobs/{digest}"
    etag = registry.call("HEAD", path).headers["etag"]
    assert registry.call("GET", path, headers={"If-None-Match": etag}).status == 304
    assert registry.call("GET", path, headers={"If-None-Match": '"x", W/' + etag}).status == 304
    assert registry.call("GET", path, headers={"If-None-Match": '"x"'}).status == 200
    part = {"Range": "bytes=0-9", "If-Range": etag}
    assert registry.call("GET", path, headers=part).status == 206
    assert registry.call("GET", path, headers=part | {"If-Range": '"x"'}).status == 200


def test_an_empty_blob(registry: RegistryThread) -> None:
    digest = registry.push_blob("r", b"")
    answer = registry.call("GET", f"/v2/r/blobs/{digest}")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


def test_a_large_blob_and_a_request_after_it(registry: RegistryThread) -> None:
    """The body goes past the transport (sendfile); the connection goes on."""
    data = DATA * 64
    digest = registry.push_blob("r", data)
    request = f"GET /v2/r/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with registry.connect() as client:
        client.sendall(request * 2 + b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = bytearray()
        while chunk := client.recv(1 << 20):
            received += chunk
    assert received.count(data) == 2
    assert received.endswith(b"\r\n\r\n{}")


def test_a_manifest_by_tag_and_digest(registry: RegistryThread) -> None:
    digest = registry.push_image("a/b", "v1")
    by_tag = registry.call("GET", "/v2/a/b/manifests/v1")
    by_digest = registry.call("GET", f"/v2/a/b/manifests/{digest}")
    assert by_tag.body == by_digest.body
    assert by_tag.headers["docker-content-digest"] == digest == digest_of(by_tag.body)
    assert by_tag.headers["content-type"] == MANIFEST
    head = registry.call("HEAD", "/v2/a/b/manifests/v1")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(by_tag.body)))
    same = registry.call("GET", "/v2/a/b/manifests/v1", headers={"If-None-Match": by_tag.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


def test_what_is_unknown(registry: RegistryThread) -> None:
    assert registry.call("GET", "/v2/r/manifests/latest").code == "NAME_UNKNOWN"
    assert registry.call("GET", "/v2/r/tags/list").code == "NAME_UNKNOWN"
    registry.push_image("r")
    assert registry.call("GET", "/v2/r/manifests/v1").code == "MANIFEST_UNKNOWN"
    assert registry.call("GET", f"/v2/r/manifests/{digest_of(b'')}").code == "MANIFEST_UNKNOWN"


def test_tags_by_pages(registry: RegistryThread) -> None:
    for tag in ("b", "a", "C", "d"):
        registry.push_image("r", tag)
    assert json.loads(registry.call("GET", "/v2/r/tags/list").body) == {
        "name": "r",
        "tags": ["C", "a", "b", "d"],
    }
    first = registry.call("GET", "/v2/r/tags/list?n=3")
    assert json.loads(first.body)["tags"] == ["C", "a", "b"]
    link = first.headers["link"]
    assert link == '</v2/r/tags/list?n=3&last=b>; rel="next"'
    second = registry.call("GET", link[1 : link.index(">")])
    assert (json.loads(second.body)["tags"], "link" in second.headers) == (["d"], False)
    assert json.loads(registry.call("GET", "/v2/r/tags/list?n=0").body)["tags"] == []
    assert registry.call("GET", "/v2/r/tags/list?n=-1").code == "PAGINATION_NUMBER_INVALID"


def test_catalog_by_pages(registry: RegistryThread) -> None:
    for name in ("x", "lib/a", "lib/b"):
        registry.push_image(name)
    first = registry.call("GET", "/v2/_catalog?n=2")
    assert json.loads(first.body) == {"repositories": ["lib/a", "lib/b"]}
    assert first.headers["link"] == '</v2/_catalog?n=2&last=lib/b>; rel="next"'
    assert json.loads(registry.call("GET", "/v2/_catalog?last=lib/b").body) == {"repositories": ["x"]}


def test_referrers(registry: RegistryThread) -> None:
    subject = registry.push_image("r")
    reference = {"mediaType": MANIFEST, "digest": subject, "size": 2}
    one = registry.push_image(
        "r", "", "1", subject=reference, artifactType="test/sbom", annotations={"a": "b"}
    )
    two = registry.push_image("r", "", "2", subject=reference)
    answer = registry.call("GET", f"/v2/r/referrers/{subject}")
    assert answer.headers["content-type"] == INDEX
    found = {entry["digest"]: entry for entry in json.loads(answer.body)["manifests"]}
    assert set(found) == {one, two}
    assert found[one]["artifactType"] == "test/sbom"
    assert found[one]["annotations"] == {"a": "b"}
    assert found[two]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    only = registry.call("GET", f"/v2/r/referrers/{subject}?artifactType=test/sbom")
    assert [entry["digest"] for entry in json.loads(only.body)["manifests"]] == [one]
    assert only.headers["oci-filters-applied"] == "artifactType"
    nothing = registry.call("GET", f"/v2/none/referrers/{subject}")
    assert (nothing.status, json.loads(nothing.body)["manifests"]) == (200, [])


def test_a_subject_is_named_whether_it_is_there_or_not(registry: RegistryThread) -> None:
    config = b"{}"
    registry.push_blob("r", config)
    missing = {"mediaType": MANIFEST, "digest": digest_of(b"later"), "size": 5}
    answer = registry.call(
        "PUT", "/v2/r/manifests/x", image(config, subject=missing), {"Content-Type": MANIFEST}
    )
    assert (answer.status, answer.headers["oci-subject"]) == (201, missing["digest"])

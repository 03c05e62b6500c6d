"""Pushes by the client of registries to one that breaks off, forgets and refuses."""

import pytest
from registry_rig import LAYER, WRONG, Rig, every, once, source
from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor, digest, refusal

from proa.errors import Forbidden, System, Unavailable
from proa.schema import oci
from proa.schema.reference import Digest


async def test_a_push_in_two_requests_a_blob(rig: Rig, server: ScriptedRegistry) -> None:
    assert not await rig.client.has_blob(rig.ref(), Digest(digest(LAYER)))
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert await rig.client.has_blob(rig.ref(), Digest(digest(LAYER)))
    assert [line.split()[0] for line in server.lines] == ["HEAD", "POST", "PUT", "HEAD"]
    assert server.blobs[digest(LAYER)] == LAYER


async def test_an_empty_blob(rig: Rig, server: ScriptedRegistry) -> None:
    await rig.client.upload_blob(rig.ref(), descriptor(b""), source(b""))
    assert server.blobs[digest(b"")] == b""


async def test_an_upload_goes_on_where_it_broke(rig: Rig, server: ScriptedRegistry) -> None:
    server.upload_limit = 100_000
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert server.blobs[digest(LAYER)] == LAYER
    assert [line.split()[0] for line in server.lines] == ["POST", "PUT", "GET", "PATCH", "PUT"]
    assert server.seen[3].headers["content-range"] == f"100000-{len(LAYER) - 1}"


async def test_an_upload_that_the_registry_forgot_begins_again(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = once("PUT", refusal(404, "BLOB_UPLOAD_UNKNOWN", "gone"))
    forgotten = server.fault

    def fault(seen: Seen) -> Reply | None:
        if reply := forgotten(seen):
            server.uploads.clear()
            return reply
        return None

    server.fault = fault
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert server.blobs[digest(LAYER)] == LAYER


async def test_a_registry_that_takes_no_large_request_gets_chunks(
    rig: Rig, server: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proa.registry.upload.CHUNK", 100_000)
    server.fault = lambda seen: Reply(413) if len(seen.body) > 100_000 else None
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert server.blobs[digest(LAYER)] == LAYER
    spans = [seen.headers["content-range"] for seen in server.seen if seen.method == "PATCH"]
    assert spans == ["0-99999", "100000-199999", f"200000-{len(LAYER) - 1}"]


async def test_an_upload_that_never_gets_further_ends(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = every("PUT", Reply(500))
    with pytest.raises(Unavailable, match="500"):
        await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert sum(seen.method == "PUT" for seen in server.seen) == 5


async def test_a_push_that_is_denied(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = every("POST", refusal(403, "DENIED", "requested access to the resource is denied"))
    with pytest.raises(Forbidden, match=r"^denied: requested access to the resource is denied$"):
        await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))


async def test_a_mount_shares_a_blob_and_a_refused_one_is_gone_on_with(
    rig: Rig, server: ScriptedRegistry
) -> None:
    server.blobs[digest(LAYER)] = LAYER
    assert await rig.client.mount_blob(rig.ref(), Digest(digest(LAYER)), rig.ref("c/d"))
    assert server.seen[-1].query == {"mount": [digest(LAYER)], "from": ["c/d"]}
    server.blobs.clear()
    assert not await rig.client.mount_blob(rig.ref(), Digest(digest(LAYER)), rig.ref("c/d"))
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER))
    assert [line.split()[0] for line in server.lines] == ["POST", "POST", "PUT"]
    assert server.blobs[digest(LAYER)] == LAYER


async def test_a_manifest_by_tag_and_by_digest(rig: Rig, server: ScriptedRegistry) -> None:
    server.image("c/d", "1", LAYER)
    _, data = server.manifests["c/d", "1"]
    for name in ("a/b:2", "a/b"):
        assert await rig.client.put_manifest(rig.ref(name), oci.MANIFEST, data) == digest(data)
    assert [line for line in server.lines if line.startswith("PUT")] == [
        "PUT /v2/a/b/manifests/2",
        f"PUT /v2/a/b/manifests/{digest(data)}",
    ]
    server.fault = every("PUT", Reply(201, b"", {"Docker-Content-Digest": WRONG}))
    with pytest.raises(System, match="the registry stored"):
        await rig.client.put_manifest(rig.ref(), oci.MANIFEST, data)

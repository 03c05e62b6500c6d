"""Pulls by the client of registries from one that misbehaves: nothing wrong is taken."""

import json

import pytest
from registry_rig import LAYER, WRONG, Rig, every, once
from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor, digest, refusal

from proa.errors import Forbidden, InvalidParameter, NotFound, System, Unavailable
from proa.registry import Interrupted
from proa.schema import oci
from proa.schema.reference import Digest


async def test_a_known_image_is_one_round_trip(rig: Rig, server: ScriptedRegistry) -> None:
    wanted = server.image("a/b", "1", LAYER)
    for _ in range(3):
        found = await rig.client.resolve(rig.ref())
        assert found.descriptor == wanted
        assert isinstance(found.content, oci.Manifest)
    # The first try was TLS, which a loopback registry need not speak; it is not tried again.
    assert server.lines == ["GET /v2/a/b/manifests/1"] * 3
    assert server.connections == 2


async def test_chunked_answers(rig: Rig, server: ScriptedRegistry) -> None:
    server.image("a/b", "1", LAYER)
    _, data = server.manifests["a/b", "1"]
    server.fault = every(
        "GET /v2/a/b/manifests", Reply(200, data, {"Content-Type": oci.MANIFEST}, chunked=True)
    )
    assert (await rig.client.resolve(rig.ref())).data == data
    server.fault = every("GET /v2/a/b/blobs", Reply(200, LAYER, chunked=True))
    assert await rig.blob(LAYER) == LAYER


async def test_a_blob_goes_on_where_it_broke(rig: Rig, server: ScriptedRegistry) -> None:
    server.blobs[digest(LAYER)] = LAYER
    server.fault = once("GET", Reply(200, LAYER, cut=100_000))
    got = bytearray()
    with pytest.raises(Interrupted):
        await rig.collect(got, LAYER)
    assert got == LAYER[: len(got)]
    assert 0 < len(got) <= 100_000
    assert got + await rig.blob(LAYER, len(got)) == LAYER
    assert server.seen[-1].headers["range"] == f"bytes={len(got)}-"


async def test_a_registry_that_knows_no_ranges(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = every("GET", Reply(200, LAYER))
    assert await rig.blob(LAYER, 70_001) == LAYER[70_001:]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, LAYER + b"x"),
        Reply(200, LAYER + b"x", chunked=True),
        Reply(200, LAYER[:-1]),
        Reply(206, LAYER, {"Content-Range": "bytes 5-9/10"}),
        Reply(206, LAYER, {"Content-Range": "nonsense"}),
    ],
    ids=["longer", "longer in chunks", "shorter", "another range", "no range"],
)
async def test_a_blob_of_another_size(rig: Rig, server: ScriptedRegistry, reply: Reply) -> None:
    server.fault = every("GET", reply)
    with pytest.raises(System):
        await rig.blob(LAYER)


async def test_a_small_blob_with_another_digest(rig: Rig, server: ScriptedRegistry) -> None:
    server.blobs[digest(b"right")] = b"wrong"
    with pytest.raises(System, match="verification failed"):
        await rig.client.small_blob(rig.ref(), descriptor(b"right"))


async def test_a_manifest_with_another_digest(rig: Rig, server: ScriptedRegistry) -> None:
    wanted = server.image("a/b", "1", LAYER)
    forged = server.manifests["a/b", "1"][1].replace(b'"schemaVersion": 2', b'"schemaVersion":2')
    server.manifests["a/b", wanted.digest] = (oci.MANIFEST, forged)
    with pytest.raises(System, match="manifest verification failed"):
        await rig.client.manifest(rig.ref(), Digest(wanted.digest))


async def test_a_giant_manifest(rig: Rig, server: ScriptedRegistry) -> None:
    giant = b" " * (4 * 1024 * 1024 + 1)
    for reply in (Reply(200, giant), Reply(200, giant, chunked=True)):
        server.fault = every("GET", reply)
        with pytest.raises(InvalidParameter, match="larger than"):
            await rig.client.resolve(rig.ref())


async def test_schema_1(rig: Rig, server: ScriptedRegistry) -> None:
    server.put(
        "a/b",
        "1",
        {"schemaVersion": 1, "fsLayers": []},
        "application/vnd.docker.distribution.manifest.v1+json",
    )
    with pytest.raises(InvalidParameter, match="schema 1"):
        await rig.client.resolve(rig.ref())


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (
            refusal(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            NotFound,
            "manifest for HOST/a/b:1 not found: manifest unknown: manifest unknown",
        ),
        (
            refusal(404, "NAME_UNKNOWN", "repository name not known to registry"),
            NotFound,
            "repository HOST/a/b not found: name unknown: repository name not known to registry",
        ),
        (
            refusal(403, "DENIED", "requested access to the resource is denied"),
            NotFound,
            "pull access denied for HOST/a/b, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
        ),
        (
            Reply(404, b"<html>"),
            NotFound,
            "manifest for HOST/a/b:1 not found: manifest unknown: manifest unknown",
        ),
        (Reply(403), Forbidden, "received unexpected HTTP status: 403 Status"),
        (Reply(418), System, "received unexpected HTTP status: 418 Status"),
        (
            refusal(401, "UNAUTHORIZED", "authentication required"),
            System,
            "unauthorized: authentication required",
        ),
        (
            Reply(401, b"", {"WWW-Authenticate": 'Basic realm="x"'}),
            System,
            'Get "https://HOST/v2/a/b/manifests/1": no basic auth credentials',
        ),
        (refusal(400, "X", "bad \x1b[31m\n" + "y" * 10_000), InvalidParameter, "x: bad  [31m " + "y" * 502),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_refusals_in_dockers_words(
    rig: Rig, server: ScriptedRegistry, reply: Reply, kind: type[Exception], words: str
) -> None:
    server.fault = every("GET", reply)
    with pytest.raises(kind) as caught:
        await rig.client.resolve(rig.ref())
    assert str(caught.value) == words.replace("HOST", server.host)


async def test_nobody_there(rig: Rig) -> None:
    async with ScriptedRegistry() as gone:
        ref = rig.ref(server=gone)
    with pytest.raises(Unavailable, match=r'Get "https://.*": dial tcp .*: connect: connection refused'):
        await rig.client.resolve(ref)
    assert rig.pauses == []


async def test_tags_over_pages(rig: Rig, server: ScriptedRegistry) -> None:
    def pages(seen: Seen) -> Reply | None:
        last = seen.query.get("last", [""])[0]
        if last:
            return Reply(200, b'{"tags":["c"]}')
        link = {"Link": '</v2/a/b/tags/list?last=b&n=2>; rel="next"'}
        return Reply(200, b'{"tags":["a","b"]}', link)

    server.fault = pages
    assert await rig.client.tags(rig.ref()) == ["a", "b", "c"]


async def test_a_list_that_leads_elsewhere_or_nowhere(rig: Rig, server: ScriptedRegistry) -> None:
    for link, words in (
        ('<http://evil.example/>; rel="next"', "elsewhere"),
        ('<?x>; rel="next"', "does not end"),
    ):
        server.fault = every("GET", Reply(200, b'{"tags":[]}', {"Link": link}))
        with pytest.raises(InvalidParameter, match=words):
            await rig.client.tags(rig.ref())


async def test_referrers_by_the_api_and_by_the_tag(rig: Rig, server: ScriptedRegistry) -> None:
    one = {"mediaType": "m", "digest": WRONG, "size": 1, "artifactType": "sig"}
    index = json.dumps({"schemaVersion": 2, "manifests": [one, {**one, "artifactType": "sbom"}]}).encode()
    server.fault = every("GET /v2/a/b/referrers", Reply(200, index))
    assert [r.artifact_type for r in await rig.client.referrers(rig.ref(), WRONG)] == ["sig", "sbom"]
    server.fault = lambda seen: None
    assert await rig.client.referrers(rig.ref(), WRONG) == []
    server.put("a/b", f"sha256-{WRONG[7:]}", index, oci.INDEX)
    found = await rig.client.referrers(rig.ref(), WRONG, artifact_type="sbom")
    assert [r.artifact_type for r in found] == ["sbom"]


async def test_head(rig: Rig, server: ScriptedRegistry) -> None:
    wanted = server.image("a/b", "1", LAYER)
    assert await rig.client.head(rig.ref()) == wanted
    assert await rig.client.head(rig.ref("a/b:2")) is None
    assert [line.split()[0] for line in server.lines] == ["HEAD", "HEAD"]


# ---- passing failures ------------------------------------------------------------------------------


async def test_429_waits_as_long_as_it_says(rig: Rig, server: ScriptedRegistry) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = once("GET", Reply(429, b"", {"Retry-After": "7"}))
    await rig.client.resolve(rig.ref())
    assert rig.pauses == [7.0]


async def test_429_for_too_long_is_an_error_at_once(rig: Rig, server: ScriptedRegistry) -> None:
    words = "You have reached your pull rate limit."
    server.fault = every("GET", refusal(429, "TOOMANYREQUESTS", words, Retry_After="3600"))
    with pytest.raises(Unavailable, match=f"toomanyrequests: {words}"):
        await rig.client.resolve(rig.ref())
    assert rig.pauses == []


async def test_5xx_is_tried_again_with_growing_pauses_and_an_end(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = every("GET", Reply(503))
    with pytest.raises(Unavailable, match="received unexpected HTTP status: 503"):
        await rig.client.resolve(rig.ref())
    assert len(server.seen) == 5
    assert rig.pauses == sorted(rig.pauses)
    assert sum(rig.pauses) < 10


async def test_a_manifest_that_breaks_off_is_asked_for_again(rig: Rig, server: ScriptedRegistry) -> None:
    server.image("a/b", "1", LAYER)
    _, data = server.manifests["a/b", "1"]
    server.fault = once("GET", Reply(200, data, {"Content-Type": oci.MANIFEST}, cut=3))
    assert (await rig.client.resolve(rig.ref())).data == data
    assert len(rig.pauses) == 1
    server.fault = every("GET", Reply(200, data, {"Content-Type": oci.MANIFEST}, cut=3))
    with pytest.raises(Interrupted):
        await rig.client.resolve(rig.ref())
    assert len(server.seen) == 2 + 5

"""The client of registries against one that misbehaves: nothing wrong is taken, nothing secret is given."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor, digest, refusal

from proa.errors import Forbidden, InvalidParameter, NotFound, System, Unauthorized, Unavailable
from proa.registry import Interrupted, Registry, RegistrySettings
from proa.schema import oci
from proa.schema.reference import Digest, Reference, parse_reference
from proa.schema.registry import Credentials

ME = Credentials(username="me", password="secret")
BASIC = "Basic " + base64.b64encode(b"me:secret").decode()
LAYER = bytes(range(256)) * 1000
WRONG = Digest("sha256:" + "0" * 64)


class Rig:
    """A client and its registry; `pauses` are what lay between attempts."""

    def __init__(self, server: ScriptedRegistry) -> None:
        self.server = server
        self.pauses: list[float] = []
        self.client = self.with_settings()

    def with_settings(self, **settings: Any) -> Registry:
        self.client = Registry(RegistrySettings(certs_dirs=(), **settings), self._pause)
        return self.client

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def ref(self, name: str = "a/b:1", server: ScriptedRegistry | None = None) -> Reference:
        return parse_reference(f"{(server or self.server).host}/{name}")

    async def collect(self, got: bytearray, data: bytes) -> None:
        async with self.client.blob(self.ref(), descriptor(data)) as chunks:
            async for chunk in chunks:
                got += chunk

    async def blob(self, data: bytes, offset: int = 0, **more: Any) -> bytes:
        async with self.client.blob(self.ref(), descriptor(data, **more), offset=offset) as chunks:
            return b"".join([chunk async for chunk in chunks])


@pytest.fixture
async def server() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def rig(server: ScriptedRegistry) -> AsyncIterator[Rig]:
    rig = Rig(server)
    yield rig
    await rig.client.close()


def source(data: bytes, piece: int = 10_000) -> Any:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), piece):
            yield data[start : start + piece]

    return read


def once(match: str, reply: Reply) -> Any:
    """A fault for the first request whose line begins so."""
    left = [reply]
    return lambda seen: left.pop() if left and seen.line.startswith(match) else None


def every(match: str, reply: Reply) -> Any:
    return lambda seen: reply if seen.line.startswith(match) else None


# ---- pulls ---------------------------------------------------------------------------------------


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


# ---- credentials ---------------------------------------------------------------------------------


def guard(realm: str = "", scheme: str = "Basic") -> Any:
    """Nothing for who does not say who they are."""
    challenge = f'{scheme} realm="{realm}",service="svc"'

    def fault(seen: Seen) -> Reply | None:
        shown = seen.headers.get("authorization", "")
        right = shown == BASIC if scheme == "Basic" else shown.startswith("Bearer token-")
        return None if right else Reply(401, b"", {"WWW-Authenticate": challenge})

    return fault


async def test_basic_is_asked_for_once(rig: Rig, server: ScriptedRegistry) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard()
    for _ in range(3):
        await rig.client.resolve(rig.ref(), ME)
    assert [seen.headers.get("authorization") for seen in server.seen] == [None, BASIC, BASIC, BASIC]


async def test_a_token_is_fetched_once_for_a_scope(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: Reply(200, b'{"token":"token-1","expires_in":300}')
    for _ in range(3):
        await rig.client.resolve(rig.ref(), ME)
    (asked,) = other.seen
    assert asked.query == {"service": ["svc"], "scope": ["repository:a/b:pull"], "account": ["me"]}
    assert asked.headers["authorization"] == BASIC
    assert [seen.headers.get("authorization") for seen in server.seen[1:]] == ["Bearer token-1"] * 3


async def test_a_registry_behind_a_proxy_has_other_names(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard(f'{other.url}/token",scope="repository:remote/a/b:pull', "Bearer")
    other.fault = lambda seen: Reply(200, b'{"token":"token-1"}')
    for _ in range(2):
        await rig.client.resolve(rig.ref())
    (asked,) = other.seen
    assert asked.query["scope"] == ["repository:a/b:pull", "repository:remote/a/b:pull"]
    assert len(server.seen) == 3


async def test_nobody_and_somebody_have_tokens_of_their_own(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: Reply(200, f'{{"access_token":"token-{len(other.seen)}"}}'.encode())
    await rig.client.resolve(rig.ref(), ME)
    await rig.client.resolve(rig.ref())
    assert "authorization" not in other.seen[1].headers
    assert server.seen[-1].headers["authorization"] == "Bearer token-2"


async def test_an_identity_token_is_exchanged_by_post(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: Reply(200, b'{"access_token":"token-1"}')
    await rig.client.resolve(rig.ref(), Credentials(identity_token="refresh"))
    assert other.seen[0].method == "POST"
    form = dict(pair.split("=") for pair in other.seen[0].body.decode().split("&"))
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "refresh")
    assert form["scope"] == "repository%3Aa%2Fb%3Apull"


async def test_a_refused_token_is_replaced_once(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: Reply(200, f'{{"token":"token-{len(other.seen)}"}}'.encode())
    await rig.client.resolve(rig.ref())
    server.fault = lambda seen: (
        Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="{other.url}/token",error="invalid_token"'})
        if seen.headers["authorization"] == "Bearer token-1"
        else None
    )
    await rig.client.resolve(rig.ref())
    assert server.seen[-1].headers["authorization"] == "Bearer token-2"


async def test_a_good_token_that_is_not_enough_is_denied(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    challenge = f'Bearer realm="{other.url}/token",service="svc",error="insufficient_scope"'
    server.fault = every("GET", Reply(401, b"", {"WWW-Authenticate": challenge}))
    other.fault = lambda seen: Reply(200, b'{"token":"token-1"}')
    with pytest.raises(
        NotFound, match=r"pull access denied for .* may require 'docker login': denied: requested"
    ):
        await rig.client.resolve(rig.ref())
    assert len(server.seen) == 2


async def test_a_token_server_that_refuses(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: Reply(401, b'{"details":"incorrect username or password"}')
    with pytest.raises(System, match="incorrect username or password"):
        await rig.client.resolve(rig.ref(), ME)


async def test_a_redirect_takes_no_credentials_along(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.fault = guard()
    server.blobs[digest(LAYER)] = LAYER
    right = server.fault

    def redirect(seen: Seen) -> Reply | None:
        return right(seen) or Reply(307, b"", {"Location": f"{other.url}/storage?signature=x"})

    server.fault = redirect
    other.fault = lambda seen: Reply(200, LAYER)
    async with rig.client.blob(rig.ref(), descriptor(LAYER), ME) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == LAYER
    assert server.seen[-1].headers["authorization"] == BASIC
    assert "authorization" not in other.seen[0].headers


async def test_who_is_redirected_to_may_not_ask_for_credentials(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.fault = every("GET", Reply(302, b"", {"Location": f"{other.url}/x"}))
    other.fault = every("GET", Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="{other.url}/steal"'}))
    with pytest.raises(System, match="unauthorized"):
        await rig.client.resolve(rig.ref(), ME)
    assert [(seen.path, "authorization" in seen.headers) for seen in other.seen] == [("/x", False)]


async def test_redirects_end(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = every("GET", Reply(302, b"", {"Location": "/v2/again"}))
    with pytest.raises(Unavailable, match="stopped after 5 redirects"):
        await rig.client.resolve(rig.ref())


async def test_a_foreign_layer_is_fetched_as_nobody(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.fault = guard()
    other.fault = lambda seen: Reply(200, LAYER)
    foreign = descriptor(LAYER, urls=["ftp://x/", f"{other.url}/layer"])
    async with rig.client.blob(rig.ref(), foreign, ME) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == LAYER
    assert [(seen.path, "authorization" in seen.headers) for seen in other.seen] == [("/layer", False)]


async def test_an_upload_that_is_sent_elsewhere_takes_no_credentials_along(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    right = guard()

    def away(seen: Seen) -> Reply | None:
        if seen.method == "POST":
            return right(seen) or Reply(202, b"", {"Location": f"{other.url}/v2/a/b/blobs/uploads/s0"})
        return right(seen)

    server.fault = away
    other.uploads["s0"] = bytearray()
    await rig.client.upload_blob(rig.ref(), descriptor(LAYER), source(LAYER), ME)
    assert other.blobs[digest(LAYER)] == LAYER
    assert not any("authorization" in seen.headers for seen in other.seen)


async def test_a_mirror_gets_no_credentials_and_the_registry_does(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry, tmp_path: Any
) -> None:
    server.image("a/b", "1", LAYER)
    server.fault, other.fault = guard(), guard()
    (tmp_path / server.host).mkdir()
    (tmp_path / server.host / "hosts.toml").write_text(f'[host."{other.url}"]\n')
    client = Registry(RegistrySettings(certs_dirs=(str(tmp_path),)), rig._pause)
    found = await client.resolve(rig.ref(), ME)
    assert found.host == server.host
    assert [seen.query for seen in other.seen] == [{"ns": [server.host]}]
    assert "authorization" not in other.seen[0].headers
    await client.close()


async def test_a_mirror_that_lies_is_passed_over(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry, tmp_path: Any
) -> None:
    wanted = server.image("a/b", "1", LAYER)
    other.fault = every("GET", Reply(200, b'{"schemaVersion":2,"config":{},"layers":[]}'))
    (tmp_path / server.host).mkdir()
    (tmp_path / server.host / "hosts.toml").write_text(f'[host."{other.url}"]\n')
    client = Registry(RegistrySettings(certs_dirs=(str(tmp_path),)), rig._pause)
    assert (await client.manifest(rig.ref(), Digest(wanted.digest))).descriptor == wanted
    assert len(other.seen) == 1
    await client.close()


async def test_a_proxy_of_plain_http_is_told_the_whole_url(rig: Rig, server: ScriptedRegistry) -> None:
    data = b'{"schemaVersion":2,"config":{"digest":"%s"},"layers":[]}' % WRONG.encode()
    server.fault = every("GET http://mirror.example/v2/library/x/manifests/1", Reply(200, data))
    proxy = server.url.replace("//", "//me:pw@")
    client = rig.with_settings(mirrors=("http://mirror.example",), proxies={"http-proxy": proxy})
    assert (await client.resolve(parse_reference("x:1"), ME)).data == data
    assert server.seen[0].headers["host"] == "mirror.example"
    assert server.seen[0].headers["proxy-authorization"] == "Basic bWU6cHc="
    assert "authorization" not in server.seen[0].headers


async def test_new_settings_do_not_end_what_is_under_way(rig: Rig, server: ScriptedRegistry) -> None:
    server.blobs[digest(LAYER)] = LAYER
    async with rig.client.blob(rig.ref(), descriptor(LAYER)) as chunks:
        got = await anext(chunks)
        rig.client.reload(RegistrySettings(certs_dirs=(), insecure=("reg.example",)))
        got += b"".join([chunk async for chunk in chunks])
    assert got == LAYER
    assert await rig.blob(LAYER) == LAYER


# ---- pushes --------------------------------------------------------------------------------------


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


# ---- logins and searches -------------------------------------------------------------------------


def at(server: ScriptedRegistry, **more: str) -> Credentials:
    return Credentials(server_address=server.host, **{"username": "me", "password": "secret", **more})


async def test_login_by_basic(rig: Rig, server: ScriptedRegistry) -> None:
    server.fault = guard()
    assert (await rig.client.check(at(server))).status == "Login Succeeded"
    with pytest.raises(Unauthorized, match=r"login attempt to .*/v2/ failed with status: 401"):
        await rig.client.check(at(server, password="wrong"))


async def test_login_by_token_brings_an_identity_token(
    rig: Rig, server: ScriptedRegistry, other: ScriptedRegistry
) -> None:
    server.fault = guard(f"{other.url}/token", "Bearer")
    other.fault = lambda seen: (
        Reply(200, b'{"token":"token-1","refresh_token":"keep me"}')
        if seen.headers.get("authorization") == BASIC
        else Reply(401, b'{"details":"incorrect username or password"}')
    )
    answer = await rig.client.check(at(server))
    assert (answer.status, answer.identity_token) == ("Login Succeeded", "keep me")
    assert other.seen[0].query["offline_token"] == ["true"]
    with pytest.raises(Unauthorized, match=r'Get "http.*/v2/": incorrect username or password'):
        await rig.client.check(at(server, password="wrong"))


async def test_login_where_nobody_is_asked(rig: Rig, server: ScriptedRegistry) -> None:
    assert (await rig.client.check(at(server))).status == "Login Succeeded"
    assert "authorization" not in server.seen[0].headers


async def test_search(rig: Rig, server: ScriptedRegistry) -> None:
    results = [{"name": "b", "star_count": 1, "is_official": False}, {"name": "a", "star_count": 5}]
    server.fault = every("GET /v1/search", Reply(200, json.dumps({"results": results}).encode()))
    found = await rig.client.search(f"{server.host}/a b", 0, {"stars": ["2"]})
    assert [one.name for one in found] == ["a"]
    assert server.seen[0].query == {"q": ["a b"], "n": ["25"]}
    with pytest.raises(InvalidParameter, match=r"limit 101 is outside the range of \[1, 100\]"):
        await rig.client.search("x", 101, {})
    server.fault = lambda seen: None
    with pytest.raises(System, match="Unexpected status code 404"):
        await rig.client.search(f"{server.host}/x", 5, {})

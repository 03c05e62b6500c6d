"""What the client of registries shows of who it is, and to whom: nothing secret goes anywhere else."""

import json
from typing import Any

import pytest
from registry_rig import BASIC, LAYER, ME, WRONG, Rig, every, guard, source
from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor, digest

from proa.errors import InvalidParameter, NotFound, System, Unauthorized, Unavailable
from proa.registry import Registry, RegistrySettings
from proa.schema.reference import Digest, parse_reference
from proa.schema.registry import Credentials


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

"""/auth, /images/search, /distribution and the X-Registry-Auth header."""

import base64
import json
from collections.abc import Callable

import pytest
from fake_engine import FakeEngine
from raw_client import RawClient

from proa.api.credentials import decode_credentials
from proa.errors import InvalidParameter
from proa.schema.registry import Credentials

Connect = Callable[[], RawClient]


def header(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def test_the_header_as_clients_send_it() -> None:
    told = {"username": "me", "password": "ü?>", "email": "", "serveraddress": "reg.example", "auth": ""}
    found = Credentials(username="me", password="ü?>", server_address="reg.example")
    assert decode_credentials(header(told)) == found
    assert decode_credentials(header(told).rstrip("=")) == found
    assert decode_credentials(header({"identitytoken": "t"})) == Credentials(identity_token="t")


@pytest.mark.parametrize("text", ["", header({}), header(None), "====", header({"serveraddress": "x"})])
def test_a_header_that_says_nothing(text: str) -> None:
    assert decode_credentials(text) is None


@pytest.mark.parametrize(
    "text", ["!", "eyJ", header([1]), header({"username": 7}), base64.b64encode(b"{").decode()]
)
def test_a_malformed_header(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid X-Registry-Auth header"):
        decode_credentials(text)


def test_secrets_are_not_printed() -> None:
    shown = repr(
        Credentials(username="me", password="hidden", identity_token="hidden", registry_token="hidden")
    )
    assert "me" in shown
    assert "hidden" not in shown


async def test_auth(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    body = b'{"username":"me","password":"secret","serveraddress":"reg.example","email":null}'
    answer = await client.request("POST", "/v1.40/auth", body)
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {"Status": "Login Succeeded", "IdentityToken": ""},
    )
    (call,) = engine.registries.calls
    assert call == ("login", Credentials(username="me", password="secret", server_address="reg.example"))
    refused = await client.request("POST", "/auth", b'{"username":"me","password":"x"}')
    assert (refused.status, json.loads(refused.body)) == (401, {"message": "incorrect username or password"})


async def test_search(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    target = "/images/search?term=a%20b&limit=7&filters=%7B%22stars%22%3A%7B%223%22%3Atrue%7D%7D"
    sent = header({"username": "me", "password": "p"})
    answer = await client.request("GET", target, None, f"X-Registry-Auth: {sent}")
    assert json.loads(answer.body) == [
        {
            "name": "a b",
            "description": "found",
            "is_official": True,
            "is_automated": False,
            "star_count": 3,
        }
    ]
    who = Credentials(username="me", password="p")
    assert engine.registries.calls == [("search", "a b", 7, {"stars": ["3"]}, who)]
    assert (await client.request("GET", "/images/search")).status == 400


async def test_distribution(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    answer = await client.request("GET", "/distribution/reg.example:5000/a/b:1/json")
    assert json.loads(answer.body)["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    raw = await client.request("GET", "/distribution/reg.example:5000/a/b:1/manifest?insecure=1")
    assert raw.body == engine.registries.MANIFEST
    assert raw.headers["content-type"] == "application/vnd.oci.image.manifest.v1+json"
    assert raw.headers["docker-content-digest"] == "sha256:" + "a" * 64
    assert engine.registries.calls == [
        ("inspect", "reg.example:5000/a/b:1", None),
        ("manifest", "reg.example:5000/a/b:1", None, True),
    ]
    assert (await client.request("GET", "/distribution/nosuch/manifest")).status == 404


async def test_a_manifest_is_put_with_its_media_type(connect: Connect, engine: FakeEngine) -> None:
    target = "/distribution/reg.example/b@sha256:0/manifest?from=reg.example/a"
    answer = await connect().request("PUT", target, b"{}")
    assert json.loads(answer.body) == {"Digest": "sha256:" + "a" * 64}
    name = "reg.example/b@sha256:0"
    assert engine.registries.calls == [("put", name, "application/json", b"{}", None, "reg.example/a", False)]

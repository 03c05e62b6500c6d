"""Challenges, origins, proxies, manifests, search terms: what is read without asking anybody."""

import json
import subprocess
import sys
from typing import Any

import pytest

from proa.errors import InvalidParameter, System
from proa.registry.account import _split_term, login_domain, search_filter
from proa.registry.authority import Authority
from proa.registry.challenge import parse_challenges
from proa.registry.download import next_link
from proa.registry.exchange import retry_after
from proa.registry.failures import Refusal
from proa.registry.manifests import read_manifest, verified
from proa.registry.origin import Origin, parse_url
from proa.registry.pool import Route
from proa.registry.proxies import read_proxies
from proa.registry.tls import TLSSettings
from proa.schema import oci
from proa.schema.reference import parse_reference
from proa.schema.registry import Credentials, SearchResult

REF = parse_reference("reg.example/a/b:1")
DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": "m", "digest": DIGEST, "size": 1}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://t/x",service="s",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://t/x", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            'BEARER Realm = "a\\"b" , error=insufficient_scope, Basic realm="y"',
            [("bearer", {"realm": 'a"b', "error": "insufficient_scope"}), ("basic", {"realm": "y"})],
        ),
        ("Negotiate, Basic realm=x", [("basic", {"realm": "x"})]),
        ("=, broken", []),
    ],
)
def test_challenges(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    read = [(one.scheme, one.parameters) for one in parse_challenges(header)]
    assert [one for one in read if one[0] != "negotiate"] == found


def test_a_hostile_challenge_is_read_in_no_time() -> None:
    assert parse_challenges('Bearer a="' + "\\" * 60_000) == parse_challenges("Bearer ")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/",
        "https://",
        "https://user:pw@h/",
        "https://h:99999/",
        "https://h/a b",
        "https://h/\r\nX: y",
        "https://hé/",
        "https://../x",
        "https://a..b/x",
        "https://" + "a" * 64 + "/x",
        "https://[1/x",
        "https://[x]/",
        "//h/",
        "",
    ],
)
def test_no_urls(url: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_url(url)


@pytest.mark.parametrize("location", ["//[1/x", "https://[", "//../x", "file:///etc/passwd"])
def test_a_location_that_is_none(location: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_url("https://h/v2/").joined(location)


@pytest.mark.parametrize("realm", ["http://reg.example/token", "http://[", "file:///etc/passwd", ""])
async def test_a_password_goes_to_no_token_server_in_plain(realm: str) -> None:
    asked: list[object] = []

    async def ask(*request: object) -> Any:
        asked.append(request)

    registry = Route(Origin("https", "reg.example", 443), TLSSettings())
    authority = Authority(ask)
    authority.learn(registry.origin, parse_challenges(f'Bearer realm="{realm}",service="s"'))
    with pytest.raises(Refusal, match=r"is not https|invalid token realm"):
        await authority.login(registry, Credentials(username="me", password="secret"))
    assert asked == []


def test_origins() -> None:
    target = parse_url("https://Reg.Example/v2/a/blobs/uploads/?_state=x")
    assert target.origin == Origin("https", "reg.example", 443)
    assert target.origin.authority == "reg.example"
    assert str(target.joined("https://reg.example:444/x?y=z")) == "https://reg.example:444/x?y=z"
    assert target.joined("/v2/x").path == "/v2/x"
    assert parse_url("http://[::1]:5000").origin.authority == "[::1]:5000"


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "reg.example", False),
        ("reg.example", "reg.example", True),
        ("example", "reg.example", True),
        (".example", "reg.example", True),
        (".reg.example", "reg.example", False),
        ("*", "reg.example", True),
        ("reg.example:444", "reg.example", False),
        ("reg.example:443", "reg.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2.3", "10.1.2.3", False),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.1.2.3:444", "10.1.2.3", False),
        ("10.0.0.0/8:443", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00:0::1", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]:444", "fd00::1", False),
        ("*.example", "reg.example", True),
        ("*.reg.example", "reg.example", False),
        ("*reg.example", "reg.example", False),
        (".example:443", "reg.example", True),
        (" other , REG.Example", "reg.example", True),
        ("reg.example", "xreg.example", False),
        (",.,:443", "reg.example", False),
        ("reg.example", "reg.example.", True),
        ("", "127.0.0.1", True),
        ("", "localhost", True),
        ("", "::1", True),
    ],
)
def test_who_is_reached_without_a_proxy(no_proxy: str, host: str, direct: bool) -> None:
    proxies = read_proxies({}, {"HTTPS_PROXY": "http://me:p%40w@proxy:3128", "no_proxy": no_proxy})
    found = proxies.of(Origin("https", host, 443))
    assert (found is None) == direct
    if found is not None:
        assert (found.origin, found.userinfo) == (Origin("http", "proxy", 3128), "me:p@w")
    assert proxies.of(Origin("http", host, 80)) is None


def test_the_daemons_proxies_hold_over_the_environments() -> None:
    proxies = read_proxies({"https-proxy": "http://one:1"}, {"HTTPS_PROXY": "http://two:2"})
    found = proxies.of(Origin("https", "h", 443))
    assert found is not None
    assert found.origin.port == 1
    with pytest.raises(InvalidParameter, match="must be http, https or socks5"):
        read_proxies({"https-proxy": "socks4://one:1"}, {})


@pytest.mark.parametrize(
    ("url", "origin", "socks"),
    [
        ("one", Origin("http", "one", 80), False),
        ("https://one", Origin("https", "one", 443), False),
        ("socks5://me:pw@one", Origin("http", "one", 1080), True),
        ("socks5h://one:9", Origin("http", "one", 9), True),
    ],
)
def test_how_a_proxy_is_spoken_to(url: str, origin: Origin, socks: bool) -> None:
    found = read_proxies({"http-proxy": url}, {}).of(Origin("http", "h", 80))
    assert found is not None
    assert (found.origin, found.socks) == (origin, socks)


def document(**members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **members}).encode()


MANIFEST = {"config": DESCRIPTOR, "layers": [DESCRIPTOR]}


@pytest.mark.parametrize(
    ("data", "content_type", "media_type"),
    [
        (document(**MANIFEST, mediaType=oci.MANIFEST), oci.MANIFEST, oci.MANIFEST),
        (document(**MANIFEST), f"{oci.DOCKER_MANIFEST}; charset=utf-8", oci.DOCKER_MANIFEST),
        (document(**MANIFEST), "", oci.MANIFEST),
        (document(**MANIFEST, mediaType=oci.DOCKER_MANIFEST), "text/plain", oci.DOCKER_MANIFEST),
        (document(manifests=[DESCRIPTOR]), "application/json", oci.INDEX),
        (document(manifests=[]), oci.DOCKER_MANIFEST_LIST, oci.DOCKER_MANIFEST_LIST),
    ],
)
def test_manifests_that_say_one_thing(data: bytes, content_type: str, media_type: str) -> None:
    found, content = read_manifest(data, content_type, REF)
    assert found == media_type
    assert isinstance(content, oci.Index) == (media_type in oci.INDEXES)


@pytest.mark.parametrize(
    ("data", "content_type", "words"),
    [
        (document(**MANIFEST, manifests=[]), oci.MANIFEST, "ambiguous"),
        (document(**MANIFEST, mediaType=oci.INDEX), oci.MANIFEST, "ambiguous"),
        (document(**MANIFEST), oci.INDEX, "ambiguous"),
        (document(manifests=[DESCRIPTOR]), oci.MANIFEST, "ambiguous"),
        (document(**MANIFEST, mediaType="x/y"), "", "unsupported manifest format"),
        (document(), oci.MANIFEST, "unsupported manifest format"),
        (b"<html>", oci.MANIFEST, "invalid manifest"),
        (b"[" * 100_000, oci.MANIFEST, "invalid manifest"),
        (document(config=DESCRIPTOR, layers=[{"digest": "sha256:../../etc"}]), oci.MANIFEST, "digest"),
        (document(config=DESCRIPTOR, layers=[{**DESCRIPTOR, "size": -1}]), oci.MANIFEST, "negative size"),
        (document(manifests=[{**DESCRIPTOR, "digest": "md5:" + "a" * 32}]), oci.INDEX, "digest"),
        (document(config=DESCRIPTOR, layers=7), oci.MANIFEST, "invalid manifest"),
    ],
)
def test_manifests_that_are_refused(data: bytes, content_type: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        read_manifest(data, content_type, REF)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (document(fsLayers=[]), ""),
        (json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(), oci.MANIFEST),
    ],
)
def test_schema_1_in_dockers_words(data: bytes, content_type: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_manifest(data, content_type, REF)
    assert "Docker Image manifest version 2, schema 1 support is disabled" in str(caught.value)
    assert "Suggest the author of reg.example/a/b:1 to upgrade" in str(caught.value)


def test_a_digest_that_is_not_the_one_asked_for() -> None:
    right = verified(b"x", "", "", REF)
    assert verified(b"x", right, "sha512:whatever", REF) == right
    with pytest.raises(System, match="manifest verification failed"):
        verified(b"x", DIGEST, "", REF)
    with pytest.raises(System, match="manifest verification failed"):
        verified(b"x", "", DIGEST, REF)


@pytest.mark.parametrize(
    ("value", "seconds"), [("", None), ("7", 7.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_link_headers() -> None:
    assert next_link('</v2/a/tags/list?last=b&n=2>; rel="next"') == "/v2/a/tags/list?last=b&n=2"
    assert next_link('</prev>; rel="prev", </next>; rel=next') == "/next"
    assert next_link('</prev>; rel="prev"') == ""
    assert next_link("") == ""


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("https://Reg.Example:5000/v2/", "reg.example:5000"),
        ("localhost:5000", "localhost:5000"),
    ],
)
def test_what_a_login_is_for(address: str, domain: str) -> None:
    assert login_domain(address) == domain


def test_search_terms() -> None:
    assert _split_term("library/nginx") == ("docker.io", "nginx")
    assert _split_term("me/nginx") == ("docker.io", "me/nginx")
    assert _split_term("localhost:5000/nginx") == ("localhost:5000", "nginx")
    with pytest.raises(InvalidParameter, match="should not have a scheme"):
        _split_term("https://x/y")


def test_search_filters() -> None:
    keep = search_filter({"stars": ["3"], "is-official": ["true"]})
    assert keep(SearchResult(star_count=3, is_official=True))
    assert not keep(SearchResult(star_count=2, is_official=True))
    assert not keep(SearchResult(star_count=3))
    for filters in ({"nosuch": ["x"]}, {"stars": ["many"]}, {"is-official": ["maybe"]}):
        with pytest.raises(InvalidParameter, match="invalid filter"):
            search_filter(filters)


def test_a_daemon_that_asks_no_registry_imports_next_to_nothing() -> None:
    probe = "import sys; from proa.registry import Registry, RegistrySettings; Registry(RegistrySettings())"
    done = subprocess.run(
        [sys.executable, "-c", f"{probe}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"tomllib", "proa.registry.exchange", "proa.registry.download", "http.client"}

"""Healthchecks without a command: whom they ask, and what is refused."""

import pytest
from resolving import resolved

from proa.engine.resolve import probe_target
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig

BOTH = ("127.0.0.1:{}", "[::1]:{}")


def both(port: int) -> tuple[str, ...]:
    return tuple(address.format(port) for address in BOTH)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("80", both(80)),
        (":80", both(80)),
        ("localhost:080", both(80)),
        ("10.0.0.2:65535", ("10.0.0.2:65535",)),
        ("[::1]:80", ("[::1]:80",)),
        ("[FE80:0::1]:80", ("[fe80::1]:80",)),
    ],
)
def test_whom_a_connection_goes_to(text: str, addresses: tuple[str, ...]) -> None:
    target = probe_target(["TCP", text])
    assert (target.addresses, target.request) == (addresses, b"")


@pytest.mark.parametrize(
    ("text", "addresses", "path", "host"),
    [
        ("", both(80), "/", "localhost"),
        ("/healthz", both(80), "/healthz", "localhost"),
        ("8080", both(8080), "/", "localhost:8080"),
        ("8080/a?b=c", both(8080), "/a?b=c", "localhost:8080"),
        (":8080?b", both(8080), "/?b", "localhost:8080"),
        ("localhost", both(80), "/", "localhost"),
        ("http://localhost:8080/x", both(8080), "/x", "localhost:8080"),
        ("HTTP://10.0.0.2/x", ("10.0.0.2:80",), "/x", "10.0.0.2"),
        ("http://[::1]:81", ("[::1]:81",), "/", "[::1]:81"),
        ("[::1]/", ("[::1]:80",), "/", "[::1]"),
        ("/to?u=https://x/", both(80), "/to?u=https://x/", "localhost"),
    ],
)
def test_what_a_request_says(text: str, addresses: tuple[str, ...], path: str, host: str) -> None:
    target = probe_target(["HTTP", text])
    assert target.addresses == addresses
    lines = target.request.decode().split("\r\n")
    assert lines[:2] == [f"GET {path} HTTP/1.1", f"Host: {host}"]
    assert lines[-3:] == ["Connection: close", "", ""]


@pytest.mark.parametrize("test", [["CMD", "TCP", "80"], ["CMD-SHELL", "TCP 80"], ["CMD-SHELL", " TCP\t80 "]])
def test_what_docker_s_own_tools_pass_on(test: list[str]) -> None:
    assert probe_target(test) == probe_target(["TCP", "80"])


@pytest.mark.parametrize(
    "test",
    [
        [],
        ["NONE"],
        ["CMD", "TCP"],
        ["CMD", "http", "80"],
        ["CMD", "TCP", "80", "x"],
        ["CMD", "sh", "-c"],
        ["CMD-SHELL", "TCP 80 || exit 1"],
        ["CMD-SHELL", "true"],
        ["CMD-SHELL", "TCP", "80"],
    ],
)
def test_what_is_a_command(test: list[str]) -> None:
    assert probe_target(test) is None


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (["CMD", "HTTP", "https://localhost/"], "HTTPS is not supported"),
        (["TCP"], "TCP in Healthcheck takes one argument, not 0"),
        (["HTTP", "80", "/"], "HTTP in Healthcheck takes one argument, not 2"),
        (["TCP", ""], "a port is missing"),
        (["TCP", "localhost"], "a port is missing"),
        (["TCP", "localhost:"], "a port is missing"),
        (["TCP", "0"], "invalid port '0'"),
        (["TCP", "65536"], "invalid port '65536'"),
        (["TCP", "9" * 5000], "invalid port"),
        (["TCP", "000080999"], "invalid port '000080999'"),
        (["CMD", "HTTP", ":000080999"], "invalid port '000080999'"),
        (["TCP", "\u0664\u0662"], "a port is missing"),
        (["TCP", "db:5432"], "'db' is neither localhost nor an IP address"),
        (["TCP", "::1:80"], "invalid port ':1:80'"),
        (["TCP", "[::1%1]:80"], "IPv6 ones stand in brackets"),
        (["TCP", "[10.0.0.1]:80"], "IPv6 ones stand in brackets"),
        (["TCP", "[::1]80"], "'80' after the address"),
        (["HTTP", "https://localhost/"], "HTTPS is not supported, use HTTP or a command"),
        (["HTTP", "ftp://localhost/"], "unsupported scheme 'ftp'"),
        (["HTTP", "http://user@localhost/"], "'user@localhost' is neither"),
        (["HTTP", "/a b"], "not a URL or path"),
        (["HTTP", "/a\r\nX: y"], "not a URL or path"),
        (["HTTP", "/a#b"], "not a URL or path"),
        (["HTTP", "/" + "a" * 5000], "not a URL or path"),
    ],
)
def test_what_is_refused(test: list[str], text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolved(healthcheck=HealthConfig(test=test))
    assert text in str(caught.value)


def test_other_kinds_are_refused_in_docker_s_words() -> None:
    with pytest.raises(InvalidParameter, match=r"^Unknown healthcheck type 'tcp' \(expected 'CMD'\)$"):
        resolved(healthcheck=HealthConfig(test=["tcp", "80"]))

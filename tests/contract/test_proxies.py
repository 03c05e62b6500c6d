"""Registries behind proxies of every kind: what reaches the proxy, and what a proxy that refuses comes to."""

from collections.abc import AsyncIterator

import pytest
from proxy_server import ProxyServer
from scripted_registry import ScriptedRegistry

from proa.errors import Unavailable
from proa.registry import Registry, RegistrySettings
from proa.schema.reference import parse_reference

LAYER = b"layer" * 1000


@pytest.fixture
async def server() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        registry.image("a", "1", LAYER)
        yield registry


async def at_once(seconds: float) -> None:
    """Between two attempts."""


def client(proxy: str) -> Registry:
    """It takes any registry for an insecure one, so that plain HTTP is spoken through the proxy, too."""
    told = {"http-proxy": proxy, "https-proxy": proxy, "no-proxy": "reached.example"}
    return Registry(RegistrySettings(certs_dirs=(), insecure=("reg.example",), proxies=told), at_once)


@pytest.mark.parametrize("kind", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", ["", "me:secret"])
async def test_socks(server: ScriptedRegistry, kind: str, login: str) -> None:
    """The name goes to the proxy; nothing of the proxy's login goes to the registry."""
    async with ProxyServer(server.port, kind, login=login) as proxy:
        registry = client(proxy.url)
        await registry.resolve(parse_reference("reg.example:5000/a:1"))
        await registry.close()
        assert set(proxy.asked) == {"reg.example:5000"}
    assert server.seen[-1].headers["host"] == "reg.example:5000"
    assert "proxy-authorization" not in server.seen[-1].headers


async def test_socks_that_wants_a_login(server: ScriptedRegistry) -> None:
    for login, words in (
        ("", "no acceptable authentication methods"),
        ("me:wrong@", "username/password authentication failed"),
    ):
        async with ProxyServer(server.port, "socks5", login="me:secret") as proxy:
            registry = client(f"socks5://{login}{proxy.url.rpartition('@')[2]}")
            with pytest.raises(Unavailable, match=words):
                await registry.resolve(parse_reference("reg.example/a:1"))
            await registry.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x05\x04\x00\x01", r"socks connect tcp 127.*->reg.example:.*: unknown error host unreachable"),
        (b"\x05\x63\x00\x01", "unknown code: 99"),
        (b"\x04\x00\x00\x01", "unexpected protocol version 4"),
        (b"\x05\x00", "unexpected EOF"),
    ],
)
async def test_socks_that_fails(server: ScriptedRegistry, answer: bytes, words: str) -> None:
    async with ProxyServer(server.port, "socks5") as proxy:
        proxy.answer = answer
        registry = client(proxy.url)
        with pytest.raises(Unavailable, match=words):
            await registry.resolve(parse_reference("reg.example/a:1"))
        await registry.close()


async def test_http_that_refuses(server: ScriptedRegistry) -> None:
    async with ProxyServer(server.port, "http", login="me:secret") as proxy:
        proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        told = {"https-proxy": proxy.url}
        registry = Registry(RegistrySettings(certs_dirs=(), proxies=told), at_once)
        with pytest.raises(Unavailable, match="proxyconnect tcp: 407 Proxy Authentication Required"):
            await registry.resolve(parse_reference("reg.example/a:1"))
        await registry.close()
        assert proxy.asked[0].startswith("CONNECT reg.example:443 HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.asked[0]


async def test_who_needs_no_proxy(server: ScriptedRegistry) -> None:
    async with ProxyServer(server.port, "socks5") as proxy:
        registry = client(proxy.url)
        await registry.resolve(parse_reference(f"{server.host}/a:1"))
        with pytest.raises(Unavailable, match=r"lookup reached\.example: no such host"):
            await registry.resolve(parse_reference("reached.example/a:1"))
        await registry.close()
        assert proxy.asked == []

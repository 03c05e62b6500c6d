"""URLs of imports, against servers that misbehave: bounded, by cause, and nobody's credentials go astray."""

from collections.abc import AsyncIterator

import pytest
from scripted_registry import Reply, ScriptedRegistry

from proa.errors import Forbidden, InvalidParameter, NotFound, ProaError, System, Unauthorized, Unavailable
from proa.registry import Interrupted, Registry, RegistrySettings

DATA = bytes(range(256)) * 3000


@pytest.fixture
async def server() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as web:
        yield web


@pytest.fixture
async def client() -> AsyncIterator[Registry]:
    registry = Registry(RegistrySettings(certs_dirs=()), at_once)
    yield registry
    await registry.close()


async def at_once(seconds: float) -> None:
    """Between two attempts."""


async def read(client: Registry, url: str) -> tuple[int | None, bytes]:
    async with client.open_url(url) as remote:
        return remote.length, b"".join([chunk async for chunk in remote.chunks])


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_there(client: Registry, server: ScriptedRegistry, chunked: bool) -> None:
    server.fault = lambda seen: Reply(200, DATA, chunked=chunked)
    assert await read(client, f"{server.url}/a.tar?b=c") == (None if chunked else len(DATA), DATA)
    assert server.seen[0].query == {"b": ["c"]}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (400, InvalidParameter),
        (401, Unauthorized),
        (403, Forbidden),
        (410, System),
        (500, Unavailable),
        (206, System),
    ],
)
async def test_refusals_by_cause(
    client: Registry, server: ScriptedRegistry, status: int, kind: type[ProaError]
) -> None:
    server.fault = lambda seen: Reply(status, b"why\x1b[2J\n")
    with pytest.raises(kind, match=f"failed to GET {server.url}/x with status {status} Status: why .2J"):
        await read(client, f"{server.url}/x")


async def test_redirects_are_followed_without_what_the_url_showed(
    client: Registry, server: ScriptedRegistry
) -> None:
    async with ScriptedRegistry() as other:
        server.fault = lambda seen: Reply(302, headers={"Location": f"{other.url}/there"})
        other.fault = lambda seen: Reply(200, DATA)
        assert (await read(client, f"http://me:p%40ss@{server.host}/here"))[1] == DATA
        assert server.seen[0].headers["authorization"] == "Basic bWU6cEBzcw=="
        assert "authorization" not in other.seen[0].headers


async def test_redirects_end(client: Registry, server: ScriptedRegistry) -> None:
    server.fault = lambda seen: Reply(302, headers={"Location": seen.path + "x"})
    with pytest.raises(Unavailable, match="stopped after 5 redirects"):
        await read(client, f"{server.url}/x")
    assert len(server.seen) == 6


async def test_what_breaks_off(client: Registry, server: ScriptedRegistry) -> None:
    server.fault = lambda seen: Reply(200, DATA, cut=1000)
    with pytest.raises(Interrupted, match="unexpected EOF"):
        await read(client, f"{server.url}/x")


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "http:///x", "http://h/a b", "file:///etc/passwd", "http://[1", "http://../x"]
)
async def test_what_is_no_url(client: Registry, url: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid URL"):
        await read(client, url)

"""The archive endpoints: what a path is goes into a header, what goes wrong into a status number."""

import json
from base64 import b64decode
from collections.abc import Callable

from fake_engine import FakeEngine
from raw_client import RawClient

Connect = Callable[[], RawClient]


async def one(connect: Connect) -> RawClient:
    client = connect()
    await client.request("POST", "/containers/create?name=one", b'{"Image":"busybox","Cmd":["true"]}')
    return client


async def test_stat_and_archive(connect: Connect, engine: FakeEngine) -> None:
    client = await one(connect)
    answer = await client.request("HEAD", "/containers/one/archive?path=/etc")
    told = json.loads(b64decode(answer.headers["x-docker-container-path-stat"]))
    assert (answer.status, told["name"], told["mode"]) == (200, "etc", 1 << 31 | 0o755)
    answer = await client.request("GET", "/containers/one/archive?path=/etc")
    assert answer.headers["content-type"] == "application/x-tar"
    assert "x-docker-container-path-stat" in answer.headers
    assert answer.body == b"".join(engine.files.archived)
    answer = await client.request("GET", "/containers/one/archive?path=/nosuch")
    assert answer.status == 404
    assert json.loads(answer.body)["message"] == "Could not find the file /nosuch in container one"
    assert (await client.request("GET", "/containers/one/archive")).status == 400
    assert (await client.request("GET", "/containers/one/export")).body == b"".join(engine.files.archived)


async def test_extract_takes_a_body_and_flags(connect: Connect, engine: FakeEngine) -> None:
    client = await one(connect)
    answer = await client.request(
        "PUT", "/containers/one/archive?path=/x&noOverwriteDirNonDir=true&copyUIDGID=1", b"a tar"
    )
    assert answer.status == 200
    assert engine.files.calls == [("extract", "one", "/x", True, True)]
    assert bytes(engine.files.received) == b"a tar"
    answer = await client.request("PUT", "/containers/one/archive?path=/sealed", b"a tar")
    assert answer.status == 403


async def test_commit_with_and_without_a_configuration(connect: Connect, engine: FakeEngine) -> None:
    client = await one(connect)
    path = "/commit?container=one&repo=r&tag=t&author=a&comment=c&pause=0&changes=ENV+A%3Db&changes=USER+x"
    answer = await client.request("POST", path, b"null")
    assert (answer.status, json.loads(answer.body)["Id"][:7]) == (201, "sha256:")
    _, ref, asked, options = engine.commits.calls[0]
    assert (ref, asked) == ("one", None)
    assert options == {
        "repo": "r",
        "tag": "t",
        "author": "a",
        "comment": "c",
        "changes": ["ENV A=b", "USER x"],
        "pause": False,
    }
    await client.request("POST", "/commit?container=one", b'{"User":"me"}')
    assert engine.commits.calls[1][2].user == "me"

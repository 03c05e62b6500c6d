"""Each group of endpoints decodes its query and body, calls the engine, and encodes the answer."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from fake_engine import FakeEngine
from raw_client import RawClient

from proa.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotImplemented_,
    StartFailed,
    System,
    Unauthorized,
    Unavailable,
)
from proa.schema.registry import Credentials

Connect = Callable[[], RawClient]


async def test_ping(connect: Connect) -> None:
    client = connect()
    answer = await client.request("GET", "/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["api-version"] == "1.51"
    assert answer.headers["ostype"] == "linux"
    answer = await client.request("HEAD", "/_ping")
    assert (answer.status, answer.headers["content-length"]) == (200, "0")
    assert (await client.request("GET", "/v1.24/_ping")).status == 200


async def test_life_of_a_container_over_one_connection(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    created = await client.request(
        "POST", "/v1.51/containers/create?name=one", b'{"Image":"busybox","Cmd":["sleep","9"]}'
    )
    assert created.status == 201
    body = json.loads(created.body)
    assert body["Warnings"] == []
    id = body["Id"]
    assert (await client.request("POST", f"/v1.51/containers/{id}/start")).status == 204
    assert (await client.request("POST", f"/v1.51/containers/{id}/start")).status == 304
    inspected = json.loads((await client.request("GET", "/containers/one/json")).body)
    assert inspected["State"]["Running"] is True
    assert (await client.request("POST", f"/containers/{id}/stop?t=3&signal=INT")).status == 204
    assert ("stop", id, "INT", 3) in engine.containers.calls
    waited = await client.request("POST", f"/containers/{id}/wait")
    assert json.loads(waited.body)["StatusCode"] == 143
    assert (await client.request("DELETE", f"/containers/{id}?v=1&force=0")).status == 204
    assert engine.containers.calls[-1] == ("remove", id, True, False, False)
    gone = await client.request("GET", f"/containers/{id}/json")
    assert gone.status == 404
    assert json.loads(gone.body) == {"message": f"No such container: {id}"}


async def test_manifests_are_for_clients_that_know_them(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    for path, since in (("/images/json", 47), ("/images/library/busybox:latest/json", 48)):
        for minor in (since - 1, since):
            answer = await client.request("GET", f"/v1.{minor}{path}?manifests=1")
            assert (answer.status, engine.images.manifests) == (200, minor == since)
    platform = quote('{"os":"linux","architecture":"amd64"}')
    answer = await client.request("GET", f"/v1.51/images/a/json?manifests=1&platform={platform}")
    assert answer.status == 400


async def test_pulls_and_pushes_know_who_asks(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    header = b64encode(b'{"username":"u","password":"p"}').decode()
    who = Credentials(username="u", password="p")
    target = "/images/create?fromImage=host:5000/a&tag=1&platform=linux/arm64"
    answer = await client.request("POST", target, None, f"X-Registry-Auth: {header}", "Content-Length: 0")
    assert answer.status == 404
    assert engine.images.calls[-1] == ("pull", "host:5000/a", "1", "linux/arm64", who)
    platform = quote('{"os":"linux","architecture":"arm","variant":"v7"}')
    target = f"/images/host:5000/a/push?tag=1&platform={platform}"
    await client.request("POST", target, b"", f"X-Registry-Auth: {header}")
    assert engine.images.calls[-1] == ("push", "host:5000/a", "1", "linux/arm/v7", who)
    await client.request("POST", "/images/a/push", b"", "X-Registry-Auth: e30=")
    assert engine.images.calls[-1] == ("push", "a", "", "", None)
    for bad in ("/images/a/push?platform=linux", "/images/create?fromImage=a"):
        answer = await client.request("POST", bad, b"", "X-Registry-Auth: !")
        assert answer.status == 400


async def test_wait_answers_with_its_head_before_the_exit(connect: Connect, engine: FakeEngine) -> None:
    client, other = connect(), connect()
    await client.request("POST", "/containers/create?name=one", b'{"Image":"busybox"}')
    await client.send(b"POST /containers/one/wait?condition=next-exit HTTP/1.1\r\nHost: p\r\n\r\n")
    assert (await client.head()).status == 200
    await other.request("POST", "/containers/one/start")
    await other.request("POST", "/containers/one/kill")
    assert json.loads(await client.chunk())["StatusCode"] == 137
    assert await client.chunk() == b""
    assert (await client.request("GET", "/_ping")).status == 200


async def test_wait_refuses_an_unknown_condition(connect: Connect) -> None:
    answer = await connect().request("POST", "/containers/one/wait?condition=never")
    assert (answer.status, json.loads(answer.body)) == (400, {"message": 'invalid condition: "never"'})


async def test_a_client_that_leaves_cancels_its_wait(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    await client.request("POST", "/containers/create?name=one", b'{"Image":"busybox"}')
    await client.send(b"POST /containers/one/wait?condition=next-exit HTTP/1.1\r\nHost: p\r\n\r\n")
    await client.head()
    client.half_close()
    await client.read_all()
    [(_, future)] = engine.containers.get("one").waits
    assert future.cancelled()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidParameter("m"), 400),
        (Unauthorized("m"), 401),
        (Forbidden("m"), 403),
        (NotFound("m"), 404),
        (Conflict("m"), 409),
        (NotImplemented_("m"), 501),
        (Unavailable("m"), 503),
        (System("m"), 500),
        (StartFailed("m", 127), 400),
        (StartFailed("m", 126), 400),
        (StartFailed("m", 128), 500),
    ],
)
async def test_errors_have_their_status(
    connect: Connect, engine: FakeEngine, error: Exception, status: int
) -> None:
    engine.containers.fail_with = error
    answer = await connect().request("POST", "/containers/one/start")
    assert (answer.status, json.loads(answer.body)) == (status, {"message": "m"})


async def test_an_unforeseen_failure_is_a_500_and_the_connection_goes_on(
    connect: Connect, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    engine.containers.fail_with = KeyError("x")
    answer = await client.request("POST", "/containers/one/start")
    assert answer.status == 500
    assert "message" in json.loads(answer.body)
    assert "POST /containers/one/start failed" in caplog.text
    assert (await client.request("GET", "/_ping")).status == 200


async def test_kill_names_the_container_in_its_error(connect: Connect) -> None:
    answer = await connect().request("POST", "/containers/nosuch/kill")
    assert answer.status == 404
    assert json.loads(answer.body)["message"] == ("cannot kill container: nosuch: No such container: nosuch")


async def test_image_names_hold_slashes(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    assert (await client.request("GET", "/v1.44/images/library/busybox:latest/json")).status == 200
    assert (await client.request("GET", "/images/library%2Fbusybox:latest/json")).status == 200
    assert (await client.request("POST", "/images/a/b/c/tag?repo=r&tag=t")).status == 201
    assert engine.images.calls == [("tag", "a/b/c", "r", "t")]
    deleted = await client.request("DELETE", "/images/a/b")
    assert json.loads(deleted.body) == [{"Untagged": "a/b"}]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
        ("1.52", "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("2.0", "client version 2.0 is too new. Maximum supported API version is 1.51"),
        ("².5", "invalid API version: ².5"),
        ("1.²", "invalid API version: 1.²"),
    ],
)
async def test_versions_outside_the_range_are_refused(connect: Connect, version: str, message: str) -> None:
    answer = await connect().request("GET", f"/v{version}/version")
    assert (answer.status, json.loads(answer.body)) == (400, {"message": message})


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/nosuch"), ("GET", "/containers"), ("DELETE", "/version"), ("GET", "/v1.44"), ("GET", "/")],
)
async def test_unknown_pages(connect: Connect, method: str, target: str) -> None:
    answer = await connect().request(method, target)
    assert (answer.status, json.loads(answer.body)) == (404, {"message": "page not found"})


async def test_events_say_things_twice_for_old_clients(connect: Connect, engine: FakeEngine) -> None:
    answer = await connect().request(
        "GET", '/events?since=1&until=1700000000.5&filters={"type":{"container":true}}'
    )
    first = json.loads(answer.body.splitlines()[0])
    assert first["status"] == first["Action"] == "create"
    assert (first["id"], first["from"]) == ("c" * 64, "busybox")
    assert engine.system.calls == [
        ("events", 1_000_000_000, 1_700_000_000_500_000_000, {"type": ["container"]})
    ]


async def test_logs_are_typed_by_version_and_tty(connect: Connect) -> None:
    client = connect()
    await client.request("POST", "/containers/create?name=one", b'{"Image":"busybox"}')
    await client.request("POST", "/containers/create?name=tty", b'{"Image":"busybox","Tty":true}')
    answer = await client.request("GET", "/v1.42/containers/one/logs?stdout=1")
    assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert answer.body == b"\1\0\0\0\0\0\0\4one\n\1\0\0\0\0\0\0\6three\n"
    answer = await client.request("GET", "/v1.41/containers/one/logs?stdout=1")
    assert answer.headers["content-type"] == "application/vnd.docker.raw-stream"
    answer = await client.request("GET", "/containers/tty/logs?stdout=1&stderr=true")
    assert answer.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert answer.body == b"one\ntwo\nthree\n"
    answer = await client.request("GET", "/containers/one/logs")
    assert answer.status == 400


async def test_before_1_40_an_ipc_namespace_can_be_joined(connect: Connect, engine: FakeEngine) -> None:
    client = connect()
    for minor, body in (
        (39, b'{"Image":"x"}'),
        (39, b'{"Image":"x","HostConfig":{"IpcMode":"private"}}'),
        (40, b'{"Image":"x"}'),
    ):
        await client.request("POST", f"/v1.{minor}/containers/create", body)
    asked = [call[2].host_config for call in engine.containers.calls if call[0] == "create"]
    assert [host_config and host_config.ipc_mode for host_config in asked] == ["shareable", "private", None]


async def test_before_1_42_a_prune_of_volumes_takes_the_named_ones(
    connect: Connect, engine: FakeEngine
) -> None:
    client = connect()
    assert (await client.request("POST", "/v1.41/volumes/prune")).status == 200
    assert engine.volumes.pruned_with == {"all": ["true"]}
    assert (await client.request("POST", "/v1.42/volumes/prune")).status == 200
    assert engine.volumes.pruned_with == {}


async def test_what_an_inspected_image_shows_unset_by_version(connect: Connect) -> None:
    client = connect()

    async def inspected(version: str) -> dict[str, Any]:
        answer = await client.request("GET", f"/v{version}/images/library/busybox:latest/json")
        found: dict[str, Any] = json.loads(answer.body)
        return found

    newest = await inspected("1.51")
    assert newest["Config"] == {
        "Cmd": None,
        "Entrypoint": None,
        "Env": ["PATH=/bin"],
        "Labels": None,
        "OnBuild": None,
        "User": "",
        "Volumes": None,
        "WorkingDir": "",
    }
    assert "VirtualSize" not in newest
    older = await inspected("1.43")
    assert older["Config"] | newest["Config"] == older["Config"]
    assert (older["Config"]["Image"], older["Config"]["Tty"], older["VirtualSize"]) == ("", False, 5)


async def test_the_list_of_images_by_version(connect: Connect) -> None:
    client = connect()
    found = {
        version: json.loads((await client.request("GET", f"/v{version}/images/json")).body)[0]
        for version in ("1.51", "1.50", "1.43")
    }
    assert [image["Containers"] for image in found.values()] == [2, -1, -1]
    assert ["VirtualSize" in image for image in found.values()] == [False, False, True]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/images/x/history?platform=%7B%7D", "both OS and Architecture must be provided"),
        ("/images/x/get?platform=x", "failed to parse platform: "),
        (
            "/images/x/json?manifests=1&platform=%7B%22os%22:%22linux%22,%22architecture%22:%22arm%22%7D",
            "conflicting options: manifests and platform options cannot both be set",
        ),
    ],
)
async def test_platforms_that_are_none(connect: Connect, target: str, message: str) -> None:
    answer = await connect().request("GET", target)
    assert (answer.status, json.loads(answer.body)["message"].startswith(message)) == (400, True)

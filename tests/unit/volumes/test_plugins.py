"""The plugin protocol, against a plugin that keeps to it and ones that do not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_server import PluginServer, dead_socket, serving

from proa.errors import NotFound, System
from proa.volumes import Plugins

LONG = {"Volume": {"Name": "data", "Mountpoint": "x" * (2 << 20)}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PluginServer]:
    with serving(tmp_path / "run" / "test.sock", tmp_path / "theirs") as server:
        yield server


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(sockets=[str(tmp_path / "run")], specs=[str(tmp_path / "etc")])


async def test_the_life_of_a_volume(plugins: Plugins, server: PluginServer) -> None:
    await plugins.create("test", "data", {"k": "v"})
    assert await plugins.mount("test", "data", "c1") == str(server.root / "data")
    assert server.mounts == [("data", "c1")]
    found = await plugins.get("test", "data")
    assert (found.mountpoint, found.status) == (str(server.root / "data"), {"options": 1})
    assert [volume.name for volume in await plugins.list("test")] == ["data"]
    assert await plugins.scope("test") == "global"
    await plugins.unmount("test", "data", "c1")
    await plugins.remove("test", "data")
    assert (server.mounts, server.volumes) == ([], {})
    assert [call for call, _ in server.calls].count("/Plugin.Activate") == 1
    assert plugins.names() == ["test"]


async def test_where_plugins_are_found(plugins: Plugins, server: PluginServer, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "plain.spec").write_text(f"unix://{server.server_address}\n")
    (tmp_path / "etc" / "jay.json").write_text(json.dumps({"Addr": f"unix://{server.server_address}"}))
    (tmp_path / "etc" / "odd.json").write_text("{")
    assert plugins.names() == ["jay", "plain", "test"]
    for driver in ("plain", "jay"):
        assert await plugins.scope(driver) == "global"


@pytest.mark.parametrize("driver", ["gone", "../run/test", "a/b", "..", "", "x" * 200])
async def test_drivers_that_are_none(plugins: Plugins, server: PluginServer, driver: str) -> None:
    with pytest.raises(NotFound, match="error looking up volume plugin"):
        await plugins.create(driver, "data", {})
    assert server.calls == []


async def test_a_plugin_for_something_else(plugins: Plugins, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "run" / "net.sock", tmp_path / "x", implements="NetworkDriver"),
        pytest.raises(NotFound, match="does not implement the requested interface"),
    ):
        await plugins.create("net", "data", {})


async def test_its_own_words_for_a_failure(plugins: Plugins, server: PluginServer) -> None:
    server.replies["/VolumeDriver.Create"] = {"Err": "no\nroom" + "!" * 5000}
    with pytest.raises(System, match=r"^VolumeDriver\.Create: no room!+$") as raised:
        await plugins.create("test", "data", {})
    assert len(str(raised.value)) < 1100


@pytest.mark.parametrize(
    "reply", [b"", b"no json", b"[]", b'{"Err": 5}', json.dumps(LONG).encode(), b'{"Volume": {"Name": "x"}}']
)
async def test_replies_that_are_none(plugins: Plugins, server: PluginServer, reply: bytes) -> None:
    server.replies["/VolumeDriver.Get"] = reply
    with pytest.raises(System, match="Get"):
        await plugins.get("test", "data")


async def test_names_that_no_volume_has_are_left_out(plugins: Plugins, server: PluginServer) -> None:
    names = ["good", "../bad", "a/b", "", "x\ny"]
    server.replies["/VolumeDriver.List"] = {"Volumes": [{"Name": name} for name in names]}
    assert [volume.name for volume in await plugins.list("test")] == ["good"]


@pytest.mark.parametrize("path", ["", "relative/x", "../x", "/a\0b", "/a\nb", "/" + "x" * 5000])
async def test_mount_points_that_are_refused(plugins: Plugins, server: PluginServer, path: str) -> None:
    server.replies["/VolumeDriver.Mount"] = {"Mountpoint": path}
    with pytest.raises(System, match="gave a mount point that is no absolute path"):
        await plugins.mount("test", "data", "c1")


async def test_one_that_never_answers(server: PluginServer, tmp_path: Path) -> None:
    plugins = Plugins(sockets=[str(tmp_path / "run")], specs=[], long=0.05)
    server.stuck.add("/VolumeDriver.Mount")
    with pytest.raises(System, match=r"test\.sock did not answer within 0\.05 seconds"):
        await plugins.mount("test", "data", "c1")


async def test_one_that_is_dead(plugins: Plugins, tmp_path: Path) -> None:
    dead_socket(tmp_path / "run" / "dead.sock")
    with pytest.raises(System, match=r"dial unix .*dead\.sock: connect: connection refused"):
        await plugins.create("dead", "data", {})

"""The verbs of /volumes, and volumes as containers hold them."""

import shutil
from pathlib import Path

import pytest
from fake_mounts import FakeMounts
from plugin_server import serving

from proa.engine.resolve import VolumeWish
from proa.engine.volumes import VolumeVerbs
from proa.errors import Conflict, InvalidParameter, NotFound, System
from proa.metadata import Metadata
from proa.schema.volume import VolumeCreateOptions
from proa.volumes import SCHEMA, LocalMounts, Plugins, VolumeStore


class Events:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def emit(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        assert type_ == "volume"
        self.told.append((action, actor_id))


class World:
    """The verbs with what is around them."""

    def __init__(self, root: Path) -> None:
        self.users: dict[str, list[str]] = {}
        self.events = Events()
        self.native = FakeMounts()
        self.root = root
        self.database = Metadata(root / "db", {"volumes": SCHEMA})
        self.store = VolumeStore(self.database, str(root / "volumes"))
        self.verbs = self._verbs(self.store)

    def again(self) -> VolumeVerbs:
        """The verbs of a daemon that comes after this one."""
        return self._verbs(VolumeStore(self.database, str(self.root / "volumes")))

    def _verbs(self, store: VolumeStore) -> VolumeVerbs:
        return VolumeVerbs(
            store,
            self.events,
            local=LocalMounts(self.native),
            plugins=Plugins(sockets=[str(self.root / "plugins")], specs=[], long=2, listing=2),
            using_volume=lambda name: self.users.get(name, []),
            remove_tree=lambda path: shutil.rmtree(path, ignore_errors=True),
            disk_usage=lambda path: (sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file()), 1),
        )

    async def create(self, name: str, **options: object) -> None:
        await self.verbs.create(VolumeCreateOptions(name=name, **options))  # type: ignore[arg-type]

    async def names(self, **filters: list[str]) -> list[str]:
        found = await self.verbs.list(filters)
        return [v.name for v in found.volumes or []]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_create_inspect_and_remove(world: World) -> None:
    await world.create("data", labels={"a": "b"})
    shown = await world.verbs.inspect("data")
    assert (shown.name, shown.driver, shown.scope, shown.labels) == ("data", "local", "local", {"a": "b"})
    assert shown.mountpoint.endswith("/volumes/data/_data")
    assert shown.created_at.endswith("Z")
    await world.create("data")
    await world.verbs.remove("data", force=False)
    assert not Path(shown.mountpoint).exists()
    assert world.events.told == [("create", "data"), ("destroy", "data")]


async def test_what_is_not_there(world: World) -> None:
    for call in (world.verbs.inspect("gone"), world.verbs.remove("gone", force=False)):
        with pytest.raises(NotFound, match=r"^get gone: no such volume$"):
            await call
    await world.verbs.remove("gone", force=True)


async def test_what_is_in_use_stays(world: World) -> None:
    await world.create("data")
    world.users["data"] = ["c2", "c1"]
    for force in (False, True):
        with pytest.raises(Conflict, match=r"^remove data: volume is in use - \[c1, c2\]$"):
            await world.verbs.remove("data", force=force)
    await world.verbs.prune({"all": ["true"]})
    assert await world.names() == ["data"]


async def test_filters(world: World) -> None:
    await world.create("db-one", labels={"tier": "db"})
    await world.create("web-one", labels={"tier": "web"})
    world.users["web-one"] = ["c1"]
    assert await world.names(name=["one"]) == ["db-one", "web-one"]
    assert await world.names(name=["db"]) == ["db-one"]
    assert await world.names(label=["tier=web"]) == ["web-one"]
    assert await world.names(label=["tier"]) == ["db-one", "web-one"]
    assert await world.names(driver=["nfs"]) == []
    assert await world.names(dangling=["true"]) == ["db-one"]
    assert await world.names(dangling=["0"]) == ["web-one"]
    with pytest.raises(InvalidParameter, match="invalid filter 'odd'"):
        await world.names(odd=["1"])
    with pytest.raises(InvalidParameter, match="invalid filter 'dangling="):
        await world.names(dangling=["maybe"])


async def test_prune_takes_anonymous_ones_only(world: World) -> None:
    await world.create("named")
    await world.create("")
    (anonymous,) = [n for n in await world.names() if n != "named"]
    Path(world.verbs.path(anonymous), "file").write_text("12345")
    report = await world.verbs.prune({})
    assert (report.volumes_deleted, report.space_reclaimed) == ([anonymous], 5)
    report = await world.verbs.prune({"all": ["1"], "label!": ["x"]})
    assert report.volumes_deleted == ["named"]


async def test_a_container_gets_its_volumes_filled_and_held(world: World, tmp_path: Path) -> None:
    (tmp_path / "layer" / "data").mkdir(parents=True)
    (tmp_path / "layer" / "data" / "file").write_text("from the image")
    wishes = [
        VolumeWish(name="data", target="/data"),
        VolumeWish(name="plain", target="/data", copy_up=False),
        VolumeWish(name="a" * 64, target="/data", anonymous=True),
    ]
    await world.verbs.provide("c1", wishes, [str(tmp_path / "layer")])
    assert Path(world.verbs.path("data"), "file").read_text() == "from the image"
    assert list(Path(world.verbs.path("plain")).iterdir()) == []
    with pytest.raises(Conflict, match=r"volume is in use - \[c1\]"):
        await world.verbs.remove("data", force=False)
    await world.verbs.remove_anonymous("a" * 64, "another")
    assert "a" * 64 in await world.names()
    world.verbs.release("c1")
    world.users["a" * 64] = ["c1"]  # its record goes last
    for name in ("a" * 64, "data", "never"):
        await world.verbs.remove_anonymous(name, "c1")
    assert await world.names() == ["data", "plain"]


async def test_a_failed_create_leaves_no_anonymous_volume(world: World) -> None:
    wishes = [
        VolumeWish(name="a" * 64, target="/a", anonymous=True),
        VolumeWish(name="named", target="/b", driver="nfs"),
    ]
    with pytest.raises(NotFound):
        await world.verbs.provide("c1", wishes, [])
    assert await world.names() == []


async def test_what_a_crash_left_is_swept(world: World, tmp_path: Path) -> None:
    await world.create("data")
    (tmp_path / "volumes" / "half-made" / "_data").mkdir(parents=True)
    await world.verbs.sweep()
    assert [p.name for p in (tmp_path / "volumes").iterdir()] == ["data"]


async def test_usage(world: World) -> None:
    await world.create("data")
    Path(world.verbs.path("data"), "file").write_text("123")
    (shown,) = await world.verbs.usage()
    assert shown.usage_data is not None
    assert (shown.usage_data.size, shown.usage_data.ref_count) == (3, 0)


# ---- mounts --------------------------------------------------------------------------------------

MEMORY = {"type": "tmpfs", "device": "tmpfs"}


def wish(name: str) -> VolumeWish:
    return VolumeWish(name=name, target=f"/{name}")


async def test_a_volume_is_mounted_with_its_first_container_and_unmounted_with_its_last(world: World) -> None:
    await world.create("memory", driver_opts=MEMORY)
    await world.create("plain")
    wishes = [wish("memory"), wish("plain"), VolumeWish(name="memory", target="/again")]
    for container in ("c1", "c2"):
        assert await world.verbs.mount(container, wishes) == {"memory": world.verbs.path("memory")}
    await world.verbs.unmount("c1")
    assert list(world.native.mounted) == [world.verbs.path("memory")]
    await world.verbs.unmount("c1")
    await world.verbs.unmount("c2")
    assert world.native.mounted == {}


async def test_what_fails_to_mount_is_forgotten(world: World) -> None:
    await world.create("memory", driver_opts=MEMORY)
    world.native.fails = 22
    with pytest.raises(System, match="error while mounting volume"):
        await world.verbs.mount("c1", [wish("memory")])
    assert world.store.mounts() == []


async def test_what_a_dead_daemon_left_mounted_is_settled(world: World) -> None:
    await world.create("one", driver_opts=MEMORY)
    await world.create("two", driver_opts=MEMORY)
    for name, container in (("one", "dead"), ("one", "alive"), ("two", "dead")):
        await world.verbs.mount(container, [wish(name)])
    after = world.again()
    await after.settle(lambda container: container == "alive")
    assert list(world.native.mounted) == [world.verbs.path("one")]
    assert world.store.mounts() == [("one", "alive")]


async def test_what_is_mounted_again_meanwhile_is_not_settled(world: World) -> None:
    await world.create("one", driver_opts=MEMORY)
    await world.verbs.mount("c1", [wish("one")])
    after = world.again()
    await after.mount("c1", [wish("one")])
    await after.settle(lambda container: False)
    assert len(world.native.mounted) == 1


async def test_volumes_of_plugins_are_listed_and_warned_of(world: World, tmp_path: Path) -> None:
    with serving(tmp_path / "plugins" / "test.sock", tmp_path / "theirs") as server:
        await world.create("ours", driver="test")
        server.volumes["others"] = {}
        assert await world.names() == ["ours", "others"]
        assert await world.names(driver=["test"]) == ["ours", "others"]
        assert (await world.verbs.inspect("others")).driver == "test"
        assert (await world.verbs.inspect("ours")).scope == "global"
        assert (await world.verbs.prune({"all": ["1"]})).volumes_deleted == []
        (usage,) = await world.verbs.usage()
        assert usage.usage_data is not None
        assert usage.usage_data.size == -1
        server.replies["/VolumeDriver.Remove"] = {"Err": "busy"}
        with pytest.raises(System, match=r"^remove ours: VolumeDriver\.Remove: busy$"):
            await world.verbs.remove("ours", force=False)
    listed = await world.verbs.list({})
    assert [volume.name for volume in listed.volumes or ()] == ["ours"]
    assert "error while retrieving volumes of driver test" in (listed.warnings or [""])[0]
    await world.verbs.remove("ours", force=True)
    assert await world.names() == []


async def test_a_volume_whose_size_cannot_be_held_is_not_made(world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="quota size requested but no quota support"):
        await world.create("small", driver_opts={"size": "1m"})
    assert await world.names() == []
    assert list((tmp_path / "volumes").iterdir()) == []

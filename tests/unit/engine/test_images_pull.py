"""Pulls from a registry in memory into a real store: what comes, what is asked for, what is left behind."""

import asyncio
import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry
from image_archives import chunks, digest, docker_archive, oci_archive, tar
from images_rig import Rig, lines

from proa.errors import Forbidden, InvalidParameter, NotFound, ProaError
from proa.schema.config import DaemonConfig
from proa.schema.reference import parse_digest

BASE = tar({"etc": None, "etc/os": b"base"})
TOP = tar({"top": os.urandom(4000)})
OTHER = tar({"other": b"x"})


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def rig(tmp_path: Path, registry: FakeRegistry) -> Rig:
    return Rig(tmp_path, registry)


def blob(layer: bytes) -> str:
    """The digest of a layer as the registry has it."""
    return digest(gzip.compress(layer, mtime=0))


def short(layer: bytes) -> str:
    return blob(layer)[7:19]


async def test_a_pull_says_what_docker_says(rig: Rig, registry: FakeRegistry) -> None:
    manifest = registry.put_image("app:1", [BASE, TOP])
    told = await rig.pull("app", "1")
    assert told[0] == "1: Pulling from library/app"
    assert told[-2:] == [f"Digest: {manifest}", "Status: Downloaded newer image for app:1"]
    for layer in (BASE, TOP):
        assert [line for line in told if line.startswith(short(layer))] == [
            f"{short(layer)}: {status}"
            for status in ("Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete")
        ]
    assert rig.events.told == [("pull", "app")]
    found = await rig.images.inspect("app:1")
    assert (found.repo_tags, found.repo_digests) == (["app:1"], [f"app@{manifest}"])
    upper, lower = rig.images.resolve("app:1").layers
    assert (Path(lower, "etc/os").read_bytes(), os.listdir(upper)) == (b"base", ["top"])


async def test_a_tag_that_is_here_costs_one_question(rig: Rig, registry: FakeRegistry) -> None:
    manifest = registry.put_image("app:1", [BASE])
    await rig.pull("app", "1")
    registry.asked.clear()
    assert await rig.pull("app:1") == [
        "1: Pulling from library/app",
        f"Digest: {manifest}",
        "Status: Image is up to date for app:1",
    ]
    assert registry.asked == {"HEAD 1": 1}


async def test_a_tag_that_moved_brings_only_what_is_new(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE, OTHER])
    await rig.pull("app", "1")
    old = rig.images.resolve("app:1")
    registry.put_image("app:1", [BASE, TOP])
    registry.asked.clear()
    told = await rig.pull("app", "1")
    assert f"{short(BASE)}: Already exists" in told
    assert told[-1] == "Status: Downloaded newer image for app:1"
    assert registry.asked[blob(BASE)] == 0
    assert registry.asked[blob(TOP)] == 1
    assert rig.images.resolve("app:1").id != old.id
    assert rig.images.resolve("app:1").layers[1] == old.layers[1]
    assert (await rig.images.inspect(old.id)).repo_tags == []


async def test_by_digest(rig: Rig, registry: FakeRegistry) -> None:
    manifest = registry.put_image("app:1", [BASE])
    told = await rig.pull("app", manifest)
    assert told[0] == f"docker.io/library/app@{manifest}: Pulling from library/app"
    assert told[-1] == f"Status: Downloaded newer image for app@{manifest}"
    assert (await rig.images.inspect(f"app@{manifest}")).repo_tags == []
    assert (await rig.pull(f"app@{manifest}"))[-1] == f"Status: Image is up to date for app@{manifest}"


async def test_every_tag(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE])
    registry.put_image("app:2", [BASE, TOP])
    told = await rig.pull("app")
    assert "1: Pulling from library/app" in told
    assert "2: Pulling from library/app" in told
    assert told[-1] == "Status: Downloaded newer image for app"
    assert await rig.names() == ["app:1", "app:2"]
    assert registry.asked[blob(BASE)] == 1


async def test_of_an_index_comes_what_runs_here(rig: Rig, registry: FakeRegistry) -> None:
    here = registry.put_image("app:", [BASE])
    there = registry.put_image("app:", [TOP], architecture="s390x")
    index = registry.put_index("app:1", linux_s390x=there, linux_amd64=here)
    told = await rig.pull("app", "1", "linux/amd64")
    assert told[-2] == f"Digest: {index}"
    assert rig.images.resolve("app:1").architecture == "amd64"
    assert (await rig.pull("app", "1", "linux/amd64"))[-1] == "Status: Image is up to date for app:1"
    assert (await rig.pull("app", "1", "linux/s390x"))[-1] == "Status: Downloaded newer image for app:1"
    assert rig.images.resolve("app:1").architecture == "s390x"
    with pytest.raises(NotFound, match="no matching manifest for linux/arm/v7 in the manifest list entries"):
        await rig.pull("app", "1", "linux/arm/v7")


async def test_an_image_of_another_platform_is_kept_with_a_warning(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE])
    told = await rig.pull("app", "1", "linux/arm64")
    assert told[-2:] == [
        "Status: Downloaded newer image for app:1",
        "WARNING: image with reference app:1 was found but its platform (linux/amd64) "
        "does not match the specified platform (linux/arm64)",
    ]


async def test_an_image_of_another_system_is_refused(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE], os="windows")
    with pytest.raises(InvalidParameter, match='image operating system "windows" cannot be used'):
        await rig.pull("app", "1")
    assert await rig.names() == []


async def test_what_is_no_name_is_refused(rig: Rig) -> None:
    for name, tag in (("UPPER", ""), ("app", "no tag"), ("app", "sha256:0")):
        with pytest.raises(InvalidParameter):
            await rig.images.pull(name, tag, "", None)


async def test_what_is_not_there_fails_before_the_first_line(rig: Rig, registry: FakeRegistry) -> None:
    with pytest.raises(NotFound, match="manifest for app:1 not found: manifest unknown"):
        await anext(aiter(await rig.images.pull("app", "1", "", None)))
    registry.put_image("app:1", [BASE], config_type="application/vnd.cncf.helm.config.v1+json")
    with pytest.raises(InvalidParameter, match=r'Encountered remote "application/vnd.cncf.helm.* when'):
        await rig.pull("app", "1")
    assert rig.files() == set()


async def test_a_body_that_breaks_goes_on_where_it_broke(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [TOP])
    registry.break_at[blob(TOP)] = [700, 700, 701, 1500]
    told = await rig.pull("app", "1")
    assert told[-1] == "Status: Downloaded newer image for app:1"
    assert [offset for key, offset in registry.offsets if key == blob(TOP)] == [0, 700, 700, 701, 1500]


async def test_a_registry_that_only_breaks_is_given_up(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [TOP])
    registry.break_at[blob(TOP)] = [700] * 20
    with pytest.raises(ProaError, match="connection reset"):
        await rig.pull("app", "1")
    assert registry.asked[blob(TOP)] == 6
    assert rig.files() <= {f"partial/{blob(TOP)[7:]}"}


@pytest.mark.parametrize("dying", [False, True], ids=["next pull", "next daemon"])
async def test_what_a_broken_pull_left_is_not_asked_for_again(
    rig: Rig, registry: FakeRegistry, dying: bool
) -> None:
    registry.put_image("app:1", [TOP])
    registry.break_at[blob(TOP)] = [1000] * 6
    with pytest.raises(ProaError):
        await rig.pull("app", "1")
    rig = await rig.again() if dying else rig
    registry.break_at.clear()
    registry.offsets.clear()
    partial = rig.root / f"content/partial/{blob(TOP)[7:]}"
    kept = partial.stat().st_size if partial.exists() else 0  # what had not reached it yet is gone
    await rig.pull("app", "1")
    assert registry.offsets == [(blob(TOP), kept)]
    assert not [path for path in rig.files() if path.startswith(("partial", "ingest"))]


async def test_what_is_there_of_a_blob_is_used(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [TOP])
    whole = gzip.compress(TOP, mtime=0)
    for kept in (1, 1000, len(whole)):
        rig.root.joinpath(f"content/partial/{blob(TOP)[7:]}").write_bytes(whole[:kept])
        await rig.pull("app", "1")
        assert Path(rig.images.resolve("app:1").layers[0], "top").exists()
        await rig.images.remove("app:1", force=False, prune=True)
    assert registry.offsets == [(blob(TOP), 1), (blob(TOP), 1000)]


async def test_a_prune_removes_what_a_broken_pull_left(rig: Rig, registry: FakeRegistry) -> None:
    rig.root.joinpath(f"content/partial/{blob(TOP)[7:]}").write_bytes(bytes(1000))
    assert (await rig.images.prune({})).space_reclaimed == 1000
    assert rig.files() == set()


async def test_a_load_of_what_a_broken_pull_left_half_of(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [TOP])
    whole = gzip.compress(TOP, mtime=0)
    rig.root.joinpath(f"content/partial/{blob(TOP)[7:]}").write_bytes(whole[:1000])
    await rig.load(chunks(oci_archive([TOP], "docker.io/library/app:1")))
    (layer,) = rig.images.resolve("app:1").content
    assert rig.content.path(layer.digest).read_bytes() == whole
    # The same image by another way: it is here, and what it is called there is known now.
    registry.put_image("other:1", [TOP])
    assert (await rig.pull("other", "1"))[-1] == "Status: Downloaded newer image for other:1"
    assert registry.asked[blob(TOP)] == 0


async def test_a_partial_that_is_not_the_blob_costs_one_more_download(
    rig: Rig, registry: FakeRegistry
) -> None:
    registry.put_image("app:1", [TOP])
    rig.root.joinpath(f"content/partial/{blob(TOP)[7:]}").write_bytes(bytes(1000))
    await rig.pull("app", "1")
    assert registry.offsets[-1] == (blob(TOP), 0)
    assert Path(rig.images.resolve("app:1").layers[0], "top").exists()


@pytest.mark.parametrize("wrong", [b"no gzip at all" * 10, gzip.compress(OTHER, mtime=0)])
async def test_bytes_of_another_digest_leave_nothing(rig: Rig, registry: FakeRegistry, wrong: bytes) -> None:
    registry.put_image("app:1", [BASE, TOP])
    registry.instead[blob(TOP)] = wrong.ljust(len(gzip.compress(TOP)), b"\0")
    with pytest.raises(ProaError, match=r"failed to register layer|verification failed for digest sha256"):
        await rig.pull("app", "1")
    assert await rig.names() == []
    assert not [path for path in rig.files() if path.startswith(("snapshots", "blobs", "ingest"))]
    assert f"partial/{blob(TOP)[7:]}" not in rig.files()
    assert rig.events.told == []


async def test_layers_that_the_config_does_not_name_are_refused(rig: Rig, registry: FakeRegistry) -> None:
    for diff_ids in ([digest(BASE)], [digest(TOP), digest(OTHER)]):
        registry.put_image("app:1", [TOP, BASE], rootfs={"type": "layers", "diff_ids": diff_ids})
        with pytest.raises(InvalidParameter, match="layers from manifest don't match image configuration"):
            await rig.pull("app", "1")
        assert await rig.names() == []


async def test_the_same_layer_twice_and_above_another(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE, TOP, BASE])
    registry.put_image("app:2", [OTHER, BASE])
    await asyncio.gather(rig.pull("app", "1"), rig.pull("app", "2"))
    assert registry.asked[blob(BASE)] == 1
    assert rig.images.resolve("app:1").layers[0] != rig.images.resolve("app:1").layers[2]
    for directory in (rig.images.resolve("app:1").layers[0], rig.images.resolve("app:2").layers[0]):
        assert Path(directory, "etc/os").read_bytes() == b"base"
    assert len([path for path in rig.files() if path.startswith("snapshots")]) == 5
    again = await rig.again()
    assert len([path for path in again.files() if path.startswith("snapshots")]) == 5


async def test_many_pulls_share_one_download_and_one_snapshot(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE, TOP])
    told = await asyncio.gather(*(rig.pull("app", "1") for _ in range(20)))
    assert (registry.asked[blob(BASE)], registry.asked[blob(TOP)]) == (1, 1)
    assert all(lines_[-1].endswith("app:1") for lines_ in told)
    assert len(rig.files()) == 4


class Gate:
    """Holds a registry back in the middle of a blob."""

    def __init__(self, registry: FakeRegistry, layer: bytes, offset: int) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._at = blob(layer), offset
        registry.gate = self._wait

    async def _wait(self, key: str, offset: int) -> None:
        if (key, offset) == self._at:
            self.reached.set()
            await self.opened.wait()


async def test_a_slow_registry_holds_up_no_other(tmp_path: Path, registry: FakeRegistry) -> None:
    rig = Rig(tmp_path, registry, config=DaemonConfig(max_concurrent_downloads=1))
    registry.put_image("slow:1", [TOP])
    registry.put_image("next:1", [OTHER])
    registry.put_image("app:1", [BASE])
    registry.move("docker.io/library/app", "fast.example/app")
    gate = Gate(registry, TOP, 1000)
    slow = asyncio.ensure_future(rig.pull("slow", "1"))
    await gate.reached.wait()
    behind = asyncio.ensure_future(rig.pull("next", "1"))
    await rig.pull("fast.example/app", "1")
    assert not behind.done()
    gate.opened.set()
    await slow
    assert f"{short(OTHER)}: Waiting" in await behind


async def test_a_client_that_goes_cancels_what_nobody_else_waits_for(
    rig: Rig, registry: FakeRegistry
) -> None:
    registry.put_image("app:1", [BASE, TOP])
    gate = Gate(registry, TOP, 1000)
    leaving = aiter(await rig.images.pull("app", "1", "", None))
    await anext(leaving)
    staying = asyncio.ensure_future(rig.pull("app", "1"))
    await gate.reached.wait()
    await leaving.aclose()  # type: ignore[attr-defined]
    gate.opened.set()
    assert (await staying)[-1] == "Status: Downloaded newer image for app:1"
    assert registry.asked[blob(TOP)] == 1


async def test_a_cancelled_pull_leaves_what_the_next_goes_on_with(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("app:1", [BASE, TOP])
    gate = Gate(registry, TOP, 2000)
    leaving = aiter(await rig.images.pull("app", "1", "", None))
    await anext(leaving)
    await gate.reached.wait()
    await leaving.aclose()  # type: ignore[attr-defined]
    assert await rig.names() == []
    assert not [path for path in rig.files() if path.startswith(("snapshots", "blobs", "ingest"))]
    registry.gate = None
    registry.offsets.clear()
    await rig.pull("app", "1")
    assert {key for key, _ in registry.offsets} <= {blob(TOP), blob(BASE)}
    assert len(rig.files()) == 4


async def test_what_a_pull_relies_on_is_not_collected(rig: Rig, registry: FakeRegistry) -> None:
    registry.put_image("base:1", [BASE])
    registry.put_image("app:1", [BASE, TOP])
    await rig.pull("base", "1")
    gate = Gate(registry, TOP, 1000)
    pulling = asyncio.ensure_future(rig.pull("app", "1"))
    await gate.reached.wait()
    await rig.load(chunks(docker_archive([OTHER], ["other:1"])))
    await rig.images.remove("base:1", force=False, prune=True)
    await rig.images.remove("other:1", force=False, prune=True)
    assert len([path for path in rig.files() if path.startswith("snapshots")]) == 2  # base's and a draft
    gate.opened.set()
    await pulling
    assert Path(rig.images.resolve("app:1").layers[1], "etc/os").exists()
    await rig.images.remove("app:1", force=False, prune=True)
    assert rig.files() == set()


async def test_credentials_reach_the_registry_and_nothing_else(rig: Rig, registry: FakeRegistry) -> None:
    from proa.schema.registry import Credentials

    registry.put_image("app:1", [BASE])
    credentials = Credentials(username="user", password="secret")
    told = await lines(await rig.images.pull("app", "1", "", credentials))
    assert registry.credentials == [credentials]
    assert "secret" not in str(told)


async def test_hello_needs_no_registry(rig: Rig, registry: FakeRegistry) -> None:
    assert (await rig.pull("proa/hello"))[-1] == "Status: Image is up to date for proa/hello:latest"
    assert not registry.asked


async def test_an_image_kept_in_the_store_keeps_its_manifest(rig: Rig, registry: FakeRegistry) -> None:
    manifest = registry.put_image("app:1", [BASE])
    await rig.pull("app", "1")
    rig = await rig.again()
    image: Any = rig.images.resolve("app:1")
    kept = rig.images.store.manifest(image.id)
    assert kept is not None
    assert digest(kept.data) == manifest
    assert rig.content.find(parse_digest(blob(BASE)))


async def test_scratch_is_no_image(rig: Rig) -> None:
    with pytest.raises(Forbidden, match=r"^'scratch' is a reserved name$"):
        await rig.pull("scratch")

"""Image garbage collection: what goes past the high mark, in which order, and what never does."""

import asyncio
import logging
from pathlib import Path

import pytest
from fake_registry import FakeRegistry
from image_archives import chunks, docker_archive, tar
from images_rig import Rig

from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.reference import parse_reference
from proa.schema.watermarks import Watermarks

SIZE = 10_000
"""Of one image's file."""


def config(high: int, low: int, *keep: str, age: str = "0s") -> DaemonConfig:
    return DaemonConfig(
        image_gc_high=str(high), image_gc_low=str(low), image_gc_keep=keep, image_gc_min_age=age
    )


async def rig_of(tmp_path: Path, names: str, marks: DaemonConfig) -> Rig:
    """Images of 10,000 bytes, each with a layer of its own, used in this order; then the marks."""
    rig = Rig(tmp_path)
    for name in names.split():
        await rig.load(chunks(docker_archive([layer(name)], [name])))
    rig.events.told.clear()
    rig.images.reload(marks)
    await rig.images.settle()
    return rig


def layer(name: str) -> bytes:
    return tar({name: name[0].encode() * SIZE})


def unit(rig: Rig) -> int:
    """Bytes that one image holds."""
    held = sum(size for _, size in rig.images.store.held_bytes())
    return held // len(rig.images.store.all())


@pytest.fixture
async def each(tmp_path: Path) -> int:
    """Bytes that one image holds."""
    (tmp_path / "each").mkdir()
    rig = await rig_of(tmp_path / "each", "one", DaemonConfig())
    return unit(rig)


async def test_nothing_goes_by_default(tmp_path: Path) -> None:
    rig = await rig_of(tmp_path, "a b c d e", DaemonConfig())
    assert rig.events.told == []
    assert Watermarks.of(DaemonConfig()) is None


async def test_past_the_high_mark_the_oldest_go_until_the_low_one(
    tmp_path: Path, each: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "proa.engine.images.eviction"):
        rig = await rig_of(tmp_path, "a b c d e", config(4 * each, 2 * each))
    assert await rig.names() == ["d:latest", "e:latest"]
    assert [action for action, _ in rig.events.told] == ["untag", "delete"] * 3
    assert f"freed {3 * each} bytes of 3 images; {2 * each} bytes are left" in caplog.text
    assert len([name for name in rig.files() if name.startswith("snapshots/")]) == 2


async def test_below_the_high_mark_nothing_goes(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b c", config(3 * each, each))
    assert await rig.names() == ["a:latest", "b:latest", "c:latest"]


async def test_a_load_that_passes_the_mark_has_the_oldest_removed(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", config(2 * each, 2 * each))
    await rig.load(chunks(docker_archive([layer("c")], ["c"])))
    await rig.images.settle()
    assert await rig.names() == ["b:latest", "c:latest"]


async def test_so_has_a_pull_and_one_that_finds_nothing_new_is_a_use(tmp_path: Path, each: int) -> None:
    registry = FakeRegistry()
    for name in "abc":
        registry.put_image(f"{name}:1", [layer(name)])
    rig = Rig(tmp_path, registry, config=config(5 * each // 2, 5 * each // 2))
    for name in "aba":
        await rig.pull(name, "1")
    await rig.pull("c", "1")
    await rig.images.settle()
    assert await rig.names() == ["a:1", "c:1"]


async def test_a_container_s_image_stays_and_its_end_was_a_use(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b c", DaemonConfig())
    first = rig.images.resolve("a").id
    rig.images.hold(first, "c" * 64)
    rig.containers.by_image[first] = [("c" * 64, False)]
    rig.images.reload(config(each, each))
    await rig.images.settle()
    assert await rig.names() == ["a:latest"]
    await rig.load(chunks(docker_archive([layer("d")], ["d"])))
    await rig.images.settle()
    assert await rig.names() == ["a:latest"], "what is used by nobody goes, be it the newest"
    rig.containers.by_image.clear()
    rig.images.release("c" * 64)
    await rig.load(chunks(docker_archive([layer("d")], ["d"])))
    await rig.images.settle()
    assert await rig.names() == ["d:latest"]


async def test_the_end_of_a_container_makes_room_that_there_was_not(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", DaemonConfig())
    for image in rig.images.store.all():
        rig.images.hold(image.id, image.id)
        rig.containers.by_image[image.id] = [(image.id, True)]
    rig.images.reload(config(each, each))
    await rig.images.settle()
    assert await rig.names() == ["a:latest", "b:latest"]
    first = rig.images.resolve("a").id
    del rig.containers.by_image[first]
    rig.images.release(first)
    await rig.images.settle()
    assert await rig.names() == ["b:latest"]


async def test_images_whose_name_matches_stay(tmp_path: Path, each: int) -> None:
    marks = config(2 * each, each, "base*", "example.com/*")
    rig = await rig_of(tmp_path, "base:1 example.com/x:1 c d", marks)
    assert await rig.names() == ["base:1", "example.com/x:1"]


async def test_an_image_used_just_now_stays_until_it_is_of_age(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", config(each, each, age="1h"))
    assert await rig.names() == ["a:latest", "b:latest"]
    rig.images.reload(config(each, each, age="1ms"))
    while len(await rig.names()) > 1:  # a timer of its own has another look
        await asyncio.sleep(0)
        await rig.images.settle()
    assert await rig.names() == ["b:latest"]


async def test_an_image_that_frees_nothing_stays(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a", DaemonConfig())
    await rig.load(chunks(docker_archive([layer("a"), tar({"more": b"x" * SIZE})], ["keep"])))
    await rig.load(chunks(docker_archive([layer("c")], ["c"])))
    rig.images.reload(config(each, each, "keep"))
    await rig.images.settle()
    assert await rig.names() == ["a:latest", "keep:latest"]


async def test_an_image_goes_before_the_one_it_was_made_from(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b c", DaemonConfig())
    base, child = (rig.images.resolve(name).id for name in "ac")
    rig.images.store.lineage.record(child, base)
    rig.images.reload(config(2 * each, 2 * each))
    await rig.images.settle()
    assert await rig.names() == ["a:latest", "c:latest"]
    rig.images.reload(config(0, 0))
    await rig.images.settle()
    assert await rig.names() == []


async def test_what_is_lent_or_held_by_a_load_stays(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", DaemonConfig())
    with rig.images.lent([rig.images.resolve("a").id]):
        rig.images.reload(config(0, 0))
        await rig.images.settle()
        assert await rig.names() == ["a:latest"]
    with rig.images.store.busy():
        rig.images.reload(config(0, 0))
        await rig.images.settle()
        assert await rig.names() == ["a:latest"]
    await rig.images.settle()
    assert await rig.names() == []


async def test_layers_of_the_build_cache_do_not_count(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", DaemonConfig())
    kept = rig.images.resolve("a").content[-1].chain_id
    rig.images.store.keep(lambda: [kept])
    rig.images.reload(config(each + each // 2, each))
    await rig.images.settle()
    assert await rig.names() == ["a:latest", "b:latest"]


async def test_uses_outlive_the_daemon(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", DaemonConfig())
    first, second = (rig.images.store.usage.last(rig.images.resolve(name).id) for name in "ab")
    assert 0 < first < second
    again = await rig.again()
    assert again.images.store.usage.last(again.images.resolve("a").id) <= first
    assert again.images.store.usage.last(again.images.resolve("a").id) > 0
    again.images.store.delete(again.images.resolve("a").id)
    assert again.database.query("SELECT count(*) FROM image_uses") == [(1,)]


async def test_a_tag_is_a_use(tmp_path: Path, each: int) -> None:
    rig = await rig_of(tmp_path, "a b", DaemonConfig())
    rig.images.store.tag(parse_reference("a:again"), rig.images.resolve("a").id)
    rig.images.reload(config(each, each))
    await rig.images.settle()
    assert await rig.names() == ["a:again", "a:latest"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"image_gc_high": "much"}, "invalid image-gc-high: invalid size: 'much'"),
        ({"image_gc_high": "1g", "image_gc_low": "-1"}, "invalid image-gc-low: invalid size: '-1'"),
        ({"image_gc_low": "1g"}, "image-gc-low needs image-gc-high"),
        ({"image_gc_high": "1g", "image_gc_low": "2g"}, r"image-gc-low \(2g\) is above image-gc-high \(1g\)"),
        ({"image_gc_min_age": "soon"}, 'time: invalid duration "soon"'),
        ({"image_gc_min_age": "-1s"}, "invalid image-gc-min-age: -1s"),
    ],
)
def test_bad_marks_are_refused(keys: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        Watermarks.of(DaemonConfig(**keys))


def test_marks() -> None:
    marks = Watermarks.of(DaemonConfig(image_gc_high="10k", image_gc_keep=("a*",)))
    assert marks == Watermarks(high=10240, low=8192, min_age_ns=120 * 10**9, keep=("a*",))


def test_a_bad_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="syntax error in pattern"):
        Rig(tmp_path, config=config(1, 1, "["))

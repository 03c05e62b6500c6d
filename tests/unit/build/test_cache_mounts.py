"""Directories of cache mounts: who waits for whom, who gets one of their own, and what is taken away."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import proa_native
import pytest

from proa.build.dockerfile.mounts import MountType
from proa.build.graph import StepMount
from proa.build.ports import Mounted
from proa.engine.builds.cache_mounts import CacheDirectories, Holds
from proa.engine.builds.room import BuildRoom
from proa.schema.config import DaemonConfig


def cache(name: str, sharing: str = "shared", target: str = "/c", lower: tuple[str, ...] = ()) -> Mounted:
    return Mounted(StepMount(type=MountType.CACHE, target=target, id=name, sharing=sharing), lower)


async def no_seed(lower: Sequence[str], path: str, target: str) -> None:
    """Nothing to begin with."""


@pytest.mark.parametrize(
    ("first", "second", "directory"),
    [
        ("shared", "shared", "x"),
        ("shared", "private", "x-1"),
        ("private", "private", "x-1"),
        ("private", "shared", "x-1"),
        ("locked", "private", "x-1"),
        ("locked", "shared", "x-1"),
    ],
)
async def test_who_does_not_wait(first: str, second: str, directory: str) -> None:
    holds = Holds()
    async with holds.take("x", first) as one, holds.take("x", second) as other:
        assert (one, other) == ("x", directory)
    assert not holds.held("x")
    assert not holds.held("x-1")


@pytest.mark.parametrize("first", ["shared", "private", "locked"])
async def test_locked_waits_for_everybody_in_the_order_of_asking(first: str) -> None:
    holds = Holds()
    order: list[int] = []

    async def locked(number: int) -> None:
        async with holds.take("x", "locked") as name:
            assert name == "x"
            order.append(number)
            await asyncio.sleep(0)

    async with holds.take("x", first), AsyncExitStack() as other:
        if first == "shared":
            await other.enter_async_context(holds.take("x", "shared"))
        tasks = [asyncio.create_task(locked(number)) for number in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not order
        tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3]
    assert not holds.held("x")


async def test_a_turn_that_is_cancelled_goes_to_the_next() -> None:
    holds = Holds()
    done: list[int] = []

    async def locked(number: int) -> None:
        async with holds.take("x", "locked"):
            done.append(number)

    async with holds.take("x", "locked"):
        tasks = [asyncio.create_task(locked(number)) for number in range(2)]
        await asyncio.sleep(0)
    tasks[0].cancel()  # It has been told, and has not run yet.
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [1]


@pytest.mark.parametrize("sharing", ["locked", "private", "shared"])
async def test_a_cache_that_a_step_has_twice_is_one(tmp_path: Path, sharing: str) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)
    async with AsyncExitStack() as stack:
        mounts = [cache("a", sharing, "/one"), cache("b", sharing), cache("a", sharing, "/two")]
        found = await directories.use(mounts, no_seed, stack)
        assert len(found) == 2
        assert all(in_use for _, in_use in directories.all())
    assert [in_use for _, in_use in directories.all()] == [False, False]


async def test_steps_with_the_same_caches_in_another_order_do_not_wait_for_each_other(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)
    done = []

    async def step(*names: str) -> None:
        async with AsyncExitStack() as stack:
            await directories.use([cache(name, "locked") for name in names], no_seed, stack)
            await asyncio.sleep(0)
            done.append(names)

    async with asyncio.timeout(10):
        await asyncio.gather(*(step(*names) for names in ("ab", "ba", "abc", "cba")))
    assert len(done) == 4


async def test_what_begins_with_other_files_is_another_cache(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)
    seeded = []

    async def seed(lower: Sequence[str], path: str, target: str) -> None:
        seeded.append(lower)
        Path(target, "seed").touch()

    async with AsyncExitStack() as stack:
        mounts = [cache("a"), cache("a", lower=("/layer/1",)), cache("a", lower=("/layer/2",))]
        found = await directories.use(mounts, seed, stack)
    assert len(found) == 3
    assert sorted(seeded) == [("/layer/1",), ("/layer/2",)]
    assert sorted(len(os.listdir(path)) for path in found.values()) == [0, 1, 1]


async def test_one_that_cannot_be_begun_leaves_nothing(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)

    async def seed(lower: Sequence[str], path: str, target: str) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        async with AsyncExitStack() as stack:
            await directories.use([cache("a", "locked", lower=("/layer",))], seed, stack)
    assert directories.all() == []
    async with AsyncExitStack() as stack:
        assert await directories.use([cache("a", "locked")], no_seed, stack)


async def test_one_in_use_is_not_taken_away(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)
    async with AsyncExitStack() as stack:
        ((_, path),) = (await directories.use([cache("a")], no_seed, stack)).items()
        assert directories.doom(path) is None
        Path(path, "kept").touch()
    doomed = directories.doom(path)
    assert doomed is not None
    async with AsyncExitStack() as stack:
        assert os.listdir((await directories.use([cache("a")], no_seed, stack)).popitem()[1]) == []
    assert os.listdir(doomed) == ["kept"]
    assert directories.doom(f"{tmp_path}/caches/none") is None


async def test_one_is_taken_away_while_its_forerunner_still_goes(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)
    doomed = []
    for _ in range(2):
        async with AsyncExitStack() as stack:
            ((_, path),) = (await directories.use([cache("a")], no_seed, stack)).items()
            Path(path, "kept").touch()
        doomed.append(directories.doom(path))
        assert directories.all() == []  # what goes is no cache
    first, second = doomed
    assert first != second
    assert all(os.listdir(path) == ["kept"] for path in doomed if path)


async def test_one_that_is_being_made_is_not_shown(tmp_path: Path) -> None:
    directories = CacheDirectories(tmp_path / "caches", None)

    async def seed(lower: Sequence[str], path: str, target: str) -> None:
        assert os.path.isdir(target)
        assert directories.all() == []

    async with AsyncExitStack() as stack:
        found = await directories.use([cache("a", lower=("/layer",))], seed, stack)
        assert directories.all() == [(path, True) for path in found.values()]


async def test_a_start_removes_what_is_none_yet_or_no_more(tmp_path: Path) -> None:
    caches = tmp_path / "builds/caches"
    for name in ("a", "a-1", "a.0123abcd.new", "a.0123abcd.pruned", "a.pruned"):
        (caches / name / "deep").mkdir(parents=True)
    with ThreadPoolExecutor() as executor:
        images: Any = SimpleNamespace(store=SimpleNamespace(keep=lambda needed: None))
        others: Any = dict.fromkeys(("host", "keeper", "networks", "events", "background", "seccomp"))
        config = DaemonConfig(data_root=str(tmp_path), exec_root=str(tmp_path / "run"))
        room = BuildRoom(config=config, images=images, native=proa_native, executor=executor, **others)
        room.sweep()
    assert sorted(os.listdir(caches)) == ["a", "a-1"]

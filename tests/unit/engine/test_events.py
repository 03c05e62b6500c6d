"""Events: exact by sequence number, across files, restarts and slow subscribers."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from proa.engine import events as module
from proa.engine.events import Events
from proa.schema.system import EventMessage


@pytest.fixture
async def events(tmp_path: Path):
    events = Events(tmp_path)
    yield events
    events.close()


async def take(stream: AsyncIterator[EventMessage], number: int) -> list[str]:
    return [(await anext(stream)).action for _ in range(number)]


async def test_a_subscriber_sees_what_comes_after_it_subscribed(events: Events) -> None:
    events.emit("container", "create", "a", {})
    stream = await events.stream(0, 0, {})
    events.emit("container", "start", "a", {"name": "x"})
    message = await anext(stream)
    assert (message.type, message.action, message.scope) == ("container", "start", "local")
    assert message.actor is not None
    assert message.actor.attributes == {"name": "x"}
    assert message.time == message.time_nano // 10**9


async def test_since_gives_the_past_and_goes_on_live_without_a_gap(events: Events) -> None:
    events.emit("container", "create", "a", {})
    events.emit("container", "start", "a", {})
    stream = await events.stream(1, 0, {})
    assert await take(stream, 2) == ["create", "start"]
    waiting = asyncio.ensure_future(take(stream, 1))
    await asyncio.sleep(0)
    events.emit("container", "die", "a", {})
    assert await waiting == ["die"]


async def test_the_past_survives_a_restart_and_numbers_go_on(tmp_path: Path) -> None:
    first = Events(tmp_path)
    first.emit("container", "create", "a", {})
    first.close()
    with (tmp_path / "events.log").open("ab") as file:
        file.write(b'2 {"Type":"conta')  # torn by a crash
    second = Events(tmp_path)
    second.emit("container", "start", "a", {})
    assert await take(await second.stream(1, 0, {}), 2) == ["create", "start"]
    assert second._seq == 2
    second.close()


async def test_a_slow_subscriber_reads_on_from_the_files(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await events.stream(0, 0, {})
    for number in range(3 * module.RECENT):
        events.emit("container", f"{number}", "a", {})
    assert await take(stream, 3 * module.RECENT) == [str(n) for n in range(3 * module.RECENT)]


async def test_a_rotation_between_the_files_hides_nothing(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [str(number) for number in range(module.RECENT + 1)]
    for number in wanted:
        events.emit("container", number, "a", {})
    read = module._read

    def rotating(path: Path) -> list[module.Numbered]:
        found = read(path)
        events._rotate()
        return found

    monkeypatch.setattr(module, "_read", rotating)
    assert await take(await events.stream(1, 0, {}), len(wanted)) == wanted


async def test_what_the_files_lost_is_passed_over(tmp_path: Path) -> None:
    first = Events(tmp_path)
    first.emit("container", "create", "a", {})
    first.close()
    (tmp_path / "events.log").write_bytes(b"7 not an event\n")
    second = Events(tmp_path)
    stream = await second.stream(1, 0, {})
    waiting = asyncio.ensure_future(take(stream, 1))
    await asyncio.sleep(0)
    second.emit("container", "start", "a", {})
    assert await waiting == ["start"]
    assert second._seq == 8
    second.close()


async def test_numbers_go_on_right_after_a_rotation(tmp_path: Path) -> None:
    first = Events(tmp_path)
    first.emit("container", "create", "a", {})
    first._rotate()
    first.close()
    second = Events(tmp_path)
    second.emit("container", "start", "a", {})
    assert await take(await second.stream(1, 0, {}), 2) == ["create", "start"]
    second.close()


async def test_files_rotate(events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 2000)
    for number in range(30):
        events.emit("container", f"{number}", "a", {})
    assert (tmp_path / "events.log.1").exists()
    assert (tmp_path / "events.log").stat().st_size <= 2000


async def test_until_ends_the_stream(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(1_000, 1_000)
    monkeypatch.setattr(module.time, "time_ns", lambda: next(clock))
    for _ in range(3):
        events.emit("container", "x", "a", {})
    assert len([m async for m in await events.stream(1, 2_500, {})]) == 2


async def test_closing_ends_every_subscription(tmp_path: Path) -> None:
    events = Events(tmp_path)
    stream = await events.stream(0, 0, {})
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    assert events.listeners == 1
    events.close()
    assert await waiting is None
    assert events.listeners == 0


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"type": ["container"]}, True),
        ({"type": ["image"]}, False),
        ({"type": ["image", "container"]}, True),
        ({"event": ["exec_create"]}, True),
        ({"event": ["exec_create: sh"]}, True),
        ({"event": ["exec"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["abc"]}, True),
        ({"container": ["eb"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:latest"]}, True),
        ({"image": ["alpine"]}, False),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=back"]}, False),
        ({"type": ["container"], "container": ["other"]}, False),
    ],
)
async def test_filters(events: Events, filters: dict[str, list[str]], wanted: bool) -> None:
    attributes = {"name": "web1", "image": "busybox:latest", "tier": "front"}
    events.emit("container", "exec_create: sh", "abcdef", attributes)
    events.emit("network", "end", "n", {})
    found = [m.action async for m in await events.stream(1, time.time_ns(), filters)]
    assert ("exec_create: sh" in found) is wanted


async def test_an_unknown_filter_is_passed_over(events: Events) -> None:
    events.emit("container", "start", "abcdef", {})
    filters = {"nosuch": ["x"], "event": ["start"]}
    assert [m.action async for m in await events.stream(1, time.time_ns(), filters)] == ["start"]

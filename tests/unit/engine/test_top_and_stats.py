"""`docker top` and `docker stats`: ps's lines picked, samples with the one before."""

import os
import signal
from pathlib import Path

import pytest

from proa.engine import stats as module
from proa.engine import top
from proa.engine.signals import is_noticed
from proa.errors import InvalidParameter, System

PS = """UID          PID    PPID  CMD
root           1       0  /sbin/init splash
root          42       1  sleep  1000
root         420       1  other
"""


def test_lines_of_the_container_only_and_the_last_column_whole() -> None:
    found = top.parse(PS, [42, 1])
    assert found.titles == ["UID", "PID", "PPID", "CMD"]
    assert found.processes == [["root", "1", "0", "/sbin/init splash"], ["root", "42", "1", "sleep 1000"]]


def test_threads_follow_their_process() -> None:
    output = "PID CMD\n42 x\n- thread\n43 y\n- thread\n"
    assert top.parse(output, [42]).processes == [["42", "x"], ["-", "thread"]]


def test_what_ps_said_is_not_understood() -> None:
    with pytest.raises(InvalidParameter, match="Couldn't find PID field in ps output"):
        top.parse("CMD\nx\n", [1])
    with pytest.raises(System, match="Unexpected pid 'x'"):
        top.parse("PID\nx\n", [1])


async def test_the_pid_column_may_not_be_renamed() -> None:
    with pytest.raises(InvalidParameter, match='specifying "comm=PID" is not allowed'):
        await top.top([1], "-o comm=PID")


async def test_without_ps_proc_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = await top.top([os.getpid()], "")
    assert found.titles[:3] == ["UID", "PID", "PPID"]
    assert found.processes[0][:3] == [str(os.geteuid()), str(os.getpid()), str(os.getppid())]


def test_an_init_without_a_handler_does_not_notice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mask = 1 << (signal.SIGTERM - 1)
    assert is_noticed(os.getpid(), signal.SIGKILL)
    assert is_noticed(1 << 22, signal.SIGTERM)
    status = tmp_path / "status"
    for name, number, noticed in (
        ("SigBlk", mask, True),
        ("SigCgt", mask, True),
        ("SigIgn", mask, False),
        ("SigCgt", mask << 1, False),
    ):
        status.write_text(f"Name:\tx\n{name}:\t{number:016x}\n")
        monkeypatch.setattr("proa.engine.signals.Path", lambda _: status)
        assert is_noticed(1, signal.SIGTERM) is noticed


async def test_a_single_answer_has_two_samples(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_INTERVAL", 0)
    id_ = await world.run("web")
    (sample,) = [s async for s in await world.engine.containers.stats(id_, stream=False, one_shot=False)]
    assert sample.name == "/web"
    assert sample.cpu_stats.cpu_usage.total_usage == 7
    assert sample.precpu_stats.cpu_usage.total_usage == 7
    assert sample.preread < sample.read
    assert sample.cpu_stats.online_cpus
    assert sample.cpu_stats.system_cpu_usage
    assert list(sample.networks) == ["eth0"]
    assert sample.networks["eth0"].rx_bytes == 3


async def test_one_shot_has_no_sample_before(world) -> None:
    id_ = await world.run()
    (sample,) = [s async for s in await world.engine.containers.stats(id_, stream=False, one_shot=True)]
    assert sample.precpu_stats.cpu_usage.total_usage == 0
    assert sample.preread == "0001-01-01T00:00:00Z"


async def test_one_that_does_not_run_gives_zeros(world) -> None:
    id_ = await world.create()
    (sample,) = [s async for s in await world.engine.containers.stats(id_, stream=False, one_shot=False)]
    assert sample.read == "0001-01-01T00:00:00Z"
    assert sample.id == id_


async def test_all_listeners_share_one_round(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0)
    first, second = await world.run(), await world.run()
    streams = [
        await world.engine.containers.stats(id_, stream=True, one_shot=False) for id_ in (first, second)
    ]
    for stream in streams:
        await anext(stream)
        assert (await anext(stream)).precpu_stats.cpu_usage.total_usage == 7
    for stream in streams:
        await stream.aclose()
    assert world.engine._stats._listeners == {}
    assert world.engine._stats._timer is None


async def test_a_stream_ends_with_its_container(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0)
    id_ = await world.run()
    stream = await world.engine.containers.stats(id_, stream=True, one_shot=False)
    await anext(stream)
    await world.engine.containers.remove(id_, volumes=False, force=True, link=False)
    assert [sample.read async for sample in stream] in ([], ["0001-01-01T00:00:00Z"])


async def test_a_contradiction(world) -> None:
    id_ = await world.run()
    with pytest.raises(InvalidParameter, match="cannot have stream=true and one-shot=true"):
        await world.engine.containers.stats(id_, stream=True, one_shot=True)

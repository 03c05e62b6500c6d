"""Healthchecks over the network: what the native side is told, and what its answers come to."""

import time

import pytest

from proa.schema.container import HealthConfig
from proa.schema.container_state import Health
from proa.schema.keeper import ProcessState, Welcome

SECOND = 1_000_000_000
TCP = HealthConfig(test=["TCP", "5432"], interval=2 * SECOND, timeout=3 * SECOND, retries=2)


async def health_of(world, id_: str) -> Health:
    return (await world.engine.containers.inspect(id_, size=False)).state.health


def told(world) -> list[str]:
    return [action for action in world.actions() if action.startswith("health_status")]


async def test_what_is_watched(world) -> None:
    config = HealthConfig(test=["HTTP", ":8080/x"], start_period=10 * SECOND, start_interval=SECOND)
    id_ = await world.run(healthcheck=config)
    state = world.registry.get(id_).state
    (watched,) = world.native.probes.watched.values()
    assert watched.pop("request").startswith(b"GET /x HTTP/1.1\r\n")
    assert watched == {
        "pid": state.pid,
        "addresses": ("127.0.0.1:8080", "[::1]:8080"),
        "interval_ns": 30 * SECOND,
        "start_interval_ns": SECOND,
        "start_ends_ns": state.started_ns + 10 * SECOND,
        "timeout_ns": 30 * SECOND,
        "starting": True,
        "late": "Health check exceeded timeout (30s)",
    }
    assert (await health_of(world, id_)).status == "starting"


async def test_news_changes_the_status_and_the_rest_waits_for_who_looks(world) -> None:
    id_ = await world.run(healthcheck=TCP)
    at = world.registry.get(id_).state.started_ns + 1
    found = world.native.probes.found
    found[1] += [(at, at, 1, "connection refused"), (at, at, 1, "connection refused")]
    await world.native.probes.tell()
    assert told(world) == ["health_status: unhealthy"]
    found[1] += [(at, at, 0, "connected")]
    await world.native.probes.tell()
    assert told(world) == ["health_status: unhealthy", "health_status: healthy"]
    found[1] += [(1, 2, 0, "connected again")]
    assert world.registry.get(id_).health.log[-1].output == "connected"
    health = await health_of(world, id_)
    assert (health.status, health.failing_streak) == ("healthy", 0)
    assert [(result.exit_code, result.output) for result in health.log] == [
        (1, "connection refused"),
        (1, "connection refused"),
        (0, "connected"),
        (0, "connected again"),
    ]
    assert health.log[3].start == "1970-01-01T00:00:00.000000001Z"


async def test_a_pause_is_one_for_the_native_side_too(world) -> None:
    id_ = await world.run(healthcheck=TCP)
    world.native.probes.found[1].append((1, 2, 0, "not looked at yet"))
    await world.engine.containers.pause(id_)
    assert world.native.probes.watched == {}
    health = await health_of(world, id_)
    assert (health.status, health.log[0].output) == ("unhealthy", "not looked at yet")
    await world.engine.containers.unpause(id_)
    assert [watched["starting"] for watched in world.native.probes.watched.values()] == [False]


async def test_the_end_of_a_container_ends_its_watch(world) -> None:
    id_ = await world.run(healthcheck=TCP)
    world.keeper.end(id_, 0)
    assert world.native.probes.watched == {}
    await world.engine.containers.start(id_, "")
    assert [watched["starting"] for watched in world.native.probes.watched.values()] == [True]


async def test_the_next_daemon_goes_on(world) -> None:
    id_ = await world.run(healthcheck=TCP)
    pid = world.registry.get(id_).state.pid
    running = ProcessState(id=id_, pid=pid, started_at_ns=time.time_ns())
    world.keeper.welcome = Welcome(seq=1, version=1, pid=1, processes=(running,), prepared=())
    await world.restart()
    assert [watched["pid"] for watched in world.native.probes.watched.values()] == [pid]


@pytest.mark.parametrize("error", [OSError(24, "too many"), ValueError("bad address")])
async def test_a_container_runs_though_it_cannot_be_watched(world, caplog, error: Exception) -> None:
    def watch(*arguments: object, **times: object) -> int:
        raise error

    await world.run(healthcheck=TCP)
    world.native.probes.watch = watch
    id_ = await world.run(healthcheck=TCP)
    assert "is not probed" in caplog.text
    assert (await health_of(world, id_)).status == "starting"
    await world.engine.containers.stop(id_, None, None)

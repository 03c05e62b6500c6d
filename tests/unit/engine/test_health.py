"""Healthchecks: the rule for a status, and the clock around it."""

import asyncio

import pytest
from msgspec.structs import replace

from proa.engine.health import command, judge
from proa.schema.container import HealthConfig
from proa.schema.container_state import Health, HealthcheckResult

GOOD, BAD = HealthcheckResult(exit_code=0), HealthcheckResult(exit_code=1, output="no")
MILLISECOND = 1_000_000


def after(*results: HealthcheckResult, starting: bool = False, retries: int = 2) -> Health:
    health = Health(status="starting", log=[])
    for result in results:
        health = judge(health, result, retries=retries, starting=starting)
    return health


def test_one_success_is_health_and_enough_failures_in_a_row_are_not() -> None:
    assert after(GOOD).status == "healthy"
    assert after(BAD).status == "starting"
    assert after(BAD, BAD).status == "unhealthy"
    assert after(GOOD, BAD).status == "healthy"
    assert after(GOOD, BAD, BAD).status == "unhealthy"
    assert after(BAD, BAD, GOOD).status == "healthy"
    assert after(BAD, BAD, GOOD).failing_streak == 0


def test_failures_do_not_count_while_it_starts() -> None:
    assert after(BAD, BAD, BAD, starting=True).status == "starting"
    assert after(BAD, BAD, BAD, starting=True).failing_streak == 0
    assert after(GOOD, BAD, BAD, starting=True).status == "unhealthy"


def test_five_results_are_kept() -> None:
    assert len(after(*[BAD] * 9).log) == 5


@pytest.mark.parametrize(
    ("test", "wanted"),
    [
        (None, []),
        ([], []),
        (["NONE"], []),
        (["CMD"], []),
        (["CMD-SHELL"], []),
        (["CMD", "check", "x"], ["check", "x"]),
        (["CMD-SHELL", "check x"], ["/bin/sh", "-c", "check x"]),
    ],
)
def test_what_is_run(test, wanted) -> None:
    assert command(HealthConfig(test=test), None) == wanted
    assert command(None, None) == []


def test_the_image_s_shell_is_used() -> None:
    assert command(HealthConfig(test=["CMD-SHELL", "x"]), ["/bin/bash", "-ec"]) == ["/bin/bash", "-ec", "x"]


class Findings:
    """What the next commands find."""

    def __init__(self) -> None:
        self._found: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
        self._told = asyncio.Event()

    def add(self, *found: tuple[int | None, str]) -> None:
        self._told.clear()
        for finding in found:
            self._found.put_nowait(finding)

    async def told(self) -> None:
        """All of it is told: there is a command again, and nothing for it to find."""
        await asyncio.wait_for(self._told.wait(), 30)

    async def probe(self, container, request, timeout_ns: int) -> tuple[int | None, str]:
        assert (request.cmd, timeout_ns) == (["/bin/sh", "-c", "check"], 1500 * MILLISECOND)
        if self._found.empty():
            self._told.set()
        return await self._found.get()


@pytest.fixture
def findings(world, monkeypatch: pytest.MonkeyPatch) -> Findings:
    findings = Findings()
    monkeypatch.setattr(world.engine.execs, "probe", findings.probe)
    return findings


def checked(**others: int) -> HealthConfig:
    times = {"interval": MILLISECOND, "timeout": 1500 * MILLISECOND, "retries": 1, **others}
    return HealthConfig(test=["CMD-SHELL", "check"], **times)


async def health_of(world, id_: str) -> Health:
    return (await world.engine.containers.inspect(id_, size=False)).state.health


def told(world) -> list[str]:
    """Changes of health, as events."""
    return [action.split()[1] for action in world.actions() if action.startswith("health_status")]


async def test_a_command_runs_and_its_result_is_told(world, findings) -> None:
    findings.add((1, "no"), (0, "fine"), (None, "so far"), (None, ""))
    id_ = await world.run(healthcheck=checked())
    await findings.told()
    assert told(world) == ["unhealthy", "healthy", "unhealthy"]
    health = await health_of(world, id_)
    assert health.failing_streak == 2
    assert [(result.exit_code, result.output) for result in health.log] == [
        (1, "no"),
        (0, "fine"),
        (-1, "Health check exceeded timeout (1.5s): so far"),
        (-1, "Health check exceeded timeout (1.5s)"),
    ]


async def test_one_without_a_command_fails_as_in_docker(world) -> None:
    config = HealthConfig(test=["CMD"], interval=MILLISECOND, retries=1)
    id_ = await world.run(healthcheck=config)
    bad = asyncio.Event()
    world.engine._notices.tell = lambda *told: bad.set()
    await asyncio.wait_for(bad.wait(), 5)
    health = await health_of(world, id_)
    assert (health.status, health.log[0].exit_code) == ("unhealthy", -1)
    assert health.log[0].output == f"healthcheck for container {id_} has no command"


async def test_the_start_period_counts_from_the_start(world, findings) -> None:
    hour = 3600 * 1000 * MILLISECOND
    findings.add((1, ""), (1, ""), (0, ""))
    config = checked(start_period=hour, interval=MILLISECOND, start_interval=MILLISECOND)
    container = world.registry.get(await world.run(healthcheck=config))
    await findings.told()
    assert told(world) == ["healthy"]
    findings.add((1, "counts, since it was healthy"))
    await findings.told()
    assert told(world) == ["healthy", "unhealthy"]
    container.stop_monitor()
    container.state = replace(container.state, started_ns=container.state.started_ns - 2 * hour)
    container.monitor = world.engine._health.monitor(container)
    assert container.health.status == "starting"
    findings.add((1, "counts, since the period is over"))
    await findings.told()
    assert told(world) == ["healthy", "unhealthy", "unhealthy"]


async def test_who_is_frozen_is_not_asked(world, findings) -> None:
    id_ = await world.run(healthcheck=checked())
    findings.add((0, "before"))
    await findings.told()
    await world.engine.containers.pause(id_)
    assert (await health_of(world, id_)).status == "unhealthy"  # as in Docker, and told to nobody
    findings.add((0, "after"))
    await world.engine.containers.unpause(id_)
    await findings.told()
    assert told(world) == ["healthy", "healthy"]
    assert [result.output for result in (await health_of(world, id_)).log] == ["before", "after"]


async def test_the_next_run_begins_anew_with_the_old_log(world, findings) -> None:
    findings.add((1, "first"))
    id_ = await world.run(healthcheck=checked())
    await findings.told()
    await world.engine.containers.stop(id_, None, None)
    assert (await health_of(world, id_)).status == "unhealthy"
    await world.engine.containers.start(id_, "")
    health = await health_of(world, id_)
    assert (health.status, health.failing_streak) == ("starting", 0)
    assert [result.output for result in health.log] == ["first"]

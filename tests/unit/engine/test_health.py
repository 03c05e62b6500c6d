"""Healthchecks: the rule for a status, and the clock around it."""

import asyncio

import pytest

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
        (None, None),
        ([], None),
        (["NONE"], None),
        (["CMD", "check", "x"], ["check", "x"]),
        (["CMD-SHELL", "check x"], ["/bin/sh", "-c", "check x"]),
    ],
)
def test_what_is_run(test, wanted) -> None:
    assert command(HealthConfig(test=test), None) == wanted
    assert command(None, None) is None


def test_the_image_s_shell_is_used() -> None:
    assert command(HealthConfig(test=["CMD-SHELL", "x"]), ["/bin/bash", "-ec"]) == ["/bin/bash", "-ec", "x"]


async def test_a_probe_runs_and_its_result_is_told(world, monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([(1, "no"), (0, "fine")])
    told = asyncio.Event()

    async def probe(container, request, timeout: float) -> tuple[int, str]:
        assert request.cmd == ["/bin/sh", "-c", "check"]
        assert timeout == 2.0
        try:
            return next(results)
        except StopIteration:
            told.set()
            await asyncio.Event().wait()
            raise

    monkeypatch.setattr(world.engine.execs, "probe", probe)
    config = HealthConfig(
        test=["CMD-SHELL", "check"], interval=MILLISECOND, timeout=2000 * MILLISECOND, retries=1
    )
    id_ = await world.run(healthcheck=config)
    await asyncio.wait_for(told.wait(), 5)
    health = (await world.engine.containers.inspect(id_, size=False)).state.health
    assert health.status == "healthy"
    assert [result.output for result in health.log] == ["no", "fine"]
    assert [a for a in world.actions() if a.startswith("health_status")] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    await world.engine._background.close()

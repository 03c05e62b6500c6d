"""The state machine and the restart policy: pure rules."""

import pytest

from proa.engine import restart_policy
from proa.engine import state as states
from proa.engine.state import State, Status
from proa.errors import Conflict
from proa.network import Sandbox
from proa.schema.container import RestartPolicy
from proa.schema.plan import NoNetwork

SANDBOX = Sandbox(id="s", mode="none", plan_network=NoNetwork())


def running() -> State:
    return states.started(states.starting(State(), SANDBOX), pid=5, at_ns=10)


def ended(state: State, code: int = 1, *, restart: bool = False) -> State:
    return states.exited(state, code=code, reason="exit", oom=False, at_ns=20, restart=restart)


def test_a_life() -> None:
    state = running()
    assert (state.status, state.pid, state.sandbox) == (Status.RUNNING, 5, SANDBOX)
    state = ended(state, 3)
    assert (state.status, state.pid, state.exit_code, state.sandbox) == (Status.EXITED, 0, 3, None)
    state = states.started(state, pid=6, at_ns=30)
    assert (state.exit_code, state.finished_ns) == (0, 20)


def test_a_failed_start_keeps_what_it_was() -> None:
    failed = states.start_failed(states.starting(State(), SANDBOX), code=127, error="no")
    assert (failed.status, failed.exit_code, failed.error, failed.sandbox) == (
        Status.CREATED,
        127,
        "no",
        None,
    )
    assert states.start_failed(ended(running()), code=126, error="no").status is Status.EXITED
    assert states.started(failed, pid=1, at_ns=1).error == ""


def test_one_that_restarts_counts_as_running_but_takes_no_verb() -> None:
    state = ended(running(), restart=True)
    assert state.status is Status.RESTARTING
    assert state.running
    assert not state.alive
    assert state.restart_count == 1
    with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
        states.check_alive("x", state)
    assert states.given_up(state).status is Status.EXITED
    assert states.given_up(running()).status is Status.RUNNING


def test_oom_is_remembered_until_the_next_start() -> None:
    state = ended(states.oom_killed(running()))
    assert state.oom_killed
    assert not states.started(state, pid=1, at_ns=1).oom_killed


@pytest.mark.parametrize("status", [Status.REMOVING, Status.DEAD])
def test_what_is_being_removed_cannot_be_started(status: Status) -> None:
    with pytest.raises(Conflict, match="marked for removal and cannot be started"):
        states.check_can_start(State(status=status))


def test_removal_begins_once_and_again_from_dead() -> None:
    removing = states.removing("x", State())
    with pytest.raises(Conflict, match="removal of container x is already in progress"):
        states.removing("x", removing)
    assert states.removing("x", states.dead(removing, "no")).status is Status.REMOVING


ALWAYS = RestartPolicy(name="always")
UNLESS = RestartPolicy(name="unless-stopped")
ON_FAILURE = RestartPolicy(name="on-failure")
TWICE = RestartPolicy(name="on-failure", maximum_retry_count=2)


@pytest.mark.parametrize(
    ("policy", "state", "code", "wanted"),
    [
        (None, State(), 1, False),
        (RestartPolicy(name="no"), State(), 1, False),
        (ALWAYS, State(), 0, True),
        (ALWAYS, State(stopped_by_hand=True), 1, False),
        (UNLESS, State(), 0, True),
        (UNLESS, State(stopped_by_hand=True), 1, False),
        (ON_FAILURE, State(), 0, False),
        (ON_FAILURE, State(restart_count=100), 1, True),
        (TWICE, State(restart_count=1), 1, True),
        (TWICE, State(restart_count=2), 1, False),
    ],
)
def test_who_is_restarted(policy, state: State, code: int, wanted: bool) -> None:
    assert restart_policy.wanted(policy, state, code) is wanted


@pytest.mark.parametrize(
    ("policy", "state", "wanted"),
    [
        (None, State(started_ns=1), False),
        (ALWAYS, State(started_ns=1, stopped_by_hand=True), True),
        (ALWAYS, State(), False),
        (UNLESS, State(started_ns=1), True),
        (UNLESS, State(started_ns=1, stopped_by_hand=True), False),
        (ON_FAILURE, State(started_ns=1), False),
    ],
)
def test_who_is_started_at_boot(policy, state: State, wanted: bool) -> None:
    assert restart_policy.wanted_at_boot(policy, state) is wanted


def test_delays_double_up_to_a_minute_and_start_over_after_a_long_run() -> None:
    delay, seen = 0.0, []
    for _ in range(12):
        delay = restart_policy.next_delay(delay, 0)
        seen.append(delay)
    assert seen[:4] == [0.1, 0.2, 0.4, 0.8]
    assert seen[-1] == 60.0
    assert restart_policy.next_delay(60.0, restart_policy.LONG_RUN_NS) == 0.1

"""Whether and when a container that ended is started again: pure. Source: moby restartmanager.

The delay doubles from 100 ms up to a minute, and starts over once the container has run for 10 s.
"""

from proa.engine.state import State
from proa.schema.container import RestartPolicy

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
LONG_RUN_NS = 10_000_000_000


def wanted(policy: RestartPolicy | None, state: State, exit_code: int) -> bool:
    """Whether the container, in `state` until now, is to be started again after `exit_code`."""
    if policy is None or state.stopped_by_hand:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or exit_code == 0:
        return False
    return policy.maximum_retry_count == 0 or state.restart_count < policy.maximum_retry_count


def wanted_at_boot(policy: RestartPolicy | None, state: State) -> bool:
    """Whether a container that does not run is started when the daemon is.

    `always` also after a stop by hand, `unless-stopped` not; only what has run before.
    """
    if policy is None or not state.started_ns:
        return False
    if policy.name == "always":
        return True
    return policy.name == "unless-stopped" and not state.stopped_by_hand


def next_delay(last: float, ran_ns: int) -> float:
    """Seconds until the next start, after the one before waited `last` (0: none yet)."""
    if not last or ran_ns >= LONG_RUN_NS:
        return FIRST_DELAY
    return min(last * 2, LONGEST_DELAY)

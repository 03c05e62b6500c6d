"""Who waits for a container: futures by condition, registered before a start, settled with the exit code.

`not-running` and `next-exit` are settled by every exit, also by one that the policy restarts from;
`removed` by the removal, with the last exit code. Source: moby container/state.go (Wait).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, cast, get_args

from proa.engine.state import State
from proa.errors import InvalidParameter
from proa.schema.container_state import ContainerWaitExitError, ContainerWaitResponse

Condition = Literal["not-running", "next-exit", "removed"]
DEPARTED_KEPT = 1000
DEPARTED_SECONDS = 60
"""How many exits of removed containers are told, and how long after."""

Waiter = asyncio.Future[ContainerWaitResponse]


def condition_of(text: str) -> Condition:
    """The condition a client named; empty is not-running. Raises InvalidParameter."""
    if text == "":
        return "not-running"
    if text not in get_args(Condition):
        raise InvalidParameter(f'invalid condition: "{text}"')
    return cast("Condition", text)


class Waiters:
    """The waits on one container."""

    __slots__ = ("_exit", "_removed")

    def __init__(self) -> None:
        self._exit: list[Waiter] = []
        self._removed: list[Waiter] = []

    def register(self, condition: Condition, state: State) -> Waiter:
        """A future that is settled when the condition holds; at once where it does already."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not state.running:
            waiter.set_result(answer(state))
        elif condition == "removed":
            self._enter(self._removed, waiter)
        else:
            self._enter(self._exit, waiter)
        return waiter

    def exited(self, state: State) -> None:
        """Its process is gone and the exit is stored."""
        self._settle(self._exit, state)

    def removed(self, state: State) -> None:
        """It does not exist any more: nobody can wait for its exit either."""
        self._settle(self._exit, state)
        self._settle(self._removed, state)

    def not_removed(self, state: State, error: str) -> None:
        """Its removal failed."""
        self._settle(self._removed, state, error)

    @staticmethod
    def _enter(waiters: list[Waiter], waiter: Waiter) -> None:
        waiters.append(waiter)
        waiter.add_done_callback(_leaving(waiters))

    @staticmethod
    def _settle(waiters: list[Waiter], state: State, error: str = "") -> None:
        told = answer(state, error)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(told)
        waiters.clear()


class Departed:
    """Exits of containers that `--rm` has removed, for those who ask a moment too late.

    What starts one detached and waits for it in its next request would often find it gone: here a short
    one is removed within milliseconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._exits: OrderedDict[str, tuple[float, str, ContainerWaitResponse]] = OrderedDict()

    def add(self, id_: str, name: str, state: State) -> None:
        """It is gone now."""
        self._exits[id_] = (self._clock(), name, answer(state))
        if len(self._exits) > DEPARTED_KEPT:
            self._exits.popitem(last=False)

    def find(self, ref: str) -> ContainerWaitResponse | None:
        """By id, name or prefix of an id; the last one that bore it."""
        bare = ref.removeprefix("/")
        for id_, (when, name, told) in reversed(self._exits.items()):
            if self._clock() - when > DEPARTED_SECONDS:
                return None
            if bare and (bare == name or id_.startswith(bare)):
                return told
        return None


def answer(state: State, error: str = "") -> ContainerWaitResponse:
    """What a wait tells."""
    failed = ContainerWaitExitError(message=error) if error else None
    return ContainerWaitResponse(status_code=state.exit_code, error=failed)


def settled(told: ContainerWaitResponse) -> Waiter:
    """A wait that is over already."""
    waiter: Waiter = asyncio.get_running_loop().create_future()
    waiter.set_result(told)
    return waiter


def _leaving(waiters: list[Waiter]) -> Callable[[Waiter], None]:
    def leave(waiter: Waiter) -> None:
        if waiter.cancelled() and waiter in waiters:
            waiters.remove(waiter)

    return leave

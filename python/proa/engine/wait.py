"""Who waits for a container: futures by condition, registered before a start, settled with the exit code.

`not-running` and `next-exit` are settled by every exit, also by one that the policy restarts from;
`removed` by the removal, with the last exit code. Source: moby container/state.go (Wait).
"""

import asyncio
from collections.abc import Callable
from typing import Literal, cast, get_args

from proa.engine.state import State
from proa.errors import InvalidParameter
from proa.schema.container_state import ContainerWaitExitError, ContainerWaitResponse

Condition = Literal["not-running", "next-exit", "removed"]
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


def answer(state: State, error: str = "") -> ContainerWaitResponse:
    """What a wait tells."""
    failed = ContainerWaitExitError(message=error) if error else None
    return ContainerWaitResponse(status_code=state.exit_code, error=failed)


def _leaving(waiters: list[Waiter]) -> Callable[[Waiter], None]:
    def leave(waiter: Waiter) -> None:
        if waiter.cancelled() and waiter in waiters:
            waiters.remove(waiter)

    return leave

"""The one state machine of a container: pure, no I/O. Every change of state is one of these functions.

    created --started--> running <--paused/unpaused--> paused
       |                    | exited            \\-- exited (restart due) --> restarting --started--> running
       |                    v                                                    | given_up
       |                 exited <------------------------------------------------+
       +--removing--> removing --dead--> dead

A container that restarts counts as running for clients, as Docker has it.

Source: moby container/state.go.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from proa.errors import Conflict
from proa.network import Sandbox
from proa.schema.keeper import ExitReason


class Status(StrEnum):
    """Docker's words, as list and inspect show them."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What changes while a container lives; stored at every change."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    reason: ExitReason | None = None
    """Why it ended last; None before it ever did."""
    oom_killed: bool = False
    started_ns: int = 0
    """Unix nanoseconds; 0 for never."""
    finished_ns: int = 0
    restart_count: int = 0
    """Restarts by the policy since the last start by hand."""
    stopped_by_hand: bool = False
    """`unless-stopped` and `always` leave it alone."""
    sandbox: Sandbox | None = None

    @property
    def running(self) -> bool:
        """Its process exists, or is about to again."""
        return self.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)

    @property
    def alive(self) -> bool:
        """Its process exists."""
        return self.status in (Status.RUNNING, Status.PAUSED)


def check_can_start(state: State) -> None:
    """Raises Conflict where a start makes no sense; one that runs is the caller's to see."""
    if state.status is Status.PAUSED:
        raise Conflict("cannot start a paused container, try unpause instead")
    if state.status in (Status.REMOVING, Status.DEAD):
        raise Conflict("container is marked for removal and cannot be started")


def check_alive(id_: str, state: State) -> None:
    """Raises Conflict where no process is there to act on."""
    if state.status is Status.RESTARTING:
        raise Conflict(f"Container {id_} is restarting, wait until the container is running")
    if not state.alive:
        raise Conflict(f"container {id_} is not running")


def connected(state: State, sandbox: Sandbox) -> State:
    """Its networks have changed while it runs."""
    return replace(state, sandbox=sandbox)


def starting(state: State, sandbox: Sandbox) -> State:
    """About to be started: the network it will have is stored first, so that no crash loses it."""
    return replace(state, sandbox=sandbox)


def started(state: State, *, pid: int, at_ns: int) -> State:
    """Its process was executed."""
    return replace(
        state,
        status=Status.RUNNING,
        pid=pid,
        exit_code=0,
        error="",
        reason=None,
        oom_killed=False,
        started_ns=at_ns,
        stopped_by_hand=False,
    )


def start_failed(state: State, *, code: int, error: str) -> State:
    """Its process could not be executed; it stays what it was, with the error to show."""
    status = Status.EXITED if state.finished_ns else Status.CREATED
    return replace(state, status=status, pid=0, exit_code=code, error=error, sandbox=None)


def not_started(state: State) -> State:
    """The start that was under way when the daemon died did not come about."""
    return replace(state, sandbox=None)


def to_restart(state: State) -> State:
    """The policy wants it started again, now that the daemon is back."""
    return replace(state, status=Status.RESTARTING)


_TOLD = {
    "timeout": "the container was killed: its time was over",
    "engine_error": "the container was killed: its supervisor had died",
}


def exited(state: State, *, code: int, reason: ExitReason, oom: bool, at_ns: int, restart: bool) -> State:
    """Its process is gone; with `restart` the policy will start it again."""
    return replace(
        state,
        status=Status.RESTARTING if restart else Status.EXITED,
        pid=0,
        exit_code=code,
        error=_TOLD.get(reason, ""),
        reason=reason,
        oom_killed=oom or state.oom_killed,
        finished_ns=at_ns,
        restart_count=state.restart_count + restart,
        sandbox=None,
    )


def given_up(state: State) -> State:
    """A restart that was due will not come."""
    return replace(state, status=Status.EXITED) if state.status is Status.RESTARTING else state


def oom_killed(state: State) -> State:
    """The kernel killed one of its processes for want of memory."""
    return replace(state, oom_killed=True)


def stopped_by_hand(state: State) -> State:
    """A client asked for its end."""
    return replace(state, stopped_by_hand=True)


def started_by_hand(state: State) -> State:
    """A client starts it: the policy counts anew."""
    return replace(state, restart_count=0, stopped_by_hand=False)


def paused(id_: str, state: State) -> State:
    """Raises Conflict unless it runs."""
    if state.status is Status.PAUSED:
        raise Conflict(f"Container {id_} is already paused")
    check_alive(id_, state)
    return replace(state, status=Status.PAUSED)


def unpaused(id_: str, state: State) -> State:
    """Raises Conflict unless it is paused."""
    if state.status is not Status.PAUSED:
        raise Conflict(f"Container {id_} is not paused")
    return replace(state, status=Status.RUNNING)


def removing(id_: str, state: State) -> State:
    """Being removed from now on. Raises Conflict where it is already."""
    if state.status is Status.REMOVING:
        raise Conflict(f"removal of container {id_} is already in progress")
    return replace(state, status=Status.REMOVING)


def dead(state: State, error: str) -> State:
    """It could not be removed as a whole; removing it again goes on."""
    return replace(state, status=Status.DEAD, error=error)

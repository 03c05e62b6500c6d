"""An exec request in a running container, resolved to the process that the keeper runs.

Source: moby's daemon/exec.go and daemon/exec_linux.go.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from proa.engine.resolve import capabilities, identity, process
from proa.engine.resolve.model import Host, Resolved
from proa.errors import InvalidParameter
from proa.schema.exec import ExecCreateRequest
from proa.schema.plan import Process


class Running(Struct, frozen=True, kw_only=True):
    """The running container, as an exec needs to know it."""

    resolved: Resolved
    read: Callable[[Sequence[str]], Sequence[bytes | None]]
    """Files in the root of its init process; None where missing."""
    host: Host


def resolve_exec(request: ExecCreateRequest, running: Running) -> Process:
    """The process of an exec: the container's settings, with the request's over them."""
    config, host_config = running.resolved.config, running.resolved.host_config
    plan = running.resolved.plan.process
    if not request.cmd:
        raise InvalidParameter("No exec command specified")
    for argument in request.cmd:
        process.refuse_nul("argument", argument)
    process.check_environment(request.env)
    who = identity.identify(request.user or config.user, host_config.group_add or (), running.read)
    bounding = running.host.capabilities if request.privileged else plan.capabilities.bounding
    return Process(
        args=tuple(request.cmd),
        env=process.environment(config, who.home, request.env or (), tty=request.tty),
        cwd=process.working_directory(request.working_dir) or config.working_dir or "/",
        uid=who.uid,
        gid=who.gid,
        groups=who.groups,
        umask=plan.umask,
        capabilities=capabilities.of_process(bounding & capabilities.ALL, who.uid),
        no_new_privileges=plan.no_new_privileges,
        seccomp=plan.seccomp,
        rlimits=plan.rlimits,
        oom_score_adj=plan.oom_score_adj,
        tty=request.tty,
        console_size=console_size(request.console_size),
    )


def console_size(size: list[int] | None) -> tuple[int, int]:
    """(rows, columns) of a request's ConsoleSize; zeros for none."""
    if not size:
        return (0, 0)
    if len(size) != 2 or not all(0 <= n < 65536 for n in size):
        raise InvalidParameter("invalid console size: it is [height, width]")
    return (size[0], size[1])

"""How a container lives: restart policy, stop signal, time-out.

Source: moby's api/types/container (ValidateRestartPolicy), daemon/container.go.
"""

import signal

from proa.errors import InvalidParameter
from proa.schema.container import RestartPolicy


def check_restart_policy(policy: RestartPolicy, *, auto_remove: bool) -> None:
    """Refuse unknown policies, wrong counts, and a restart of what is to be removed."""
    only_on_failure = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
    match policy.name:
        case "" | "no" | "always" | "unless-stopped":
            if policy.maximum_retry_count < 0:
                raise InvalidParameter(only_on_failure + " and cannot be negative")
            if policy.maximum_retry_count and policy.name:
                raise InvalidParameter(only_on_failure)
        case "on-failure":
            if policy.maximum_retry_count < 0:
                raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
        case name:
            raise InvalidParameter(
                f"invalid restart policy: unknown policy '{name}'; "
                "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )
    if auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def signal_number(name: str) -> int:
    """A signal by number, or by name with or without SIG, RTMIN+n and RTMAX-n included."""
    if name.isascii() and name.isdigit():
        number = int(name) if len(name) < 4 else 0
        if 1 <= number <= signal.SIGRTMAX:
            return number
    else:
        short = name.upper().removeprefix("SIG")
        for base, offset in (("RTMIN", short[5:]), ("RTMAX", short[5:])):
            if short.startswith(base) and offset[:1] in ("+", "-") and offset[1:].isdigit():
                number = int(signal.Signals[f"SIG{base}"]) + int(offset)
                if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                    return number
        known = signal.__dict__.get(f"SIG{short}")
        if isinstance(known, signal.Signals):
            return int(known)
    raise InvalidParameter(f"invalid signal: {name}")


def check_timeout(nanoseconds: int) -> None:
    """ProaTimeout: zero is never."""
    if nanoseconds < 0:
        raise InvalidParameter("the timeout cannot be negative")

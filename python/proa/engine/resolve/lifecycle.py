"""How a container lives: restart policy, stop signal, log, time-out.

Source: moby's api/types/container (ValidateRestartPolicy), daemon/container.go, daemon/logger.
"""

import signal

from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import HostConfig, LogConfig, RestartPolicy
from proa.schema.plan import Log
from proa.sizes import parse_size

DEFAULT_LOG_SIZE = 20 << 20
DEFAULT_LOG_FILES = 5
LOG_DRIVERS = ("json-file", "local")
"""Both are written as json-file."""

_LOG_OPTIONS = frozenset(
    [
        "max-size",
        "max-file",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    ]
)
_DRIVERS_OF_DOCKER = frozenset(("awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk", "syslog"))


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


def resolve_log(host_config: HostConfig, config: DaemonConfig, path: str) -> tuple[LogConfig, Log | None]:
    """The log configuration as inspect shows it, and the log that the keeper writes."""
    asked = host_config.log_config or LogConfig()
    driver = asked.type or config.log_driver
    options = dict(asked.config or {})
    if driver == config.log_driver:
        options = {**config.log_opts, **options}
    shown = LogConfig(type=driver, config=options)
    if driver == "none":
        return shown, None
    if driver not in LOG_DRIVERS:
        raise InvalidParameter(_refusal_of_driver(driver))
    for option in options:
        if option not in _LOG_OPTIONS:
            whose = f"{driver} log driver" if driver == "json-file" else f"log driver {driver}"
            raise InvalidParameter(f"unknown log opt '{option}' for {whose}")
    return shown, Log(path=path, max_size=_log_size(options), max_files=_log_files(options))


def _refusal_of_driver(driver: str) -> str:
    if driver == "journald":
        return "failed to initialize logging driver: journald is not enabled on this host"
    if driver in _DRIVERS_OF_DOCKER:
        return f"failed to initialize logging driver: {driver} is not supported by proa"
    return f'error looking up logging plugin {driver}: plugin "{driver}" not found'


def check_timeout(nanoseconds: int) -> None:
    """ProaTimeout: zero is never."""
    if nanoseconds < 0:
        raise InvalidParameter("the timeout cannot be negative")


def _log_size(options: dict[str, str]) -> int:
    text = options.get("max-size", "")
    if not text:
        return DEFAULT_LOG_SIZE
    if text == "-1":
        return 0
    try:
        return parse_size(text)
    except ValueError:
        raise InvalidParameter(f"invalid size: '{text}'") from None


def _log_files(options: dict[str, str]) -> int:
    text = options.get("max-file", "")
    if not text:
        return DEFAULT_LOG_FILES
    try:
        count = int(text)
    except ValueError:
        raise InvalidParameter(f"invalid value for max-file: '{text}'") from None
    if count < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    return count

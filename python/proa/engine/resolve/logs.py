"""Log configuration: driver and options as inspect shows them, and the file that the keeper writes.

The drivers that ship lines elsewhere have a file, too, unless `cache-disabled` says no: `logs` reads it.

Source: moby's daemon/logs.go, daemon/logger/factory.go and the drivers' ValidateLogOpt, loggerutils/cache.
"""

from collections.abc import Callable, Mapping

from proa.engine.resolve.log_remotes import boolean, parse_fluentd, parse_gelf, parse_syslog, size
from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import HostConfig, LogConfig
from proa.schema.plan import Log

DEFAULT_LOG_SIZE = 20 << 20
DEFAULT_LOG_FILES = 5
FILE_DRIVERS = ("json-file", "local")
"""Both are written as json-file."""
SHIPPING_DRIVERS = ("fluentd", "gelf", "journald", "syslog")
LOG_DRIVERS = tuple(sorted((*FILE_DRIVERS, *SHIPPING_DRIVERS)))

Options = Mapping[str, str]

_NOT_HERE = frozenset(("awslogs", "etwlogs", "gcplogs", "splunk"))
_CACHE = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
_BUILT_IN = _CACHE | {"mode", "max-buffer-size"}
_ATTRIBUTES = frozenset(("labels", "labels-regex", "env", "env-regex", "tag"))
_FILE = frozenset(("max-size", "max-file", "compress"))
_OPTIONS = {
    "json-file": _ATTRIBUTES | _FILE,
    "local": _ATTRIBUTES | _FILE,
    "journald": _ATTRIBUTES,
    "syslog": _ATTRIBUTES
    | {
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    },
    "fluentd": _ATTRIBUTES
    | {
        "fluentd-address",
        "fluentd-async",
        "fluentd-async-reconnect-interval",
        "fluentd-buffer-limit",
        "fluentd-max-retries",
        "fluentd-read-timeout",
        "fluentd-request-ack",
        "fluentd-retry-wait",
        "fluentd-sub-second-precision",
        "fluentd-write-timeout",
    },
    "gelf": _ATTRIBUTES
    | {
        "gelf-address",
        "gelf-compression-level",
        "gelf-compression-type",
        "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    },
}
_VALUES: dict[str, Callable[[Options], object]] = {
    "syslog": parse_syslog,
    "fluentd": parse_fluentd,
    "gelf": parse_gelf,
}


def resolve_log(host_config: HostConfig, config: DaemonConfig, path: str) -> tuple[LogConfig, Log | None]:
    """The log configuration as inspect shows it, and the log that the keeper writes at `path`."""
    asked = host_config.log_config or LogConfig()
    driver = asked.type or config.log_driver
    options = dict(asked.config or {})
    for option, value in config.log_opts.items():
        if driver == config.log_driver or option in _CACHE:
            options.setdefault(option, value)
    check_log(driver, options)
    shown = LogConfig(type=driver, config=options)
    if driver == "none":
        return shown, None
    if driver in FILE_DRIVERS:
        return shown, _file(path, options, "")
    if boolean(options, "cache-disabled"):
        return shown, None
    return shown, _file(path, options, "cache-")


def check_log_defaults(config: DaemonConfig) -> None:
    """What daemon.json says of logs. Raises InvalidParameter."""
    try:
        if config.log_opts:
            check_log(config.log_driver, config.log_opts)
    except InvalidParameter as exc:
        raise InvalidParameter(f"failed to set log opts: {exc}") from exc


def check_log(driver: str, options: Options) -> None:
    """Raises InvalidParameter for a driver that is not there, an unknown option, a wrong value."""
    if driver == "none":
        return
    if (mode := options.get("mode", "")) not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        size(options, "max-buffer-size", 0)
    try:
        boolean(options, "cache-disabled")
    except InvalidParameter:
        raise InvalidParameter(
            f"invalid value for option cache-disabled: {options['cache-disabled']}"
        ) from None
    if driver in _NOT_HERE:
        raise InvalidParameter(f"logger: no log driver named '{driver}' is registered")
    if driver not in _OPTIONS:
        raise InvalidParameter(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    for option in options:
        if option not in _OPTIONS[driver] and option not in _BUILT_IN:
            raise _unknown_option(driver, option)
    if check := _VALUES.get(driver):
        check(options)


def _unknown_option(driver: str, option: str) -> InvalidParameter:
    if driver == "local":
        return InvalidParameter(f"unknown log opt '{option}' for log driver {driver}")
    quoted = f'"{option}"' if driver == "gelf" else f"'{option}'"
    return InvalidParameter(f"unknown log opt {quoted} for {driver} log driver")


def _file(path: str, options: Options, prefix: str) -> Log:
    return Log(path=path, max_size=_file_size(options, prefix), max_files=_files(options, prefix))


def _file_size(options: Options, prefix: str) -> int:
    if options.get(f"{prefix}max-size") == "-1":
        return 0
    return size(options, f"{prefix}max-size", DEFAULT_LOG_SIZE)


def _files(options: Options, prefix: str) -> int:
    text = options.get(f"{prefix}max-file", "")
    if not text:
        return DEFAULT_LOG_FILES
    try:
        count = int(text)
    except ValueError:
        raise InvalidParameter(f"invalid value for max-file: '{text}'") from None
    if count < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    return count

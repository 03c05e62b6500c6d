"""The options of log drivers: what they mean, and in which words they are refused."""

from pathlib import Path

import pytest

from proa.engine.resolve.log_remotes import parse_fluentd, parse_gelf, parse_syslog
from proa.engine.resolve.logs import LOG_DRIVERS, check_log, check_log_defaults, resolve_log
from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import HostConfig, LogConfig
from proa.schema.shipping import AsStream, Gzip, Plain, Tcp, Udp, Unix, Unixgram, Zlib


@pytest.mark.parametrize(
    ("driver", "options", "told"),
    [
        ("splunk", {}, "logger: no log driver named 'splunk' is registered"),
        ("awslogs", {}, "logger: no log driver named 'awslogs' is registered"),
        ("json-file", {"mode": "odd"}, "logger: logging mode not supported: odd"),
        (
            "syslog",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("syslog", {"mode": "non-blocking", "max-buffer-size": "x"}, "invalid size: 'x'"),
        ("syslog", {"cache-disabled": "odd"}, "invalid value for option cache-disabled: odd"),
        ("syslog", {"x": "1"}, "unknown log opt 'x' for syslog log driver"),
        ("journald", {"x": "1"}, "unknown log opt 'x' for journald log driver"),
        ("fluentd", {"x": "1"}, "unknown log opt 'x' for fluentd log driver"),
        ("gelf", {"x": "1", "gelf-address": "udp://h:1"}, 'unknown log opt "x" for gelf log driver'),
        ("syslog", {"syslog-address": "ftp://h"}, "unsupported scheme: 'ftp'"),
        ("syslog", {"syslog-address": "unix:///no/such"}, "stat /no/such: no such file or directory"),
        ("syslog", {"syslog-address": "tcp+tls://h:1"}, "syslog over tcp+tls is not supported by proa"),
        ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
        ("syslog", {"syslog-facility": "odd"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "odd"}, "Invalid syslog format"),
        (
            "fluentd",
            {"fluentd-address": "udp://h:1"},
            "invalid fluentd-address (udp://h:1): unsupported scheme: 'udp'",
        ),
        (
            "fluentd",
            {"fluentd-address": "h:1/x"},
            "invalid fluentd-address (h:1/x): should not contain a path element",
        ),
        ("fluentd", {"fluentd-address": "unix://"}, "invalid fluentd-address (unix://): path is empty"),
        ("fluentd", {"fluentd-address": "tls://h"}, "tls is not supported by proa"),
        ("fluentd", {"fluentd-address": "h:x"}, 'invalid port "x"'),
        ("fluentd", {"fluentd-async": "odd"}, 'strconv.ParseBool: parsing "odd": invalid syntax'),
        ("fluentd", {"fluentd-max-retries": "-1"}, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("fluentd", {"fluentd-retry-wait": "1"}, 'time: missing unit in duration "1"'),
        (
            "fluentd",
            {"fluentd-async-reconnect-interval": "1h"},
            'value ("1h0m0s") must be between 100ms and 10s',
        ),
        ("fluentd", {"fluentd-write-timeout": "-1s"}, "value must be a duration that is non-negative"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "unix:///x"}, "gelf: endpoint needs to be TCP or UDP"),
        ("gelf", {"gelf-address": "udp://h"}, "gelf: please provide gelf-address as proto://host:port"),
        (
            "gelf",
            {"gelf-address": "tcp://h:1", "gelf-compression-type": "gzip"},
            "compression is only supported on UDP",
        ),
        (
            "gelf",
            {"gelf-address": "udp://h:1", "gelf-compression-type": "odd"},
            'unknown value "odd" for log opt "gelf-compression-type" for gelf log driver',
        ),
        (
            "gelf",
            {"gelf-address": "udp://h:1", "gelf-tcp-max-reconnect": "1"},
            '"gelf-tcp-max-reconnect" is only valid for TCP',
        ),
        (
            "gelf",
            {"gelf-address": "tcp://h:1", "gelf-tcp-reconnect-delay": "-1"},
            '"gelf-tcp-reconnect-delay" must be a positive integer',
        ),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(driver: str, options: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        check_log(driver, options)
    assert told in str(refused.value)


def test_every_driver_takes_the_options_of_all() -> None:
    options = {"mode": "non-blocking", "max-buffer-size": "4m", "cache-disabled": "true", "labels": "a"}
    for driver in LOG_DRIVERS:
        own = {"gelf-address": "udp://h:1"} if driver == "gelf" else {}
        check_log(driver, {**options, **own})


def test_addresses(tmp_path: Path) -> None:
    assert parse_syslog({}).to is None
    for scheme, remote in (("unix", Unix), ("unixgram", Unixgram)):
        assert parse_syslog({"syslog-address": f"{scheme}://{tmp_path}"}).to == remote(str(tmp_path))
    assert parse_syslog({"syslog-address": "udp://10.0.0.1"}).to == Udp("10.0.0.1", 514)
    assert parse_syslog({"syslog-address": "tcp://[::1]:601"}).to == Tcp("::1", 601)
    assert parse_fluentd({}).to == Tcp("127.0.0.1", 24224)
    assert parse_fluentd({"fluentd-address": "logs"}).to == Tcp("logs", 24224)
    assert parse_fluentd({"fluentd-address": ":5"}).to == Tcp("127.0.0.1", 5)
    assert parse_fluentd({"fluentd-address": "unix:///run/f"}).to == Unix("/run/f")
    assert parse_gelf({"gelf-address": "udp://logs:12201"}).to == Udp("logs", 12201)
    assert parse_gelf({"gelf-address": "udp://:12201"}).to == Udp("localhost", 12201)


def test_values() -> None:
    assert (parse_syslog({}).facility, parse_syslog({}).layout) == (3, "unix")
    found = parse_syslog({"syslog-facility": "local7", "syslog-format": "rfc5424micro"})
    assert (found.facility, found.layout) == (23, "rfc5424micro")
    assert parse_syslog({"syslog-facility": "9"}).facility == 9
    udp, tcp = {"gelf-address": "udp://h:1"}, {"gelf-address": "tcp://h:1"}
    assert parse_gelf(udp).packing == Gzip(1)
    assert parse_gelf({**udp, "gelf-compression-type": "none"}).packing == Plain()
    zlib = {"gelf-compression-type": "zlib", "gelf-compression-level": "-1"}
    assert parse_gelf({**udp, **zlib}).packing == Zlib(6)
    found_tcp = parse_gelf({**tcp, "gelf-tcp-reconnect-delay": "5"})
    assert (found_tcp.packing, found_tcp.reconnects, found_tcp.delay_ns) == (AsStream(), 3, 5 * 10**9)
    limited = {"fluentd-write-timeout": "2s", "fluentd-read-timeout": "1s"}
    assert parse_fluentd(limited).timeout_ns == 2 * 10**9
    assert parse_fluentd({**limited, "fluentd-request-ack": "true"}).timeout_ns == 10**9
    retrying = parse_fluentd({"fluentd-retry-wait": "250ms", "fluentd-max-retries": "7"})
    assert (retrying.retry_wait_ns, retrying.retries) == (250_000_000, 7)


def resolved(daemon: DaemonConfig, /, **asked: object) -> LogConfig:
    return resolve_log(HostConfig(log_config=LogConfig(**asked)), daemon, "/log")[0]  # type: ignore[arg-type]


def test_defaults_of_the_daemon_count_for_its_own_driver_and_the_cache() -> None:
    config = DaemonConfig(log_driver="journald", log_opts={"tag": "x", "cache-max-file": "2"})
    assert resolved(config) == LogConfig(type="journald", config={"tag": "x", "cache-max-file": "2"})
    assert resolved(config, config={"tag": "y"}).config == {"tag": "y", "cache-max-file": "2"}
    assert resolved(config, type="json-file").config == {"cache-max-file": "2"}
    with pytest.raises(InvalidParameter, match="failed to set log opts: unknown log opt 'x' for syslog"):
        check_log_defaults(DaemonConfig(log_driver="syslog", log_opts={"x": "1"}))
    check_log_defaults(config)


def test_shipped_logs_have_a_file_unless_it_is_switched_off() -> None:
    def file_of(**options: str) -> object:
        asked = HostConfig(log_config=LogConfig(type="journald", config=options))
        return resolve_log(asked, DaemonConfig(), "/log")[1]

    file = file_of(**{"cache-max-size": "1k", "cache-max-file": "3"})
    assert (file.path, file.max_size, file.max_files) == ("/log", 1024, 3)  # type: ignore[attr-defined]
    assert file_of(**{"cache-disabled": "true"}) is None

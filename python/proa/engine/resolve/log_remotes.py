"""The options of the drivers that ship log lines: addresses, encodings, times. Refused in Docker's words.

An empty option is one that is not given. TLS is not there: it is refused.

Source: moby's daemon/logger/{syslog,fluentd,gelf}; srslog, fluent-logger-golang and go-gelf for defaults.
"""

import os
from collections.abc import Mapping
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from proa.durations import go_duration, parse_duration
from proa.errors import InvalidParameter
from proa.schema.shipping import AsStream, Gzip, Plain, Remote, Tcp, Udp, Unix, Unixgram, Zlib
from proa.sizes import parse_size

Options = Mapping[str, str]
Layout = Literal["unix", "rfc3164", "rfc5424", "rfc5424micro"]

_SECOND = 10**9
_MOST = (1 << 31) - 1
_NAMED = (
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
)
_FACILITIES = {name: number for number, name in enumerate(_NAMED)} | {f"local{n}": 16 + n for n in range(8)}
_LAYOUTS: dict[str, Layout] = {
    "": "unix",
    "rfc3164": "rfc3164",
    "rfc5424": "rfc5424",
    "rfc5424micro": "rfc5424micro",
}


class SyslogOptions(Struct, frozen=True, kw_only=True):
    """No remote: the host's own, wherever its socket is."""

    to: Remote | None
    facility: int
    layout: Layout


class FluentdOptions(Struct, frozen=True, kw_only=True):
    """Times in nanoseconds; 0 for none."""

    to: Remote
    async_: bool
    buffer: int
    retries: int
    retry_wait_ns: int
    sub_second: bool
    acknowledged: bool
    timeout_ns: int
    """Of writes, and of reads where messages are acknowledged."""
    reconnect_ns: int


class GelfOptions(Struct, frozen=True, kw_only=True):
    """`reconnects` and their delay are of TCP."""

    to: Remote
    packing: AsStream | Plain | Gzip | Zlib
    reconnects: int
    delay_ns: int


def parse_syslog(options: Options) -> SyslogOptions:
    """Raises InvalidParameter."""
    address = options.get("syslog-address", "")
    to = _syslog_remote(address) if address else None
    facility = _facility(options.get("syslog-facility", ""))
    layout = _LAYOUTS.get(options.get("syslog-format", ""))
    if layout is None:
        raise InvalidParameter("Invalid syslog format")
    return SyslogOptions(to=to, facility=facility, layout=layout)


def _syslog_remote(address: str) -> Remote:
    url = _url(address)
    if url.scheme in ("unix", "unixgram"):
        try:
            os.stat(url.path)
        except OSError as exc:
            raise InvalidParameter(f"stat {url.path}: {(exc.strerror or '').lower()}") from exc
        return Unix(url.path) if url.scheme == "unix" else Unixgram(url.path)
    if url.scheme == "tcp+tls":
        raise InvalidParameter("syslog over tcp+tls is not supported by proa")
    if url.scheme not in ("tcp", "udp"):
        raise InvalidParameter(f"unsupported scheme: '{url.scheme}'")
    host, port = url.hostname or "localhost", _port(url, 514)
    return Tcp(host, port) if url.scheme == "tcp" else Udp(host, port)


def _facility(text: str) -> int:
    if not text:
        return _FACILITIES["daemon"]
    if text in _FACILITIES:
        return _FACILITIES[text]
    if text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


def parse_fluentd(options: Options) -> FluentdOptions:
    """Raises InvalidParameter."""
    address = options.get("fluentd-address", "")
    try:
        to = _fluentd_remote(address)
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid fluentd-address ({address}): {exc}") from exc
    acknowledged = boolean(options, "fluentd-request-ack")
    limits = [_time_limit(options, f"fluentd-{name}-timeout") for name in ("write", "read")]
    wait = options.get("fluentd-retry-wait", "")
    return FluentdOptions(
        to=to,
        async_=boolean(options, "fluentd-async"),
        buffer=size(options, "fluentd-buffer-limit", 1 << 20),
        # The library's own default stands for 0.
        retries=_retries(options.get("fluentd-max-retries", "")) or 13,
        retry_wait_ns=(parse_duration(wait) if wait else _SECOND) or _SECOND // 2,
        sub_second=boolean(options, "fluentd-sub-second-precision"),
        acknowledged=acknowledged,
        timeout_ns=min(filter(None, limits if acknowledged else limits[:1]), default=0),
        reconnect_ns=_reconnect_interval(options),
    )


def _fluentd_remote(address: str) -> Remote:
    url = _url(address if "://" in address else f"tcp://{address}")
    if url.scheme == "unix":
        if not url.path.lstrip("/"):
            raise InvalidParameter("path is empty")
        return Unix(url.path)
    if url.scheme == "tls":
        raise InvalidParameter("tls is not supported by proa")
    if url.scheme != "tcp":
        raise InvalidParameter(f"unsupported scheme: '{url.scheme}'")
    if url.path:
        raise InvalidParameter("should not contain a path element")
    return Tcp(url.hostname or "127.0.0.1", _port(url, 24224))


def _retries(text: str) -> int:
    if not text:
        return _MOST
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 10 or int(text) >= 1 << 32:
        raise InvalidParameter(f'strconv.ParseUint: parsing "{text}": value out of range')
    if int(text) > _MOST:
        raise InvalidParameter("invalid fluentd-max-retries: value out of range")
    return int(text)


def _reconnect_interval(options: Options) -> int:
    name = "fluentd-async-reconnect-interval"
    text = options.get(name, "")
    if not text:
        return 0
    try:
        interval = parse_duration(text)
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid value for {name}: {exc}") from exc
    if interval and not _SECOND // 10 <= interval <= 10 * _SECOND:
        shown = go_duration(interval) if interval > 0 else f"-{go_duration(-interval)}"
        raise InvalidParameter(f'invalid value for {name}: value ("{shown}") must be between 100ms and 10s')
    return interval


def _time_limit(options: Options, name: str) -> int:
    text = options.get(name, "")
    if not text:
        return 0
    try:
        limit = parse_duration(text)
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid value for {name}: value must be a duration: {exc}") from exc
    if limit < 0:
        raise InvalidParameter(f"invalid value for {name}: value must be a duration that is non-negative")
    return limit


def parse_gelf(options: Options) -> GelfOptions:
    """Raises InvalidParameter."""
    address = options.get("gelf-address", "")
    if not address:
        raise InvalidParameter("gelf-address is a required parameter")
    url = _url(address)
    if url.scheme not in ("tcp", "udp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    if not url.netloc.rpartition("]")[2].rpartition(":")[1]:
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    host, port = url.hostname or "localhost", _port(url, 0)
    if url.scheme == "udp":
        for option in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
            if option in options:
                raise InvalidParameter(f'"{option}" is only valid for TCP')
        return GelfOptions(to=Udp(host, port), packing=_packing(options), reconnects=0, delay_ns=0)
    for option in ("gelf-compression-level", "gelf-compression-type"):
        if option in options:
            raise InvalidParameter("compression is only supported on UDP")
    return GelfOptions(
        to=Tcp(host, port),
        packing=AsStream(),
        reconnects=_positive(options, "gelf-tcp-max-reconnect", 3),
        delay_ns=_positive(options, "gelf-tcp-reconnect-delay", 1) * _SECOND,
    )


def _packing(options: Options) -> Plain | Gzip | Zlib:
    kind = options.get("gelf-compression-type", "gzip")
    text = options.get("gelf-compression-level", "1")
    if text not in ("-1", *"0123456789"):
        raise _unknown_value(text, "gelf-compression-level")
    # -1 is zlib's own default.
    level = 6 if text == "-1" else int(text)
    match kind:
        case "none":
            return Plain()
        case "gzip":
            return Gzip(level)
        case "zlib":
            return Zlib(level)
    raise _unknown_value(kind, "gelf-compression-type")


def _unknown_value(value: str, option: str) -> InvalidParameter:
    return InvalidParameter(f'unknown value "{value}" for log opt "{option}" for gelf log driver')


def _positive(options: Options, option: str, default: int) -> int:
    if option not in options:
        return default
    text = options[option]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidParameter(f'"{option}" must be a positive integer')
    return int(text)


def boolean(options: Options, name: str) -> bool:
    """As Go's strconv.ParseBool; not given is no. Raises InvalidParameter."""
    text = options.get(name, "")
    if text in ("", "0", "f", "F", "false", "FALSE", "False"):
        return False
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    raise InvalidParameter(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def size(options: Options, name: str, default: int) -> int:
    """Bytes. Raises InvalidParameter."""
    text = options.get(name, "")
    if not text:
        return default
    try:
        return parse_size(text)
    except ValueError:
        raise InvalidParameter(f"invalid size: '{text}'") from None


def _url(address: str) -> SplitResult:
    try:
        url = urlsplit(address)
        url.hostname  # noqa: B018 - brackets that do not fit are found out here
    except ValueError as exc:
        raise InvalidParameter(f'parse "{address}": {exc}') from exc
    return url


def _port(url: SplitResult, default: int) -> int:
    try:
        port = url.port
    except ValueError as exc:
        text = url.netloc.rpartition(":")[2]
        raise InvalidParameter(f'parse "{url.geturl()}": invalid port "{text}"') from exc
    return default if port is None else port

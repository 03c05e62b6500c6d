"""What the keeper is told of a log whose lines are shipped: the driver's options, the container's own facts.

Labels are the image's: none of them takes the place of what the engine says. (Docker's do.)

Source: moby's daemon/logger/{syslog,journald,fluentd,gelf} (New); the libraries below for attempts and waits.
"""

import os
import re
from collections.abc import Mapping

import msgspec

from proa.engine import log_details
from proa.engine.durations import rfc3339
from proa.engine.record import Record
from proa.engine.resolve.log_remotes import parse_fluentd, parse_gelf, parse_syslog, size
from proa.schema.shipping import Fluentd, Gelf, Journald, Remote, Shipping, Syslog, Unixgram

JOURNAL = "/run/systemd/journal/socket"
LOCAL_SYSLOG = Unixgram("/dev/log")
"""Stands for the host's own, which is wherever `dial` finds it."""

_SECOND = 10**9
_LONGEST_WAIT = 60 * _SECOND
_OF_A_LINE = frozenset(("MESSAGE", "PRIORITY", "SYSLOG_TIMESTAMP"))
"""The journal's fields that the keeper adds, besides CONTAINER_*."""
_BLOCKING_BUFFER = 256 << 10
"""Bytes that wait before the output of a container does."""
_DROPPING_BUFFER = 1 << 20

Options = Mapping[str, str]


def shipping_of(record: Record) -> Shipping:
    """Where a container's lines go. Raises InvalidParameter for options that were wrong all along."""
    log_config = record.resolved.host_config.log_config
    options = log_details.log_options(record)
    tag = log_details.strict_tag(record, options.get("tag", "") or "{{.ID}}")
    match log_config.type if log_config is not None else "":
        case "syslog":
            return _syslog(record, options, tag)
        case "journald":
            journald = Journald(fields=tuple(_journal_fields(record, options, tag).items()))
            return _shipping(record, options, Unixgram(JOURNAL), journald)
        case "gelf":
            return _gelf(record, options, tag)
        case _:
            return _fluentd(record, options, tag)


def _shipping(
    record: Record,
    options: Options,
    to: Remote,
    encoding: Syslog | Journald | Fluentd | Gelf,
    *,
    attempts: int = 1,
    wait_ns: int = _SECOND,
    longest_wait_ns: int = 0,
) -> Shipping:
    blocking = options.get("mode", "") != "non-blocking"
    buffer = _BLOCKING_BUFFER if blocking else size(options, "max-buffer-size", _DROPPING_BUFFER)
    return Shipping(
        id=record.id[:12],
        to=to,
        format=encoding,
        blocking=blocking,
        buffer=buffer,
        attempts=max(attempts, 1),
        wait_ns=wait_ns,
        longest_wait_ns=longest_wait_ns,
    )


def _syslog(record: Record, options: Options, tag: str) -> Shipping:
    asked = parse_syslog(options)
    hostname = os.uname().nodename
    encoding = Syslog(facility=asked.facility, layout=asked.layout, hostname=hostname, tag=tag)
    return _shipping(record, options, asked.to or LOCAL_SYSLOG, encoding)


def _journal_fields(record: Record, options: Options, tag: str) -> dict[str, str]:
    fields = {
        "CONTAINER_ID": record.id[:12],
        "CONTAINER_ID_FULL": record.id,
        "CONTAINER_NAME": record.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": record.resolved.config.image,
        "SYSLOG_IDENTIFIER": tag,
        "CONTAINER_LOG_EPOCH": os.urandom(32).hex(),
    }
    for name, value in log_details.attributes(record, options):
        field = re.sub("[^A-Z0-9_]", "_", re.sub("[a-z]+", lambda m: m[0].upper(), name)).lstrip("_")
        if field and field not in _OF_A_LINE and not field.startswith("CONTAINER_"):
            fields.setdefault(field, value)
    return fields


def _gelf(record: Record, options: Options, tag: str) -> Shipping:
    asked = parse_gelf(options)
    extra = {
        "_command": log_details.command(record),
        "_container_id": record.id,
        "_container_name": record.name,
        "_created": rfc3339(record.created_ns),
        "_image_id": record.image_id,
        "_image_name": record.resolved.config.image,
        "_tag": tag,
    }
    for name, value in log_details.attributes(record, options):
        extra.setdefault(name if name.startswith("_") else f"_{name}", value)
    members = msgspec.json.encode(extra)[1:-1].decode()
    encoding = Gelf(hostname=os.uname().nodename, extra=members, packing=asked.packing)
    return _shipping(record, options, asked.to, encoding, attempts=asked.reconnects, wait_ns=asked.delay_ns)


def _fluentd(record: Record, options: Options, tag: str) -> Shipping:
    asked = parse_fluentd(options)
    fields = dict(log_details.attributes(record, options))
    for of_a_line in ("source", "log"):
        fields.pop(of_a_line, None)
    fields |= {"container_id": record.id, "container_name": f"/{record.name}"}
    encoding = Fluentd(
        tag=tag,
        record=tuple(fields.items()),
        sub_second=asked.sub_second,
        acknowledged=asked.acknowledged,
    )
    shipping = _shipping(
        record,
        options,
        asked.to,
        encoding,
        attempts=asked.retries,
        wait_ns=asked.retry_wait_ns,
        longest_wait_ns=_LONGEST_WAIT,
    )
    if asked.async_:
        shipping = msgspec.structs.replace(
            shipping, blocking=False, buffer=asked.buffer, renew_ns=asked.reconnect_ns
        )
    return msgspec.structs.replace(shipping, stall_ns=asked.timeout_ns)

"""What a log's options say of its container: labels and environment that they name, its tag.

`logs --details` puts it before each line, and the drivers that ship lines send it along.

Source: moby daemon/logger/loginfo.go (ExtraAttributes), daemon/logger/loggerutils/log_tag.go,
daemon/server/httputils/write_log_stream.go.
"""

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote_plus

import proa_native

from proa.engine.record import Record
from proa.errors import InvalidParameter

_FIELD = re.compile(r"\{\{-?\s*\.(\w+)\s*-?\}\}")


def details(record: Record) -> str:
    """`key=value,key=value `, by key; a blank where the options name nothing."""
    options = log_options(record)
    found = dict(attributes(record, options))
    if template := options.get("tag", ""):
        found["tag"] = tag(record, template)
    return ",".join(f"{quote_plus(key)}={quote_plus(found[key])}" for key in sorted(found)) + " "


def log_options(record: Record) -> Mapping[str, str]:
    """Of its log driver."""
    log_config = record.resolved.host_config.log_config
    return (log_config.config if log_config is not None else None) or {}


def attributes(record: Record, options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Labels and environment that the options name. Raises InvalidParameter for a bad expression."""
    config = record.resolved.config
    environment = dict(entry.split("=", 1) for entry in config.env or () if "=" in entry)
    for option, values in (("labels", config.labels or {}), ("env", environment)):
        names = set(options.get(option, "").split(","))
        pattern = _pattern(option, options.get(f"{option}-regex", ""))
        for name, value in values.items():
            if name in names or (pattern is not None and pattern.found_in(name)):
                yield name, value


def tag(record: Record, template: str) -> str:
    """The template filled in; what is no field stays as it is written."""
    return _FIELD.sub(lambda match: _field(record, match[1]) or match[0], template)


def strict_tag(record: Record, template: str) -> str:
    """As `tag`, and raises InvalidParameter for what is no field."""
    for match in _FIELD.finditer(template):
        if _field(record, match[1]) is None:
            raise InvalidParameter(
                f'template: log-tag:1:{match.start() + 2}: executing "log-tag" at <.{match[1]}>: '
                f"can't evaluate field {match[1]} in type *logger.Info"
            )
    if "{{" in _FIELD.sub("", template):
        raise InvalidParameter(f"template: log-tag: only fields are supported by proa: {template}")
    return tag(record, template)


def command(record: Record) -> str:
    """Entrypoint and arguments."""
    return " ".join(record.resolved.plan.process.args)


def _pattern(option: str, text: str) -> proa_native.Expression | None:
    try:
        return proa_native.Expression(text) if text else None
    except ValueError as exc:
        raise InvalidParameter(f"invalid {option}-regex: {exc}") from exc


def _field(record: Record, name: str) -> str | None:
    """Of the tag's template."""
    image = record.resolved.config.image
    match name:
        case "ID":
            return record.id[:12]
        case "FullID" | "ContainerID":
            return record.id
        case "Name":
            return record.name
        case "ContainerName":
            return f"/{record.name}"
        case "ImageID":
            return record.image_id[:12]
        case "ImageFullID" | "ContainerImageID":
            return record.image_id
        case "ImageName" | "ContainerImageName":
            return image
        case "DaemonName":
            return "docker"
        case "Command":
            return command(record)
        case "Hostname":
            return os.uname().nodename
    return None

"""What `logs --details` puts before each line: labels and environment that the log's options name, its tag.

Source: moby daemon/logger/loginfo.go (ExtraAttributes), daemon/logger/loggerutils/log_tag.go,
daemon/server/httputils/write_log_stream.go.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote_plus

import proa_native

from proa.engine.record import Record
from proa.errors import InvalidParameter

_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")


def details(record: Record) -> str:
    """`key=value,key=value `, by key; a blank where the options name nothing."""
    log_config = record.resolved.host_config.log_config
    options = (log_config.config if log_config is not None else None) or {}
    found = dict(_attributes(record, options))
    return ",".join(f"{quote_plus(key)}={quote_plus(found[key])}" for key in sorted(found)) + " "


def _attributes(record: Record, options: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    config = record.resolved.config
    environment = dict(entry.split("=", 1) for entry in config.env or () if "=" in entry)
    for option, values in (("labels", config.labels or {}), ("env", environment)):
        names = set(options.get(option, "").split(","))
        pattern = _pattern(option, options.get(f"{option}-regex", ""))
        for name, value in values.items():
            if name in names or (pattern is not None and pattern.found_in(name)):
                yield name, value
    if tag := options.get("tag", ""):
        yield "tag", _FIELD.sub(lambda match: _field(record, match[1]), tag)


def _pattern(option: str, text: str) -> proa_native.Expression | None:
    try:
        return proa_native.Expression(text) if text else None
    except ValueError as exc:
        raise InvalidParameter(f"invalid {option}-regex: {exc}") from exc


def _field(record: Record, name: str) -> str:
    """Of the tag's template; what is no field of it stays as it is written."""
    image = record.resolved.config.image
    fields = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageID": record.image_id[:12],
        "ImageFullID": record.image_id,
        "ImageName": image,
        "DaemonName": "docker",
    }
    return fields.get(name, f"{{{{.{name}}}}}")

"""`RUN --mount=type=...,key=value`. Source: the Dockerfile reference, "RUN --mount"."""

import csv
import enum
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Struct, convert

from proa.errors import InvalidParameter
from proa.sizes import parse_size


class MountType(enum.Enum):
    """What is mounted."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Mount(Struct, frozen=True, kw_only=True):
    """One mount of one step.

    `target` is empty for the working directory; `id` names a cache, secret or agent; `size` is in bytes, 0
    for no limit; `env` is a secret's variable (empty: the id), None for a file.
    """

    type: MountType = MountType.BIND
    from_: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


_NAMES = {
    "type": "type",
    "from": "from_",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "readwrite": "read_only",
    "rw": "read_only",
    "required": "required",
    "size": "size",
    "id": "id",
    "sharing": "sharing",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "env": "env",
}
_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def parse_mount(text: str, expand: Callable[[str], str]) -> Mount:
    """Read a mount, replacing variables in its values. Raises InvalidParameter."""
    values: dict[str, Any] = {}
    for field in _fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals and key not in ("readonly", "ro", "readwrite", "rw", "required"):
            raise InvalidParameter(f"invalid field '{field}' must be a key=value pair")
        name = _NAMES.get(key)
        if name is None:
            raise InvalidParameter(f"unexpected key '{key}' in '{field}'")
        values[name] = _value(key, expand(value) if equals else "true", values)
    kind = values.setdefault("type", MountType.BIND)
    values.setdefault("read_only", kind not in (MountType.CACHE, MountType.TMPFS))
    mount = convert(values, Mount)
    _check(mount)
    return mount


def check_mount(text: str) -> None:
    """What can be said before variables are known. Raises InvalidParameter."""
    for field in _fields(text):
        key, _, value = field.partition("=")
        if key.lower() == "from" and "$" in value[:-1]:
            raise InvalidParameter("'from' doesn't support variable expansion, define alias stage instead")


def _fields(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as exc:
        raise InvalidParameter(f"failed to parse csv mounts: {exc}") from exc
    return rows[0] if rows else []


def _value(key: str, value: str, before: dict[str, Any]) -> Any:
    kind = before.get("type", MountType.BIND)
    match key:
        case "type":
            return _type(value)
        case "readonly" | "ro":
            return _bool(key, value)
        case "readwrite" | "rw":
            return not _bool(key, value)
        case "required":
            _only(key, kind, MountType.SECRET, MountType.SSH)
            return _bool(key, value)
        case "size":
            _only(key, kind, MountType.TMPFS)
            return _size(value)
        case "sharing":
            if value.lower() not in ("shared", "private", "locked"):
                raise InvalidParameter(f'unsupported sharing value "{value}"')
            return value.lower()
        case "mode" | "uid" | "gid":
            return _number(key, value)
    return value


def _type(value: str) -> MountType:
    try:
        return MountType(value.lower())
    except ValueError:
        raise InvalidParameter(f'unsupported mount type "{value}"') from None


def _only(key: str, kind: MountType, *allowed: MountType) -> None:
    if kind not in allowed:
        raise InvalidParameter(f"unexpected key '{key}' for mount type '{kind.value}'")


def _bool(key: str, value: str) -> bool:
    if value not in _TRUTH:
        raise InvalidParameter(f"invalid value for {key}: {value}")
    return _TRUTH[value]


def _size(value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as exc:
        raise InvalidParameter(f"invalid value for size: {value}") from exc


def _number(key: str, value: str) -> int:
    digits = "01234567" if key == "mode" else "0123456789"
    if not value or value.strip(digits) or (number := int(value, len(digits))) >= 1 << 32:
        raise InvalidParameter(f"invalid value {value} for {key}")
    return number


def _check(mount: Mount) -> None:
    kind = mount.type
    if kind in (MountType.BIND, MountType.TMPFS):
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise InvalidParameter(f'{name} not allowed for "{kind.value}" type mounts')
    if kind is MountType.SECRET:
        _check_secret(mount)
    if mount.sharing and kind is not MountType.CACHE:
        raise InvalidParameter(f"invalid cache sharing set for {kind.value} mount")


def _check_secret(mount: Mount) -> None:
    if mount.from_:
        _refuse("secret mount should not have a from")
    if mount.sharing:
        _refuse("secret mount should not define sharing")
    if not mount.source and not mount.target and not mount.id:
        _refuse("invalid secret mount. one of source, target required")
    if mount.source and mount.id:
        _refuse("both source and id can't be set")


def _refuse(text: str) -> NoReturn:
    raise InvalidParameter(text)

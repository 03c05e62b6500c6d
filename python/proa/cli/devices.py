"""The --device flag: a device of the host, or a name of the Container Device Interface.

Source: the observed behaviour of docker 28; the CDI specification ("Kind" and qualified names).
"""

import os

from proa.cli.failure import Failure


def is_cdi_name(text: str) -> bool:
    """Whether it reads `vendor.com/class=name`."""
    kind, equals, name = text.partition("=")
    vendor, slash, device_class = kind.partition("/")
    return bool(equals and slash and vendor and device_class and name) and vendor[0].isalpha()


def device_mapping(text: str) -> dict[str, str]:
    """The DeviceMapping of `/dev/a:/dev/b:rwm`. Raises Failure."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise Failure(f"bad format for path: {text}")
    source = parts[0]
    if len(parts) == 1:
        source = os.path.normpath(source)
        target, permissions = source, "rwm"
    elif len(parts) == 2 and _is_mode(parts[1]):
        source = os.path.normpath(source)
        target, permissions = source, parts[1]
    elif len(parts) == 2:
        target, permissions = os.path.normpath(parts[1]) if parts[1] else ".", "rwm"
    else:
        target, permissions = parts[1], parts[2]
        if not _is_mode(permissions):
            raise Failure(f"bad mode specified: {permissions}")
    if not target.startswith("/"):
        raise Failure(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


def _is_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)

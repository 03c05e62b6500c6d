"""A container's files on the wire. Source: the Docker Engine API, v1.51 (/containers/{id}/archive)."""

from msgspec import Struct


class PathStat(Struct, frozen=True, kw_only=True, rename="camel"):
    """The header X-Docker-Container-Path-Stat, as base64 of JSON."""

    name: str
    size: int
    mode: int
    """As Go's io/fs.FileMode numbers it."""
    mtime: str
    link_target: str = ""

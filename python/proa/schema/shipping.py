"""Where a container's log lines are shipped to, and how: what the keeper is told at the start.

Mirror of native/src/keeper/ship/config.rs, where the fields are explained.
"""

from typing import Literal

from msgspec import Struct


class Unix(Struct, frozen=True, tag_field="type", tag="unix"):
    """A stream socket."""

    path: str


class Unixgram(Struct, frozen=True, tag_field="type", tag="unixgram"):
    """A datagram socket."""

    path: str


class Tcp(Struct, frozen=True, tag_field="type", tag="tcp"):
    """`host` is an address or a name."""

    host: str
    port: int


class Udp(Struct, frozen=True, tag_field="type", tag="udp"):
    """`host` is an address or a name."""

    host: str
    port: int


Remote = Unix | Unixgram | Tcp | Udp


class Syslog(Struct, frozen=True, kw_only=True, tag_field="type", tag="syslog"):
    """`facility` is 0 to 23."""

    facility: int
    layout: Literal["unix", "rfc3164", "rfc5424", "rfc5424micro"]
    hostname: str
    tag: str


class Journald(Struct, frozen=True, kw_only=True, tag_field="type", tag="journald"):
    """Fields that are the same for every line."""

    fields: tuple[tuple[str, str], ...]


class Fluentd(Struct, frozen=True, kw_only=True, tag_field="type", tag="fluentd"):
    """`record`: what is the same in every record."""

    tag: str
    record: tuple[tuple[str, str], ...]
    sub_second: bool
    acknowledged: bool = False


class AsStream(Struct, frozen=True, tag_field="type", tag="stream"):
    """GELF by TCP."""


class Plain(Struct, frozen=True, tag_field="type", tag="plain"):
    """GELF by UDP, not compressed."""


class Gzip(Struct, frozen=True, tag_field="type", tag="gzip"):
    """`level` is 0 to 9."""

    level: int


class Zlib(Struct, frozen=True, tag_field="type", tag="zlib"):
    """`level` is 0 to 9."""

    level: int


class Gelf(Struct, frozen=True, kw_only=True, tag_field="type", tag="gelf"):
    """`extra`: the members that are the same in every message, as JSON without its braces."""

    hostname: str
    extra: str
    packing: AsStream | Plain | Gzip | Zlib


class Shipping(Struct, frozen=True, kw_only=True):
    """Where to, in which encoding, how long and how often. Times in nanoseconds, sizes in bytes."""

    id: str
    to: Remote
    format: Syslog | Journald | Fluentd | Gelf
    blocking: bool
    buffer: int
    attempts: int
    wait_ns: int
    longest_wait_ns: int
    stall_ns: int = 0
    renew_ns: int = 0

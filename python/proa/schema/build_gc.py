"""What is removed of the build cache by itself: `builder.gc` of the daemon's configuration.

    {"builder": {"gc": {"enabled": true, "defaultKeepStorage": "20GB"}}}
    {"builder": {"gc": {"enabled": true, "policy": [{"keepStorage": "5GB", "filter": ["unused-for=48h"]}]}}}

Off unless `enabled` says true. Rules are followed one after the other, after each build.

Source: Docker's documentation, "Build garbage collection"; moby daemon/config/builder.go.
"""

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from proa.errors import InvalidParameter
from proa.sizes import parse_size


class GcRule(Struct, frozen=True, kw_only=True):
    """One prune; sizes in bytes, 0 is no bound. `of_disk`: its bounds are shares of the disk."""

    all: bool = False
    filters: dict[str, tuple[str, ...]] = {}
    reserved: int = 0
    max_used: int = 0
    min_free: int = 0
    of_disk: bool = False


class _Policy(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    all: bool = False
    keep_storage: str = ""
    reserved_space: str = ""
    max_used_space: str = ""
    min_free_space: str = ""
    filter: list[str] = []


class _Gc(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    enabled: bool = False
    policy: list[_Policy] = []
    default_keep_storage: str = ""
    default_reserved_space: str = ""
    default_max_used_space: str = ""
    default_min_free_space: str = ""


class _Entitlements(Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    network_host: bool | None = None
    security_insecure: bool | None = None


class _Builder(Struct, frozen=True, forbid_unknown_fields=True):
    gc: _Gc = _Gc()
    entitlements: _Entitlements = _Entitlements()


def gc_rules(builder: dict[str, Any]) -> tuple[GcRule, ...]:
    """The rules of the key `builder`; none where it is off. Raises InvalidParameter."""
    try:
        gc = msgspec.convert(builder, _Builder).gc
    except msgspec.ValidationError as exc:
        raise InvalidParameter(f"invalid builder configuration: {exc}") from exc
    rules = tuple(map(_rule, gc.policy)) if gc.policy else _default(gc)
    return rules if gc.enabled else ()


def _rule(policy: _Policy) -> GcRule:
    filters: dict[str, tuple[str, ...]] = {}
    for text in policy.filter:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidParameter(f"invalid builder gc filter: {text}")
        filters[name] = (*filters.get(name, ()), value.removeprefix("="))
    return GcRule(
        all=policy.all,
        filters=filters,
        reserved=_size(policy.reserved_space or policy.keep_storage),
        max_used=_size(policy.max_used_space),
        min_free=_size(policy.min_free_space),
    )


def _default(gc: _Gc) -> tuple[GcRule, ...]:
    """Old cache mounts first, then what nobody used for long, then the rest, as in BuildKit."""
    rest = GcRule(
        reserved=_size(gc.default_reserved_space or gc.default_keep_storage),
        max_used=_size(gc.default_max_used_space),
        min_free=_size(gc.default_min_free_space),
    )
    if rest == GcRule():
        rest = GcRule(of_disk=True)
    mounts: dict[str, tuple[str, ...]] = {"type": ("exec.cachemount",), "until": ("48h",)}
    return (
        GcRule(filters=mounts, max_used=512 * 10**6),
        replace(rest, filters={"until": ("1440h",)}),
        rest,
        replace(rest, all=True),
    )


def _size(text: str) -> int:
    try:
        return parse_size(text) if text else 0
    except ValueError as exc:
        raise InvalidParameter(f"invalid builder gc size: {exc}") from exc

"""`builder.gc` of daemon.json: what it says is to be removed of the build cache."""

from typing import Any

import pytest

from proa.schema.build_gc import GcRule, gc_rules


@pytest.mark.parametrize("builder", [{}, {"gc": {}}, {"gc": {"enabled": False, "defaultKeepStorage": "1GB"}}])
def test_nothing_goes_unless_it_is_enabled(builder: dict[str, Any]) -> None:
    assert gc_rules(builder) == ()


def test_rules_of_ones_own() -> None:
    policy = [
        {"keepStorage": "512MB", "filter": ["unused-for=48h", "type==regular"]},
        {"reservedSpace": "1GB", "maxUsedSpace": "2GB", "minFreeSpace": "3k", "all": True},
    ]
    assert gc_rules({"gc": {"enabled": True, "policy": policy}, "entitlements": {"network-host": True}}) == (
        GcRule(reserved=512 << 20, filters={"unused-for": ("48h",), "type": ("regular",)}),
        GcRule(reserved=1 << 30, max_used=2 << 30, min_free=3 << 10, all=True),
    )


@pytest.mark.parametrize("key", ["defaultKeepStorage", "defaultReservedSpace"])
def test_rules_from_one_size(key: str) -> None:
    rules = gc_rules({"gc": {"enabled": True, key: "20GB"}})
    assert [rule.reserved for rule in rules[1:]] == [20 << 30] * 3
    assert rules[0].filters["type"] == ("exec.cachemount",)
    assert [rule.all for rule in rules] == [False, False, False, True]


def test_without_a_size_it_follows_from_the_disk() -> None:
    assert [rule.of_disk for rule in gc_rules({"gc": {"enabled": True}})] == [False, True, True, True]

"""Lengths of time as Go writes them."""

import pytest

from proa.durations import go_duration, parse_duration
from proa.errors import InvalidParameter


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (100_000_000, "100ms"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_723_500_000_000, "1h2m3.5s"),
    ],
)
def test_there_and_back(ns: int, text: str) -> None:
    assert go_duration(ns) == text
    assert parse_duration(text) == ns


@pytest.mark.parametrize(("text", "ns"), [("-1h", -3_600_000_000_000), ("+1.5s", 1_500_000_000)])
def test_signs(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text", ["", "-", "+", "1", "h", "1x", "--1s", "1..5s", "9" * 400 + "h", "300000000h"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"invalid duration|missing unit|unknown unit"):
        parse_duration(text)

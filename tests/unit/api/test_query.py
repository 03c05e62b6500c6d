"""Query strings, as dockerd reads them."""

import pytest

from proa.api.query import Query, parse_time
from proa.errors import InvalidParameter

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("raw", "flag"),
    [
        ("", False),
        ("v", False),
        ("v=", False),
        ("v=0", False),
        ("v=no", False),
        ("v=False", False),
        ("v=none", False),
        ("v=1", True),
        ("v=true", True),
        ("v=True", True),
        ("v=yes", True),
        ("v=+1+", True),
    ],
)
def test_flags(raw: str, flag: bool) -> None:
    assert Query(raw).flag("v") is flag


def test_a_flag_that_is_absent_has_its_default() -> None:
    assert Query("x=1").flag("stream", True) is True
    assert Query("stream=").flag("stream", True) is False


def test_values_are_decoded_and_may_repeat() -> None:
    query = Query("names=a%2Fb&names=c+d&=x&&t=-1")
    assert query.texts("names") == ["a/b", "c d"]
    assert query.text("names") == "a/b"
    assert query.optional("nosuch") is None
    assert query.number("t") == -1
    assert query.number("nosuch") is None
    with pytest.raises(InvalidParameter, match='parsing "x": invalid syntax'):
        Query("t=x").number("t")


@pytest.mark.parametrize("value", ["1_0", "٣", " 1", str(1 << 63), "9" * 5000, "1e3"])
def test_numbers_are_int64(value: str) -> None:
    assert Query(f"t={(1 << 63) - 1}").number("t") == (1 << 63) - 1
    with pytest.raises(InvalidParameter, match=r"invalid syntax|value out of range"):
        Query(f"t={value}").number("t")


@pytest.mark.parametrize("value", ["9" * 5000, "9" * 400 + "h", "-" + "9" * 30, "0001-01-01T00:00:00+23:59"])
def test_times_far_away_are_refused_or_the_farthest(value: str) -> None:
    try:
        assert abs(Query(f"since={value}".replace("+", "%2B")).time_ns("since")) < 1 << 63
    except InvalidParameter as exc:
        assert 'invalid value for "since"' in str(exc)  # noqa: PT017


@pytest.mark.parametrize("value", ["", "x", "-1", "4294967296", "1.5", "9" * 5000])
def test_sizes_are_uint32(value: str) -> None:
    assert Query("h=24").size("h", "height") == 24
    with pytest.raises(InvalidParameter, match="invalid resize height"):
        Query(f"h={value}").size("h", "height")


@pytest.mark.parametrize(
    ("raw", "filters"),
    [
        ("", {}),
        ("filters=", {}),
        ("filters={}", {}),
        ('filters={"name":{"a":true,"b":true}}', {"name": ["a", "b"]}),
        ('filters={"name":["a"],"label":["x=y"]}', {"name": ["a"], "label": ["x=y"]}),
        ("filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D", {"dangling": ["true"]}),
    ],
)
def test_filters(raw: str, filters: dict[str, list[str]]) -> None:
    assert Query(raw).filters() == filters


@pytest.mark.parametrize("value", ["x", "[]", '{"a":1}', '{"a":[1]}', '{"a":"b"}', "{", '{"a":' * 5000])
def test_bad_filters(value: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        Query(f"filters={value}").filters()


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("1", 10**9),
        ("1700000000.000000001", NOW + 1),
        ("1700000000.5", NOW + 500_000_000),
        ("1700000000.1234567891", NOW + 123_456_789),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.000000007Z", NOW + 7),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14T22:13", NOW - 20 * 10**9),
        ("2023-11-14T22", NOW - 800 * 10**9),
        ("2023-11-14", NOW - 80_000 * 10**9),
        ("10m", NOW - 600 * 10**9),
        ("1h30m", NOW - 5400 * 10**9),
        ("1.5s", NOW - 1_500_000_000),
    ],
)
def test_times(value: str, nanoseconds: int) -> None:
    assert parse_time(value, NOW) == nanoseconds


@pytest.mark.parametrize("value", ["x", "1x", "2023-13-01", "2023-11-14T25:00:00Z", "m"])
def test_what_is_no_time(value: str) -> None:
    with pytest.raises(ValueError, match=r"failed to parse|month|hour"):
        parse_time(value, NOW)


def test_bad_times_name_their_parameter() -> None:
    for value in ("x", "2023-13-01"):
        with pytest.raises(InvalidParameter, match='invalid value for "since"'):
            Query(f"since={value}").time_ns("since")
    assert Query("since=0").time_ns("since") == 0

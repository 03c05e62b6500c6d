"""Filters of `builder prune`: which entries of the cache they mean."""

import pytest

from proa.engine.builds.pruning import Space, _Candidate, _tests
from proa.errors import InvalidParameter
from proa.schema.build import BuildCacheRecord


def entry(**more: object) -> _Candidate:
    fields = {"id": "abc", "description": "RUN x", "created_at": "", "last_used_at": "", **more}
    return _Candidate(BuildCacheRecord(**fields), 0)


@pytest.mark.parametrize(
    ("filters", "shared", "passes"),
    [
        ({"shared": ["true"]}, True, True),
        ({"shared": ["1"]}, False, False),
        ({"shared": [""]}, False, False),
        ({"private": ["true"]}, False, True),
        ({"private": ["true"]}, True, False),
        ({"shared": ["false"]}, False, True),
        ({"inuse": ["0"]}, False, True),
        ({"inuse": ["1"]}, False, False),
        ({"description": ["RUN x"]}, False, True),
        ({"description": ["RUN y"]}, False, False),
        ({"id": ["ab"], "type": ["regular"]}, False, True),
    ],
)
def test_what_passes(filters: dict[str, list[str]], shared: bool, passes: bool) -> None:
    assert _tests(filters)(entry(shared=shared)) is passes


@pytest.mark.parametrize(
    ("space", "used", "free", "kept"),
    [
        (Space(least=10), 50, 5, 10),
        (Space(most=20), 50, 5, 20),
        (Space(most=20, least=30), 50, 5, 30),
        (Space(free=15), 50, 5, 40),
        (Space(free=100), 50, 5, 0),
        (Space(free=100, least=10), 50, 5, 10),
        (Space(free=4), 50, 5, 50),
        (Space(free=15, most=45), 50, 5, 40),
        (Space(free=15, most=35), 50, 5, 35),
    ],
)
def test_what_may_stay(space: Space, used: int, free: int, kept: int) -> None:
    assert space.bounded
    assert space.to_keep(used, free) == kept


def test_parents_and_ages() -> None:
    assert _tests({"parent": ["p"]})(entry(parents=["p"]))
    assert not _tests({"parent": ["q"]})(entry(parents=["p"]))
    assert not _tests({"parent": ["q"]})(entry())
    assert _tests({"until": ["1h"]})(entry())
    assert _tests({"unused-for": ["1h"]})(entry())
    assert not _tests({"until": ["1960-01-01"]})(entry())


@pytest.mark.parametrize(
    "filters",
    [
        {"id": ["x", "y"]},
        {"until": ["1h"], "unused-for": ["1h"]},
        {"none": ["x"]},
        {"shared": ["maybe"]},
        {"until": ["1h", "2h"]},
    ],
)
def test_filters_that_cannot_be(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        _tests(filters)

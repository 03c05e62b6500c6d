"""Filters of `builder prune`: which entries of the cache they mean."""

import pytest

from proa.engine.builds.pruning import _Candidate, _tests
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


@pytest.mark.parametrize("filters", [{"none": ["x"]}, {"shared": ["maybe"]}, {"until": ["1h", "2h"]}])
def test_filters_that_cannot_be(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        _tests(filters)

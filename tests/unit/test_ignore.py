"""Which paths .dockerignore leaves out."""

import pytest

from proa.errors import InvalidParameter
from proa.ignore import Patterns, read_ignore_file


@pytest.mark.parametrize(
    ("patterns", "path", "left_out"),
    [
        (["a"], "a", True),
        (["a"], "a/b/c", True),
        (["a"], "b/a", False),
        (["/a/"], "a", True),
        (["**"], "anything/at/all", True),
        (["**/"], "file", True),
        (["**/a"], "a", True),
        (["**/a"], "x/y/a", True),
        (["**/a"], "x/ya", False),
        (["a/**/c"], "a/c", True),
        (["a/**/c"], "a/b/b/c", True),
        (["a/**"], "a", False),
        (["a/**"], "a/b", True),
        (["*"], "a/b", True),
        (["*.go"], "a.go", True),
        (["*.go"], "x/a.go", False),
        (["*/x"], "a/x", True),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["[a-c]x"], "bx", True),
        (["[^a]x"], "bx", True),
        (["[^a]x"], "ax", False),
        (["a\\*b"], "a*b", True),
        (["a\\*b"], "axb", False),
        (["a.b$"], "a.b$", True),
        (["a.b"], "axb", False),
        (["*", "!a"], "a", False),
        (["*", "!a"], "a/b", False),
        (["*", "!a", "a/b"], "a/b", True),
        (["a", "!a/b"], "a/b/c", False),
        (["a", "!a/b"], "a/c", True),
        (["!a", "a"], "a", True),
        ([""], "a", False),
        (["x/../a"], "a", True),
    ],
)
def test_the_last_fitting_pattern_decides(patterns: list[str], path: str, left_out: bool) -> None:
    assert Patterns(patterns).leaves_out(path) is left_out


@pytest.mark.parametrize("pattern", ["!", "a[", "a\\", "[]a"])
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(InvalidParameter):
        Patterns([pattern])


@pytest.mark.parametrize(
    ("pattern", "directory", "may"),
    [
        ("!a/b", "a", True),
        ("!a/b", "c", False),
        ("!**/x", "c", True),
        ("!a/*/x", "a/y", True),
        ("!ab", "a", False),
    ],
)
def test_a_directory_is_entered_where_something_below_may_be_wanted(
    pattern: str, directory: str, may: bool
) -> None:
    assert Patterns(["*", pattern]).may_take_back(directory) is may


def test_what_is_above_need_not_be_matched_again() -> None:
    patterns = Patterns(["a", "!a/b"])
    left_out, above = patterns.fit("a")
    assert left_out
    assert patterns.fit("a/c", above)[0]
    assert not patterns.fit("a/b", above)[0]


def test_an_ignore_file() -> None:
    text = "\ufeff# comment\n\n  a/ \n/b//c\n! d\n#x\n ./e\n!\n"
    assert read_ignore_file(text) == ["a", "b/c", "!d", "e", "!"]

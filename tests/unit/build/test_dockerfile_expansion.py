"""Words of a Dockerfile: quotes, escapes, variables and their modifiers."""

import random
from fnmatch import fnmatchcase

import pytest

from proa.build.dockerfile.expansion import Expander, expand, expand_words
from proa.build.words import go_quoted
from proa.errors import InvalidParameter

SET = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": "", "p": "a/b/c.tar.gz"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ('he"\'"llo', "he'llo"),
        ("he\\'llo", "he'llo"),
        ("'he\\llo'", "he\\llo"),
        ('"he\\llo"', "he\\llo"),
        ('"he\\"llo"', 'he"llo'),
        ("he\\\\llo", "he\\llo"),
        ("a\\", "a"),
        ("$PWD", "/home"),
        ("'$PWD'", "$PWD"),
        ('"$PWD"', "/home"),
        ("\\$PWD", "$PWD"),
        ("x$PWDx", "x"),
        ("x${PWD}x", "x/homex"),
        ("${KOREAN}글", "한국어글"),
        ("$", "$"),
        ("a$/b", "a$/b"),
        ("$1x", "x"),
        ("${NONE:-w}", "w"),
        ("${NULL:-w}", "w"),
        ("${NULL-w}", ""),
        ("${NONE-$PWD}", "/home"),
        ("${NONE:-${PWD}/x}", "/home/x"),
        ("${PWD:+w}", "w"),
        ("${NULL:+w}", ""),
        ("${NULL+w}", "w"),
        ("${NONE+w}", ""),
        ("${PWD:?no}", "/home"),
        ("${p#*/}", "b/c.tar.gz"),
        ("${p##*/}", "c.tar.gz"),
        ("${p%.*}", "a/b/c.tar"),
        ("${p%%.*}", "a/b/c"),
        ("${p#x}", "a/b/c.tar.gz"),
        ("${p%z}", "a/b/c.tar.g"),
        ("${p/\\//_}", "a_b/c.tar.gz"),
        ("${p//\\//_}", "a_b_c.tar.gz"),
        ("${p/b?c/x}", "a/x.tar.gz"),
        ("<<EOF", "<<EOF"),
    ],
)
def test_texts(text: str, wanted: str) -> None:
    assert expand(text, SET) == wanted


@pytest.mark.parametrize("modifier", ["#", "##", "%", "%%", "/"])
def test_a_pattern_takes_no_time_out_of_proportion(modifier: str) -> None:
    stars = "*a" * 30
    value = "a" * 200
    end = "/x" if modifier == "/" else ""
    assert expand(f"${{v{modifier}b{stars}b{end}}}", {"v": value}) == value
    assert expand(f"${{v{modifier}{stars}*b*{stars}{end}}}", {"v": value}) == value


@pytest.mark.parametrize("seed", range(20))
def test_what_is_cut_off_is_the_shortest_or_longest_that_fits(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        pattern = "".join(chance.choice("ab*?") for _ in range(chance.randrange(1, 7)))
        value = "".join(chance.choice("ab") for _ in range(chance.randrange(12)))
        starts = [n for n in range(len(value) + 1) if fnmatchcase(value[:n], pattern)] or [0]
        ends = [n for n in range(len(value) + 1) if fnmatchcase(value[n:], pattern)] or [len(value)]
        wanted = {"#": value[starts[0] :], "%": value[: ends[-1]]}
        wanted |= {"##": value[starts[-1] :], "%%": value[: ends[0]]}
        for modifier, text in wanted.items():
            assert expand(f"${{v{modifier}{pattern}}}", {"v": value}) == text, (value, modifier, pattern)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("a 'b c' d", ["a", "b c", "d"]),
        ("a\\ b c", ["a b", "c"]),
        ("$WORDS x", ["one", "two", "x"]),
        ('"$WORDS" x', ["one two", "x"]),
        ("", []),
    ],
)
def test_splitting_comes_after_replacing_and_spares_quotes(text: str, wanted: list[str]) -> None:
    assert expand_words(text, {"WORDS": "one two"}) == wanted


def test_the_escape_character_may_be_a_backtick() -> None:
    assert expand("C:\\x `$a $a", {"a": "1"}, "`") == "C:\\x $a 1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${x", "unsupported modifier (\ufffd) in substitution"),
        ("${x:-y", "syntax error: missing '}'"),
        ("${x:#y}", "unsupported modifier (:#) in substitution"),
        ("${x*}", "unsupported modifier (*) in substitution"),
        ("${x/y}", "syntax error: missing '/' in ${}"),
        ("${NONE?}", "NONE: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${NONE:?say why}", "NONE: say why"),
        ("${x#\\a}", "invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ("'x", "unexpected end of statement while looking for matching single-quote"),
        ('"x', "unexpected end of statement while looking for matching double-quote"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, complaint: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        expand(text, SET)
    assert str(caught.value) == f"failed to process {go_quoted(text)}: {complaint}"


def test_variables_are_counted_as_found_or_missing() -> None:
    expander = Expander("$PWD ${NONE:-x} $SHELL", SET)
    expander.run()
    assert (expander.matched, expander.unmatched) == ({"PWD", "SHELL"}, {"NONE"})


def test_unknown_ones_may_stay_as_written() -> None:
    text = "$NONE ${NONE} ${NONE:-x} $PWD"
    assert Expander(text, SET, skip_unset=True).run()[0] == "$NONE ${NONE} ${NONE:-x} /home"

"""Typing errors: what was meant is said on a terminal, and Docker's own text stays for programs."""

import pytest

from proa.cli.failure import Failure
from proa.cli.flags import Globals
from proa.cli.main import dispatch


def _failure(*words: str) -> str:
    with pytest.raises(Failure) as caught:
        dispatch(list(words), Globals())
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("rnu", "busybox"), "run"),
        (("imgaes",), "images"),
        (("netwrok", "ls"), "network"),
        (("container", "strat", "x"), "start"),
        (("run", "--nmae", "x", "busybox"), "--name"),
    ],
)
def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], meant: str) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: fd == 2)
    text = _failure(*words)
    assert f"\nDid you mean '{meant}'?\n\n" in text


@pytest.mark.parametrize("words", [("qqqqqq",), ("container", "qqqqqq"), ("ps", "--qqqqqq")])
def test_nothing_is_near(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: fd == 2)
    assert "mean" not in _failure(*words)


def test_programs_read_dockers_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: False)
    assert _failure("rnu") == "proa: unknown command: proa rnu\n\nRun 'proa --help' for more information"
    assert _failure("ps", "--lsat").startswith("unknown flag: --lsat\n\nUsage:  proa ps [OPTIONS]\n\n")

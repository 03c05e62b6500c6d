"""URLs of git repositories: what they ask for, and what is refused."""

import pytest

from proa.build.git import GitUrl, _apart, parse_git
from proa.errors import InvalidParameter

URL = "https://h/r.git"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (URL, {}),
        ("github.com/a/b", {"remote": "https://github.com/a/b"}),
        (f"{URL}#v1", {"reference": "v1"}),
        (f"{URL}#:d/e", {"directory": "d/e"}),
        (f"{URL}#refs/heads/x:d", {"reference": "refs/heads/x", "directory": "d"}),
        (f"{URL}?ref=x&subdir=d", {"reference": "x", "directory": "d"}),
        (f"{URL}?branch=x", {"reference": "refs/heads/x"}),
        (f"{URL}?tag=refs/tags/v1", {"reference": "refs/tags/v1"}),
        (f"{URL}?tag=v1#refs/tags/v1", {"reference": "refs/tags/v1"}),
        (f"{URL}?tag=v1&commit=ab12", {"reference": "refs/tags/v1", "checksum": "ab12"}),
        (f"{URL}?checksum=ab12", {"checksum": "ab12"}),
        (f"{URL}?commit={'a' * 40}", {"reference": "a" * 40, "checksum": "a" * 40}),
        (f"{URL}?keep-git-dir=1&submodules=false", {"keep_git_dir": True, "submodules": False}),
        ("git@h:a/b.git#x", {"remote": "git@h:a/b.git", "reference": "x"}),
        ("ssh://git@h/b.git", {"remote": "ssh://git@h/b.git"}),
    ],
)
def test_what_a_url_asks_for(url: str, wanted: dict[str, object]) -> None:
    assert parse_git(url) == GitUrl(**{"remote": URL, **wanted})


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"{URL}?none=x", 'unexpected query "none"'),
        (f"{URL}?ref=", 'query "ref" has no value'),
        (f"{URL}?ref=x&ref=y", 'query "ref" has multiple values'),
        (f"{URL}?ref=x#y", 'ref conflicts: "y" vs "x"'),
        (f"{URL}?branch=x&tag=x", 'tag conflicts: "refs/heads/x" vs "refs/tags/x"'),
        (f"{URL}?submodules=maybe", 'invalid submodules value: "maybe"'),
        (f"{URL}?subdir=../..", "invalid git subdirectory"),
        (f"{URL}?ref=--upload-pack", "invalid git reference"),
        (f"{URL}#a..b", "invalid git reference"),
        (f"{URL}#main:/etc", "invalid git subdirectory"),
        ("https://-x/r.git", "invalid git URL"),
    ],
)
def test_what_is_refused(url: str, error: str) -> None:
    with pytest.raises(InvalidParameter, match=error.replace("?", r"\?")):
        parse_git(url)


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://user:secret@h/r@x.git", "https://h/r@x.git"),
        (URL, URL),
        ("git@h:a/b.git", "git@h:a/b.git"),
    ],
)
def test_credentials_stand_in_no_image(remote: str, shown: str) -> None:
    bare, options, secrets = _apart(remote)
    assert bare == shown
    assert bool(options) == bool(secrets) == (bare != remote)
    assert not [option for option in options if "secret" in option]


@pytest.mark.parametrize(
    "remote",
    ["https://u:p@h.helper=!touch /x/.git", "https://u:p%0aquit=1@h/r.git"],
)
def test_credentials_that_git_would_misunderstand(remote: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid git URL"):
        _apart(remote)

"""`--chown`: what names and numbers mean, with and without the files that say so."""

from pathlib import Path

import pytest

from proa.build.owners import owner_of
from proa.errors import InvalidParameter


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root that knows some users and groups."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:\nweb:x:7:8::/:\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nstaff:x:50:\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("web", (7, 8)),
        ("web:staff", (7, 50)),
        ("7", (7, 7)),
        ("7:staff", (7, 50)),
        ("12:34", (12, 34)),
        ("web:", (7, 8)),
        ("root", (0, 0)),
        (":50", (0, 50)),
        (":staff", (0, 50)),
        ("nobody", (0, 0)),
        ("web:nobody", (7, 8)),
        ("nobody:staff", (0, 50)),
    ],
)
def test_who_it_is(root: str, text: str, owner: tuple[int, int]) -> None:
    assert owner_of(text, [root]) == owner


@pytest.mark.parametrize("text", ["root", "root:root", "0", "5:root"])
def test_root_and_numbers_need_no_files(tmp_path: Path, text: str) -> None:
    assert owner_of(text, [str(tmp_path)]) == (5 if text.startswith("5") else 0, 0)


@pytest.mark.parametrize("text", ["web", "7:staff", "4294967295"])
def test_without_files_nobody_can_say(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidParameter):
        owner_of(text, [str(tmp_path)])

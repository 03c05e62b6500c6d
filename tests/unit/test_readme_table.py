"""The table of what shows which promise names what is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ROWS = [line for line in (TESTS / "README.md").read_text().splitlines() if "::" in line]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_what_is_named_is_there(row: str) -> None:
    named = re.findall(r"`([a-z0-9_./]+)::([a-z0-9_]+)`", row)
    assert named
    for path, name in named:
        text = (TESTS.parent / path).read_text()
        definition = rf'\b(def|fn) {name}\(|"{name}' if path.startswith(("tests", "native")) else name
        assert re.search(definition, text), f"{path}::{name}"

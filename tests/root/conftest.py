"""One real daemon for all tests of real namespaces, a keeper for those that want it bare; their marker."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, instance, require_root
from keeper_rig import Rig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Instance]:
    """A proad on roots of its own, with busybox:latest."""
    root = Path(tempfile.mkdtemp(prefix="proa-root-"))
    with instance(root) as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A keeper alone, spoken to in its own protocol."""
    require_root()
    rig = Rig(tmp_path)
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()

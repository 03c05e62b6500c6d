"""One real daemon for all tests of real namespaces, and the marker they carry."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, instance


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

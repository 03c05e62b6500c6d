"""One real daemon for all tests that drive the API through its clients."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, instance


@pytest.fixture(scope="session")
def daemon() -> Iterator[Instance]:
    """A proad on roots of its own, with busybox:latest."""
    root = Path(tempfile.mkdtemp(prefix="proa-api-"))
    with instance(root) as running:
        yield running

"""A registry for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_thread import RegistryThread


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryThread]:
    with RegistryThread(tmp_path / "registry") as running:
        yield running

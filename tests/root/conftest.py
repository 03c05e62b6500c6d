"""One real daemon for all tests of real namespaces, a keeper for those that want it bare; their marker."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from instance import Instance, instance, require_root
from keeper_rig import Rig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests run on the loop that the daemon runs on."""
    return {"uvloop": uvloop.new_event_loop}


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

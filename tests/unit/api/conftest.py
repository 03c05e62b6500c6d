"""The API server over a fake engine, on a real unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from fake_engine import FakeEngine
from raw_client import RawClient
from server_thread import ServerThread

from proa.api.server import Limits, Server, serve
from proa.schema.config import DaemonConfig


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests run on the loop that the daemon runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
async def server(engine: FakeEngine, limits: Limits, address: Path) -> AsyncIterator[Server]:
    """A server in the test's own loop."""
    server = await serve(engine, DaemonConfig(hosts=(f"unix://{address}",)), limits)
    yield server
    await server.close()


@pytest.fixture
async def connect(server: Server, address: Path) -> AsyncIterator[Callable[[], RawClient]]:
    """Opens raw connections to the server."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(RawClient(address)))


@pytest.fixture
def threaded(address: Path) -> Iterator[ServerThread]:
    with ServerThread(address) as running:
        yield running

"""The loop of what the daemon does, and registries that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from registry_rig import Rig
from scripted_registry import ScriptedRegistry


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests run on the loop that the daemon runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def rig(server: ScriptedRegistry) -> AsyncIterator[Rig]:
    rig = Rig(server)
    yield rig
    await rig.client.close()

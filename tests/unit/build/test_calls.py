"""Work that a cancelled build leaves behind: threads are waited for, tasks go with the contexts."""

import asyncio
import threading
from pathlib import Path

import pytest

from proa.build.calls import to_its_end
from proa.build.contexts import Contexts
from proa.registry import Registry, RegistrySettings


async def test_a_cancelled_call_is_waited_for() -> None:
    begun, goes_on, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        goes_on.wait(10)
        ended.set()
        raise OSError("nobody asks any more")

    task = asyncio.create_task(to_its_end(loop.run_in_executor(None, work)))
    await begun.wait()
    task.cancel()
    loop.call_soon(goes_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_outcome_is_passed_on() -> None:
    loop = asyncio.get_running_loop()
    assert await to_its_end(loop.run_in_executor(None, lambda: 7)) == 7


async def test_what_is_under_way_ends_with_the_contexts(tmp_path: Path) -> None:
    contexts = Contexts(tmp_path, None, None, Registry(RegistrySettings(certs_dirs=())))
    async with contexts:
        task = contexts.task(asyncio.Event().wait())
        with contexts.hold():
            await asyncio.sleep(0)
        assert not task.done()
    assert task.cancelled()
    assert not [*tmp_path.iterdir()]

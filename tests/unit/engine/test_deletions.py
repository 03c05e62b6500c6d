"""Deletion in batches: everything goes, failures harm nobody, a backlog makes removals wait."""

import asyncio
import threading

import pytest

from proa.engine import deletions as module
from proa.engine.deletions import Deletions


async def test_everything_goes_in_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    deletions = Deletions(gone.append)
    for number in range(10):
        deletions.add(str(number))
    assert gone == []
    await deletions.settle()
    assert gone == [str(n) for n in range(10)]
    await deletions.settle()


async def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[str] = []

    def delete(id_: str) -> None:
        if id_ == "bad":
            raise OSError(5, "Input/output error")
        gone.append(id_)

    deletions = Deletions(delete)
    for id_ in ("a", "bad", "b"):
        deletions.add(id_)
    await deletions.settle()
    assert gone == ["a", "b"]
    assert "unable to remove the directories of bad" in caplog.text


async def test_a_backlog_makes_the_next_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 2)
    go = threading.Event()
    deletions = Deletions(lambda _: bool(go.wait(5)))
    deletions.add("a")
    await deletions.room()
    deletions.add("b")
    waiting = asyncio.ensure_future(deletions.room())
    await asyncio.sleep(0)
    assert waiting.done()  # a batch has taken both
    deletions.add("c")
    deletions.add("d")
    waiting = asyncio.ensure_future(deletions.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    await waiting
    await deletions.settle()

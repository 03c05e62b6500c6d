"""What a build tells, to whoever follows it: in time, or when it is over."""

import asyncio

import pytest

from proa.buildkit import messages, status
from proa.buildkit.status import Status


def telling(told: Status, *texts: str) -> None:
    for text in texts:
        told.event({"output": {"number": 1, "stream": 1, "text": text}})


async def followed(told: Status) -> list[str]:
    responses = [messages.StatusResponse.FromString(response) async for response in told.follow()]
    return [log.msg.decode() for response in responses for log in response.logs]


@pytest.fixture
def told() -> Status:
    made = Status("ref")
    made.event({"vertex": {"number": 1, "title": "step"}})
    return made


async def test_followers_hear_everything(told: Status) -> None:
    telling(told, "a")
    early = [asyncio.create_task(followed(told)) for _ in range(2)]
    await asyncio.sleep(0)
    telling(told, "b")
    await asyncio.sleep(0)
    telling(told, "c")
    told.close()
    assert [await each for each in early] == [["a", "b", "c"]] * 2
    assert await followed(told) == ["a", "b", "c"]


async def test_what_is_over_is_kept_within_bounds(told: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_KEPT", 1000)
    texts = [f"{number:04}" for number in range(1000)]
    early = asyncio.create_task(followed(told))
    await asyncio.sleep(0)
    telling(told, *texts)
    told.close()
    assert await early == texts
    late = await followed(told)
    assert 0 < len(late) < 100
    assert late == texts[-len(late) :]

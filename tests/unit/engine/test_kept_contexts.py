"""Directories of clients', kept from one build to the next."""

from pathlib import Path

import pytest

from proa.engine.builds import kept
from proa.engine.builds.kept import KeptContexts, Place


@pytest.fixture
def contexts(tmp_path: Path) -> KeptContexts:
    return KeptContexts(tmp_path, None)


async def filled(contexts: KeptContexts, key: str, *, size: int = 1, whole: bool = True) -> Place:
    async with contexts.borrow(key, "context") as place:
        (place.path / "file").touch()
        place.size, place.whole = size, whole
    return place


async def test_what_is_whole_is_lent_again(contexts: KeptContexts) -> None:
    first = await filled(contexts, "k")
    assert await filled(contexts, "other") is not first
    async with contexts.borrow("k", "context") as place:
        assert place is first
        assert place.in_use
        assert (place.path / "file").exists()
    assert first.uses == 2


async def test_what_is_not_whole_goes(contexts: KeptContexts, tmp_path: Path) -> None:
    await filled(contexts, "k", whole=False)
    with pytest.raises(RuntimeError):
        async with contexts.borrow("k", "context"):
            raise RuntimeError
    first = await filled(contexts, "k")
    async with contexts.borrow("k", "context") as place:
        assert place is first  # and is given back without having been filled
    assert contexts.all() == []
    assert list(tmp_path.iterdir()) == []


async def test_two_at_once_have_places_of_their_own(contexts: KeptContexts, tmp_path: Path) -> None:
    async with contexts.borrow("k", "context") as first:
        second = await filled(contexts, "k")
        assert second is not first
        assert not second.path.exists()
        first.whole = True
    assert contexts.all() == [first]
    assert [path.name for path in tmp_path.iterdir()] == [first.id]


async def test_those_used_longest_ago_go_past_the_bounds(
    contexts: KeptContexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_PLACES", 3)
    monkeypatch.setattr(kept, "_BYTES", 100)
    for key in "abcd":
        await filled(contexts, key)
    await filled(contexts, "b")
    assert [place.key for place in contexts.all()] == ["c", "d", "b"]
    async with contexts.borrow("c", "context") as lent:
        lent.whole = True
        await filled(contexts, "e", size=99)
        assert [place.key for place in contexts.all()] == ["c", "e"]
    await filled(contexts, "giant", size=101)
    assert contexts.all() == []
    assert list(tmp_path.iterdir()) == []


async def test_removal_passes_over_what_is_lent(contexts: KeptContexts) -> None:
    place = await filled(contexts, "k")
    async with contexts.borrow("k", "context"):
        await contexts.remove(place.id)
        assert place.path.exists()
        place.whole = True
    await contexts.remove(place.id)
    await contexts.remove("unknown")
    assert contexts.all() == []
    assert not place.path.exists()

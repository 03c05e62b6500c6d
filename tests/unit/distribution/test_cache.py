"""The pull-through cache in front of an upstream that counts, fails and lies."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from registry_thread import MANIFEST, digest_of, image

from proa.distribution.cache import Cache
from proa.distribution.downloads import Download, Downloads
from proa.distribution.failures import Refusal
from proa.distribution.manifests import parse
from proa.distribution.repositories import Link, Stored
from proa.errors import NotFound, System, Unavailable
from proa.registry import Interrupted, Manifest
from proa.registryd import Rooms
from proa.schema.oci import Descriptor
from proa.schema.reference import Reference

LAYER = bytes(range(256)) * 4096
CONFIG = b"{}"
DATA = image(CONFIG, LAYER)
DIGEST = digest_of(LAYER)
STORED = Stored(digest_of(DATA), MANIFEST, DATA)


class FakeUpstream:
    """A registry with one repository, `r`."""

    def __init__(self) -> None:
        self.repositories = {"r"}
        self.tagged = {"latest": DATA}
        self.blobs = {DIGEST: LAYER, digest_of(CONFIG): CONFIG}
        self.calls: Counter[str] = Counter()
        self.offsets: list[int] = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.cut_after = 0

    def _called(self, what: str) -> None:
        self.calls[what] += 1
        if self.down:
            raise Unavailable("no route to host")

    def _find(self, ref: Reference) -> bytes | None:
        if ref.path not in self.repositories:
            return None
        if ref.digest:
            return next((data for data in self.tagged.values() if digest_of(data) == ref.digest), None)
        return self.tagged.get(ref.tag)

    async def head(self, ref: Reference, credentials: object = None) -> Descriptor | None:
        self._called("head")
        data = self._find(ref)
        return Descriptor(media_type=MANIFEST, digest=digest_of(data), size=len(data)) if data else None

    async def resolve(self, ref: Reference, credentials: object = None) -> Manifest:
        self._called("resolve")
        await self.gate.wait()
        data = self._find(ref)
        if data is None:
            raise NotFound("manifest unknown")
        described = Descriptor(media_type=MANIFEST, digest=digest_of(data), size=len(data))
        return Manifest(descriptor=described, data=data, host="upstream", content=None)

    async def has_blob(self, ref: Reference, digest: str, credentials: object = None) -> bool:
        self._called("has_blob")
        return ref.path in self.repositories and digest in self.blobs

    @asynccontextmanager
    async def blob(
        self, ref: Reference, descriptor: Descriptor, credentials: object = None, *, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self._called("blob")
        self.offsets.append(offset)

        async def chunks() -> AsyncIterator[bytes]:
            data = self.blobs[descriptor.digest]
            end = min(len(data), offset + self.cut_after) if self.cut_after else len(data)
            for start in range(offset, end, 100_000):
                await self.gate.wait()
                yield data[start : min(end, start + 100_000)]
            if end < len(data):
                raise Interrupted("cut")

        yield chunks()

    async def tags(self, ref: Reference, credentials: object = None) -> list[str]:
        self._called("tags")
        return list(self.tagged)

    async def referrers(self, *words: object) -> list[Descriptor]:
        self._called("referrers")
        return []


class Rig:
    """A cache over rooms of its own."""

    def __init__(self, root: Path, ttl: float = 60.0) -> None:
        self.executor = ThreadPoolExecutor(4)
        self.rooms = Rooms(root, self.executor)
        self.upstream = FakeUpstream()
        rooms = self.rooms
        self.downloads = Downloads(
            self.upstream, None, rooms.store, rooms.content, rooms.metadata.transaction, self.executor
        )
        self.cache = Cache(self.upstream, "up:5000", None, rooms.store, self.downloads, ttl=ttl)

    async def read(self, digest: str = DIGEST, offset: int = 0) -> bytes:
        found = await self.cache.blob("r", digest)
        if isinstance(found, Link):
            return self.rooms.content.path(found.blob).read_bytes()[offset:]
        assert isinstance(found, Download)
        body = found.body(offset, found.size - offset)
        try:
            return b"".join([chunk async for chunk in body])
        finally:
            await body.aclose()

    async def close(self) -> None:
        await self.downloads.close()
        await self.rooms.metadata.close()
        self.executor.shutdown()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.close()


async def settled(rig: Rig) -> None:
    """Every download has ended."""
    if rig.downloads._tasks:
        await asyncio.wait(rig.downloads._tasks)


async def test_a_tag_is_fetched_once(rig: Rig) -> None:
    found = await asyncio.gather(*(rig.cache.manifest("r", "latest") for _ in range(5)))
    assert {one.data for one in found} == {DATA}
    assert rig.upstream.calls == {"resolve": 1}
    await rig.cache.manifest("r", digest_of(DATA))
    assert rig.upstream.calls == {"resolve": 1}


async def test_a_tag_is_asked_about_when_it_is_old(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ttl=0)
    await rig.cache.manifest("r", "latest")
    await rig.cache.manifest("r", "latest")
    assert rig.upstream.calls == {"resolve": 1, "head": 1}
    rig.upstream.tagged["latest"] = newer = image(CONFIG, LAYER, annotations={"new": "yes"})
    assert (await rig.cache.manifest("r", "latest")).data == newer
    rig.upstream.down = True
    assert (await rig.cache.manifest("r", "latest")).data == newer
    rig.upstream.down = False
    del rig.upstream.tagged["latest"]
    with pytest.raises(Refusal, match="unknown"):
        await rig.cache.manifest("r", "latest")
    await rig.close()


async def test_what_is_not_there(rig: Rig) -> None:
    with pytest.raises(Refusal) as caught:
        await rig.cache.manifest("r", "nope")
    assert caught.value.code == "MANIFEST_UNKNOWN"
    rig.upstream.down = True
    with pytest.raises(Unavailable):
        await rig.cache.manifest("r", "nope")
    with pytest.raises(Refusal):
        await rig.cache.blob("r", DIGEST)  # no manifest has named it


async def test_many_readers_share_one_download(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    rig.upstream.gate.clear()
    readers = [asyncio.ensure_future(rig.read(offset=offset)) for offset in (0, 0, 1000)]
    await asyncio.sleep(0)
    rig.upstream.gate.set()
    assert await asyncio.gather(*readers) == [LAYER, LAYER, LAYER[1000:]]
    await settled(rig)
    assert rig.upstream.calls["blob"] == 1
    rig.upstream.down = True
    assert await rig.read() == LAYER


async def test_a_cut_download_goes_on_where_it_was(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    rig.upstream.cut_after = 400_000
    assert await rig.read() == LAYER
    assert rig.upstream.offsets == [0, 400_000, 800_000]


async def test_a_lie_is_not_kept_and_not_ended(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    rig.upstream.blobs[DIGEST] = LAYER[:-1] + b"?"
    with pytest.raises(System):
        await rig.read()
    assert not rig.rooms.content.path(DIGEST).exists()
    rig.upstream.blobs[DIGEST] = LAYER
    assert await rig.read() == LAYER


async def test_a_reader_that_goes_leaves_the_download(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    found = await rig.cache.blob("r", DIGEST)
    body = found.body(0, 10)
    assert len(await anext(body)) == 10
    await body.aclose()
    await settled(rig)
    assert isinstance(await rig.cache.blob("r", DIGEST), Link)


async def test_the_next_process_goes_on(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    await first.cache.manifest("r", "latest")
    found = await first.cache.blob("r", DIGEST)
    body = found.body(0, len(LAYER))
    await anext(body)
    await body.aclose()
    first.upstream.gate.clear()
    await first.close()
    second = Rig(tmp_path)
    assert await second.read() == LAYER
    assert second.upstream.offsets == [0] or second.upstream.offsets[0] > 0
    await second.close()


async def test_two_repositories_at_once(rig: Rig) -> None:
    for name in "rs":
        rig.rooms.repositories.put(name, STORED, parse(DATA, MANIFEST), ["latest"], complete=False)
    rig.upstream.repositories.add("s")
    bodies = [(await rig.cache.blob(name, DIGEST)).body(0, len(LAYER)) for name in "rs"]
    read = await asyncio.gather(*(collected(body) for body in bodies))
    assert read == [LAYER, LAYER]
    await settled(rig)
    assert rig.upstream.calls == {"blob": 1, "has_blob": 1}


async def collected(body: AsyncIterator[bytes]) -> bytes:
    data = b"".join([chunk async for chunk in body])
    await body.aclose()
    return data


async def test_a_blob_of_another_repository(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    await rig.read()
    rig.rooms.repositories.put("s", STORED, parse(DATA, MANIFEST), ["latest"], complete=False)
    with pytest.raises(Refusal):
        await rig.cache.blob("s", DIGEST)  # the upstream's `s` has none
    assert rig.upstream.calls["has_blob"] == 1


async def test_lists(rig: Rig) -> None:
    await rig.cache.manifest("r", "latest")
    rig.upstream.tagged["older"] = DATA
    assert await rig.cache.tags("r", "", 10) == ["latest", "older"]
    assert await rig.cache.tags("r", "latest", 10) == ["older"]
    rig.upstream.down = True
    assert await rig.cache.tags("r", "", 10) == ["latest"]
    assert await rig.cache.referrers("r", digest_of(DATA), "", "", 10) == []
    assert json.loads(DATA)["schemaVersion"] == 2

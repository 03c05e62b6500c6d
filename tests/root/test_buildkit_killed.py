"""Clients of BuildKit's protocol that go away at any moment, or never answer: nothing of theirs is left."""

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest
from buildkit_client import Client, client, write_files
from instance import Instance

from proa.buildkit.grpc import Call, CallFailed
from proa.buildkit.http2 import Connection

DOCKERFILE = (
    "FROM busybox\nCOPY . /c\nRUN --mount=type=cache,target=/k ls /c | tee /k/l | wc -l\nRUN cat /c/f7\n"
)


class Cut(Client):
    """Both connections end when it has received so many pieces."""

    pieces = 0

    async def _upgrade(self, path: str, head: str, connection: Connection) -> None:
        take = connection.data_received

        def counted(data: bytes) -> None:
            self.pieces -= 1
            if self.pieces == 0:
                for each in (*self._connections, connection):
                    each.close()
            else:
                take(data)

        connection.data_received = counted  # type: ignore[method-assign]
        await super()._upgrade(path, head, connection)


class Silent(Client):
    """It is asked for directories, and never says anything."""

    async def _send_directory(self, call: Call) -> None:
        self.begun.set()
        await asyncio.get_running_loop().create_future()


@pytest.fixture(autouse=True)
def nothing_kept(daemon: Instance) -> None:
    """Contexts that other tests' clients have at the daemon go."""
    assert daemon.run("builder", "prune", "-af", cli="proa").returncode == 0
    assert not [*(daemon.root / "lib/builds/kept").glob("*")]


def address(daemon: Instance) -> str:
    assert daemon.engine is not None
    return daemon.engine.socket


def left(daemon: Instance) -> list[str]:
    """What builds have while they run; of contexts that are kept, a second one of the client's."""
    builds = daemon.root / "lib/builds"
    found = [path for name in ("contexts", "steps") for path in (builds / name).glob("*")]
    found += sorted((builds / "kept").glob("*"))[1:]
    return [*map(str, found), *daemon.leftovers()]


async def nothing_left(daemon: Instance) -> None:
    """What an ended build had goes in the background: ask the daemon until it has."""
    for _ in range(200):
        if not left(daemon):
            return
        await asyncio.to_thread(daemon.run, "version", cli="proa")
    raise AssertionError(left(daemon))


@pytest.mark.parametrize("seed", range(3))
async def test_a_client_that_goes_at_any_moment(daemon: Instance, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    context = write_files(tmp_path / "c", {f"f{number}": f"{number}\n" * 100 for number in range(50)})
    cut = 0
    for pieces in (1, 2, *chance.sample(range(3, 60), 8)):
        # Every build is another one, as far as the cache knows.
        write_files(
            context, {"Dockerfile": DOCKERFILE, "salt": f"{seed} {pieces}", "f7": f"{chance.random()}"}
        )
        buildx = Cut(address(daemon), {"context": context, "dockerfile": context}, {})
        buildx.pieces = pieces
        try:
            await buildx.open()
            await buildx.build({"no-cache": ""}, exporter="local")
        except (ConnectionError, CallFailed, asyncio.CancelledError):
            cut += 1
        finally:
            with contextlib.suppress(ConnectionError):
                await buildx.close()
        await nothing_left(daemon)
    assert cut
    async with client(address(daemon), context) as whole:
        await whole.build({"no-cache": ""})
    logs = b"".join(log.msg for told in whole.told for log in told.logs)
    assert logs.endswith((context / "f7").read_bytes())
    await nothing_left(daemon)


async def test_a_client_that_never_answers_keeps_nobody_up(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo other\n"})
    silent = Silent(address(daemon), {"context": context, "dockerfile": context}, {})
    await silent.open()
    waiting = asyncio.ensure_future(silent.build({}))
    await silent.begun.wait()
    async with client(address(daemon), context) as other:
        await other.build({"no-cache": ""})
    await silent.close()
    with pytest.raises(ConnectionError):
        await waiting
    await nothing_left(daemon)


async def test_a_session_that_is_gone_ends_the_build_that_asks_it(daemon: Instance, tmp_path: Path) -> None:
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\n"})
    silent = Silent(address(daemon), {"context": context, "dockerfile": context}, {})
    await silent.open()
    waiting = asyncio.ensure_future(silent.build({}))
    await silent.begun.wait()
    session, _ = silent._connections
    session.close()
    with pytest.raises(CallFailed, match=r"gone|given up"):
        await waiting
    with pytest.raises(CallFailed, match="no active session"):
        await silent.build({})
    await silent.close()
    await nothing_left(daemon)


def test_the_daemon_keeps_no_descriptor_of_theirs(daemon: Instance, tmp_path: Path) -> None:
    """Builds that are over leave no more descriptors behind than one did."""
    assert daemon.process is not None
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    context = write_files(tmp_path, {"Dockerfile": "FROM busybox\nCOPY . /c\n"})

    async def build() -> None:
        async with client(address(daemon), context) as buildx:
            await buildx.build({"no-cache": ""})

    asyncio.run(build())
    before = len(os.listdir(descriptors))
    for _ in range(5):
        asyncio.run(build())
    assert len(os.listdir(descriptors)) <= before + 2

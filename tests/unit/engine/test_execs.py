"""Execs: created, started, told of; failures go down the stream with Docker's codes."""

import asyncio
import os
import socket

import pytest

from proa.errors import Conflict, InvalidParameter, NotFound, StartFailed
from proa.schema.exec import ExecCreateRequest, ExecStartRequest

SH = ExecCreateRequest(cmd=["sh", "-c", "x"], attach_stdout=True)


class Connection:
    """A client's end of a hijacked connection."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.ours.settimeout(30)

    def raw_stream_head(self, *, multiplexed: bool) -> bytes:
        return b"HEAD multiplexed" if multiplexed else b"HEAD raw"

    def detach(self) -> tuple[int, bytes]:
        return self._theirs.detach(), b"typed ahead"


@pytest.fixture
def connection():
    connection = Connection()
    yield connection
    connection.ours.close()
    connection._theirs.close()


async def test_a_life(world, connection: Connection) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    assert (await world.engine.containers.inspect(id_, size=False)).exec_ids == [exec_id]
    await world.engine.execs.start(exec_id, ExecStartRequest(), connection)
    (attach,) = world.keeper.attached
    assert (attach.exec_id, attach.preface, attach.initial_input) == (
        exec_id,
        b"HEAD multiplexed",
        b"typed ahead",
    )
    assert (await world.engine.execs.inspect(exec_id)).running
    world.keeper.end(id_, 4, exec_id=exec_id)
    shown = await world.engine.execs.inspect(exec_id)
    assert (shown.running, shown.exit_code, shown.container_id) == (False, 4, id_)
    assert (shown.process_config.entrypoint, shown.process_config.arguments) == ("sh", ["-c", "x"])
    assert world.actions()[2:] == ["exec_create: sh -c x", "exec_start: sh -c x", "exec_die"]
    assert (await world.engine.containers.inspect(id_, size=False)).exec_ids is None
    with pytest.raises(Conflict, match="has already run"):
        await world.engine.execs.start(exec_id, ExecStartRequest(), None)


async def test_its_end_can_be_waited_for(world, connection: Connection) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    waiting = asyncio.ensure_future(world.engine.execs.inspect(exec_id, wait=True))
    await world.engine.execs.start(exec_id, ExecStartRequest(), connection)
    assert not waiting.done()
    world.keeper.end(id_, 4, exec_id=exec_id)
    shown = await waiting
    assert (shown.running, shown.exit_code) == (False, 4)
    assert (await world.engine.execs.inspect(exec_id, wait=True)).exit_code == 4


async def test_who_waits_for_one_that_cannot_start_any_more_is_told(world) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    waiting = asyncio.ensure_future(world.engine.execs.inspect(exec_id, wait=True))
    await asyncio.sleep(0)
    world.keeper.end(id_, 0)
    with pytest.raises(NotFound, match="No such exec instance"):
        await waiting


async def test_one_whose_keeper_died_was_killed(world) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    await world.engine.execs.start(exec_id, ExecStartRequest(detach=True), None)
    waiting = asyncio.ensure_future(world.engine.execs.inspect(exec_id, wait=True))
    await world.engine._reconcile.welcomed(world.keeper.welcome, boot=False)
    assert (await waiting).exit_code == 137


async def test_a_failure_is_the_last_word_on_the_stream(world, connection: Connection) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    world.keeper.fail = StartFailed("executable file not found", 127)
    await world.engine.execs.start(exec_id, ExecStartRequest(), connection)
    text = b"executable file not found\r\n"
    assert connection.ours.recv(100) == b"\x01\0\0\0" + len(text).to_bytes(4, "big") + text
    assert connection.ours.recv(1) == b""
    assert (await world.engine.execs.inspect(exec_id)).exit_code == 127


async def test_a_detached_failure_is_raised(world) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    world.keeper.fail = StartFailed("no", 126)
    with pytest.raises(StartFailed):
        await world.engine.execs.start(exec_id, ExecStartRequest(detach=True), None)
    assert (await world.engine.execs.inspect(exec_id)).exit_code == 126


async def test_an_unknown_user_is_126(world, connection: Connection) -> None:
    id_ = await world.run()
    request = ExecCreateRequest(cmd=["true"], user="nosuch", tty=True)
    exec_id = (await world.engine.execs.create(id_, request)).id
    await world.engine.execs.start(exec_id, ExecStartRequest(), connection)
    assert connection.ours.recv(100).startswith(b"unable to find user nosuch")
    assert (await world.engine.execs.inspect(exec_id)).exit_code == 126


async def test_what_is_refused(world) -> None:
    execs, created = world.engine.execs, await world.create()
    with pytest.raises(Conflict, match=f"container {created} is not running"):
        await execs.create(created, SH)
    id_ = await world.run()
    with pytest.raises(InvalidParameter, match="No exec command specified"):
        await execs.create(id_, ExecCreateRequest())
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        await execs.create(id_, ExecCreateRequest(cmd=["x"], detach_keys="ctrl-nosuch"))
    with pytest.raises(NotFound, match="No such exec instance: nosuch"):
        await execs.inspect("nosuch")
    await world.engine.containers.pause(id_)
    with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
        await execs.create(id_, SH)


async def test_one_that_never_started_goes_with_its_container(world) -> None:
    id_ = await world.run()
    exec_id = (await world.engine.execs.create(id_, SH)).id
    world.keeper.end(id_, 0)
    with pytest.raises(NotFound):
        await world.engine.execs.inspect(exec_id)


@pytest.mark.parametrize(("length", "kept"), [(4096, "x" * 4096), (8000, "x" * 4096 + "...")])
async def test_a_probe_keeps_output_and_code(world, length: int, kept: str) -> None:
    id_ = await world.run()
    _answer_probes(world, b"x" * length, 3)
    assert await world.engine.execs.probe(world.registry.get(id_), SH, 5) == (3, kept)
    assert list(world.keeper.timeouts.values()) == [5]
    assert world.engine.execs._execs == {}


async def test_a_probe_that_takes_too_long_has_no_code(world) -> None:
    id_ = await world.run()
    _answer_probes(world, b"so far", 137, "timeout")
    assert await world.engine.execs.probe(world.registry.get(id_), SH, 5) == (None, "so far")
    assert world.engine.execs._execs == {}


def _answer_probes(world, output: bytes, code: int, reason: str = "exit") -> None:
    attach, start = world.keeper.attach, world.keeper.exec

    async def answer(fd: int, wish) -> None:
        await attach(fd, wish)
        os.write(fd, output)

    async def run(container_id, exec_id, *rest) -> None:
        await start(container_id, exec_id, *rest)
        world.keeper.end(container_id, code, reason, exec_id)

    world.keeper.attach, world.keeper.exec = answer, run

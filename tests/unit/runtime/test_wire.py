"""The keeper's client over a real seqpacket pair: matching, order, fds, loss."""

import asyncio
import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from proa.errors import NotFound, ProaError, Unavailable
from proa.runtime.wire import Wire
from proa.schema.keeper import Done, Exited, Failed, Failure, Oom, Reply, Request, Signal, Started

_decoder = msgspec.msgpack.Decoder(Request)


class FakeKeeper:
    """The other end: reads requests, answers what the test says."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    async def read(self) -> Request:
        packet = await asyncio.get_running_loop().sock_recv(self.connection, 1 << 20)
        return _decoder.decode(packet)

    def say(self, *replies: Reply) -> None:
        for reply in replies:
            self.connection.send(msgspec.msgpack.encode(reply))


class Ear:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.changed = asyncio.Event()

    def exited(self, exited: Exited) -> None:
        self._hear(f"exited {exited.id} {exited.code}")

    def oom(self, container_id: str) -> None:
        self._hear(f"oom {container_id}")

    def lost(self) -> None:
        self._hear("lost")

    def _hear(self, word: str) -> None:
        self.heard.append(word)
        self.changed.set()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
async def ear() -> Ear:
    return Ear()


@pytest.fixture
async def wire(pair, ear):
    wire = Wire(pair[0], ear)
    yield wire
    wire.close()


@pytest.fixture
async def keeper(pair) -> FakeKeeper:
    return FakeKeeper(pair[1])


def failure(failure: Failure) -> ProaError:
    return NotFound(failure.subject)


def signal(number: int):
    return lambda seq: Signal(seq=seq, id="a", signal=number)


async def test_answers_find_their_requests_in_any_order(wire: Wire, keeper: FakeKeeper) -> None:
    first = asyncio.ensure_future(wire.request(signal(1), failure))
    second = asyncio.ensure_future(wire.request(signal(2), failure))
    requests = [await keeper.read(), await keeper.read()]
    keeper.say(Done(seq=requests[1].seq), Done(seq=requests[0].seq))
    assert (await second).seq == requests[1].seq
    assert (await first).seq == requests[0].seq


async def test_a_failure_is_translated_for_its_caller_only(wire: Wire, keeper: FakeKeeper) -> None:
    request = asyncio.ensure_future(wire.request(signal(1), failure))
    seq = (await keeper.read()).seq
    keeper.say(Failed(seq=seq, error=Failure(step="not_found", subject="No such container: a", errno=0)))
    with pytest.raises(NotFound, match="No such container: a"):
        await request
    assert wire.open


async def test_started_is_handled_before_the_exit_that_follows(
    wire: Wire, keeper: FakeKeeper, ear: Ear
) -> None:
    order: list[str] = []
    ear._hear = order.append  # type: ignore[method-assign]
    request = asyncio.ensure_future(wire.request(signal(1), failure, lambda _: order.append("started")))
    seq = (await keeper.read()).seq
    keeper.say(
        Started(seq=seq, pid=1, started_at_ns=1, warnings=()),
        Exited(id="a", code=0, reason="exit", oom=False, finished_at_ns=2),
    )
    await request
    assert order == ["started", "exited a 0"]


async def test_who_fails_to_take_an_answer_waits_for_it_no_longer(wire: Wire, keeper: FakeKeeper) -> None:
    def arrived(answer: object) -> None:
        raise ValueError("not this one")

    request = asyncio.ensure_future(wire.request(signal(1), failure, arrived))
    keeper.say(Started(seq=(await keeper.read()).seq, pid=1, started_at_ns=1, warnings=()))
    with pytest.raises(ValueError, match="not this one"):
        await request
    assert wire.open


async def test_a_cancelled_request_still_handles_its_answer(wire: Wire, keeper: FakeKeeper, ear: Ear) -> None:
    arrived: list[object] = []
    request = asyncio.ensure_future(wire.request(signal(1), failure, arrived.append))
    seq = (await keeper.read()).seq
    request.cancel()
    keeper.say(Started(seq=seq, pid=1, started_at_ns=1, warnings=()), Oom(id="a"))
    await ear.changed.wait()
    assert len(arrived) == 1


async def test_fds_travel_and_the_caller_keeps_its_own(wire: Wire, keeper: FakeKeeper) -> None:
    read_end, write_end = os.pipe()
    request = asyncio.ensure_future(wire.request(signal(1), failure, fds=(write_end,)))
    await asyncio.sleep(0)
    packet, fds, _, _ = socket.recv_fds(keeper.connection, 1 << 16, 4)
    os.write(fds[0], b"x")
    os.write(write_end, b"y")
    assert os.read(read_end, 2) == b"xy"
    keeper.say(Done(seq=_decoder.decode(packet).seq))
    await request
    for fd in (*fds, read_end, write_end):
        os.close(fd)


async def test_packets_wait_for_a_keeper_that_does_not_read(wire: Wire, keeper: FakeKeeper) -> None:
    requests = [asyncio.ensure_future(wire.request(signal(n % 60 + 1), failure)) for n in range(20_000)]
    await asyncio.sleep(0)
    assert wire._unsent
    for number in range(20_000):
        request = await keeper.read()
        assert request.signal == number % 60 + 1
        keeper.say(Done(seq=request.seq))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*requests)


async def test_what_waits_fails_when_the_keeper_goes_and_the_listener_is_told_once(
    wire: Wire, keeper: FakeKeeper, ear: Ear
) -> None:
    wire.welcomed = True
    request = asyncio.ensure_future(wire.request(signal(1), failure))
    await keeper.read()
    keeper.connection.close()
    with pytest.raises(Unavailable):
        await request
    assert ear.heard == ["lost"]
    with pytest.raises(Unavailable):
        await wire.request(signal(1), failure)
    wire.tell(signal(1))


async def test_a_packet_that_is_not_understood_harms_nobody(wire: Wire, keeper: FakeKeeper, ear: Ear) -> None:
    keeper.connection.send(b"\xc1")
    keeper.say(Oom(id="a"))
    await ear.changed.wait()
    assert ear.heard == ["oom a"]

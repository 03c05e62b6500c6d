"""Garbage on the keeper's socket: whatever comes, no container is touched by it."""

import contextlib
import os
import random
import socket

import msgspec
import pytest
from keeper_rig import Rig, is_alive

from proa.schema import keeper as protocol
from proa.schema import plan as plans

ROUNDS = 1000


def seeds(rig: Rig, id_: str) -> list[bytes]:
    """One well-formed packet of every kind; none of them would end the container."""
    encode = msgspec.msgpack.Encoder().encode
    endpoint = protocol.KeeperEndpoint(bridge="", mac=bytes(6), mtu=1500, addresses=(), gateways=())
    return [
        encode(message)
        for message in (
            protocol.Hello(seq=1),
            protocol.Start(seq=2, plan=rig.plan("exit 0")),
            protocol.Exec(seq=3, id=id_, exec_id="e", process=rig.process_of("true"), stdio=plans.Stdio()),
            protocol.Attach(seq=4, id=id_, stdin=True, stdout=True, stderr=True, multiplexed=False),
            protocol.Signal(seq=5, id="nosuch", signal=0),
            protocol.Resize(seq=6, id=id_, rows=1, columns=1),
            protocol.Acknowledge(seq=7, id="nosuch"),
            protocol.Forget(seq=8, id="nosuch"),
            protocol.NetPrepare(seq=9, key=1, endpoint=endpoint),
            protocol.NetRelease(seq=10, key=1),
        )
    ]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A packet with some bytes changed, cut, doubled or taken from msgpack's own markers."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[: chance.randrange(64)]
            case 3:
                data[at : at + 1] = bytes([chance.choice((0xDD, 0xDF, 0xC6, 0xDB, 0xC1, 0xFF, 0x9F, 0x80))])
            case 4:
                data[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


def throw(rig: Rig, packet: bytes, fds: int) -> None:
    """Send it on a connection of its own, with descriptors that it has no right to expect."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as wild, contextlib.suppress(OSError):
        wild.settimeout(10)
        wild.connect(str(rig.exec_root / "keeper.sock"))
        ends = [os.open("/dev/null", os.O_RDONLY) for _ in range(fds)]
        try:
            socket.send_fds(wild, [packet], ends)
        finally:
            for end in ends:
                os.close(end)
        wild.shutdown(socket.SHUT_WR)
        wild.recv(4 << 20)


@pytest.mark.parametrize("seed", range(3))
def test_garbage_neither_ends_nor_confuses_it(rig: Rig, seed: int) -> None:
    chance = random.Random(seed)
    plan = rig.plan("read line; exit 7", stdin=True)
    pid = rig.run(plan).pid
    packets = seeds(rig, plan.id)
    for _ in range(ROUNDS):
        packet = mutated(chance.choice(packets), chance)
        if chance.random() < 0.2:
            packet = chance.randbytes(chance.randrange(1, 2000))
        throw(rig, packet, chance.choice((0, 0, 0, 1, 2, 8)))
    assert rig.process is not None
    assert rig.process.poll() is None, rig.complaints()[-2000:]
    rig.connect()
    welcome = rig.wire.hello()
    assert plan.id in {state.id for state in welcome.processes}
    assert is_alive(pid)
    client = rig.attach(plan.id)
    client.sendall(b"go\n")
    assert rig.wire.exit_of(plan.id).code == 7
    assert len(os.listdir(f"/proc/{rig.process.pid}/fd")) < 100


def test_a_packet_that_is_too_long_or_empty(rig: Rig) -> None:
    for packet in (b"", b"\x00" * (3 << 20), b"\x81" * 100_000, b"\x91" * 2_000_00):
        throw(rig, packet, 0)
    assert rig.connect().ask(lambda seq: protocol.Hello(seq=seq))


def test_a_request_that_cannot_be_is_refused_and_no_other_suffers(rig: Rig) -> None:
    plan = rig.plan("read line; exit 7", stdin=True)
    waiting = rig.wire.send(lambda seq: protocol.Start(seq=seq, plan=plan))
    for build in (
        lambda seq: protocol.Signal(seq=seq, id=plan.id, signal=1 << 40),
        lambda seq: protocol.Resize(seq=seq, id=plan.id, rows=-1, columns=1),
        lambda seq: {"type": "of tomorrow", "seq": seq},
        lambda seq: {"type": "start", "seq": seq, "plan": {"id": 5}},
    ):
        answer = rig.wire.ask(build)
        assert isinstance(answer, protocol.Failed)
        assert answer.error.step == "invalid"
    assert isinstance(rig.wire.answer(waiting), protocol.Started)
    rig.attach(plan.id).sendall(b"go\n")
    assert rig.wire.exit_of(plan.id).code == 7

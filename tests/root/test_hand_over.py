"""Hand-over to a new keeper under load: nothing of a container's output, input or exit is lost."""

import hashlib
import os
import socket

import pytest
from keeper_rig import Rig, read_all, read_until
from peers import free_port

from proa.schema import keeper as protocol
from proa.schema import plan as plans

LINES = 60_000


def hand_over(rig: Rig) -> None:
    answer = rig.wire.ask(lambda seq: protocol.HandOver(seq=seq, argv=rig.command()))
    assert isinstance(answer, protocol.Done), (answer, rig.complaints())
    rig.connect()


def test_no_byte_is_lost_under_output_load(rig: Rig) -> None:
    script = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; read x; exit 6"
    plan = rig.plan(script, stdin=True)
    client = rig.attach(plan.id)
    pid = rig.run(plan).pid
    expected = b"".join(b"line %d\n" % number for number in range(LINES))
    seen = b""
    for _ in range(5):
        seen += client.recv(1 << 16)
        hand_over(rig)
    assert rig.wire.hello().pid == rig.process.pid
    seen += read_until(client, b"line %d\n" % (LINES - 1))
    client.sendall(b"go\n")
    assert read_all(client) == b""
    exited = rig.wire.exit_of(plan.id)
    assert (exited.code, exited.reason) == (6, "exit")
    assert hashlib.sha256(seen).digest() == hashlib.sha256(expected).digest()
    assert hashlib.sha256(rig.log(plan)).digest() == hashlib.sha256(expected).digest()
    assert pid > 0


def test_published_ports_go_along(rig: Rig) -> None:
    """Held all the time; served by the new keeper; free when it is told so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"127.0.0.1:{server.getsockname()[1]}"
        port = protocol.HeldPort(protocol="tcp", address="::1", port=free_port(), target=target)
        held = rig.wire.ask(lambda seq: protocol.PortsHold(seq=seq, id="c", ports=(port,)))
        assert isinstance(held, protocol.Done)
        for _ in range(2):
            hand_over(rig)
        with socket.create_connection((port.address, port.port)) as client:
            served, _ = server.accept()
            with served:
                served.sendall(b"x")
            assert read_all(client) == b"x"
        freed = rig.wire.ask(lambda seq: protocol.PortsHold(seq=seq, id="c", ports=()))
        assert isinstance(freed, protocol.Done)
        socket.create_server((port.address, port.port), family=socket.AF_INET6).close()


@pytest.mark.cgroup
def test_exit_tty_exec_timeout_network_and_ledger_go_along(rig: Rig) -> None:
    ended, tty = rig.plan("exit 9"), rig.plan("cat", tty=True, stdin=True)
    timed = rig.plan("sleep 1000", timeout_ns=8_000_000_000)  # longer than the slowest hand-over
    rig.run(ended)
    rig.wire.exit_of(ended.id)
    terminal = rig.attach(tty.id)
    rig.run(tty)
    waiting = rig.plan("cat", stdin=True)
    early = rig.attach(waiting.id, initial_input=b"early ")
    endpoint = protocol.KeeperEndpoint(bridge="", mac=bytes(6), mtu=1500, addresses=(), gateways=())
    rig.wire.ask(lambda seq: protocol.NetPrepare(seq=seq, key=3, endpoint=endpoint))
    rig.run(timed)

    hand_over(rig)

    welcome = rig.wire.hello()
    assert welcome.prepared == (3,)
    assert {state.id: state.exit and state.exit.code for state in welcome.processes} == {
        ended.id: 9,
        tty.id: None,
        timed.id: None,
    }
    terminal.sendall(b"still\n")
    read_until(terminal, b"still\r\n")
    assert rig.wire.exit_of(timed.id).reason == "timeout"
    process = rig.process_of("echo inside")
    output = rig.attach(tty.id, "e")
    rig.wire.ask(
        lambda seq: protocol.Exec(seq=seq, id=tty.id, exec_id="e", process=process, stdio=plans.Stdio())
    )
    assert read_all(output) == b"inside\n"
    early.sendall(b"late")
    early.shutdown(socket.SHUT_WR)
    rig.run(waiting)
    assert read_all(early) == b"early late"


def test_a_program_that_cannot_be_executed_leaves_everything_as_it_was(rig: Rig) -> None:
    plan = rig.plan("read x; echo got $x", stdin=True)
    client = rig.attach(plan.id)
    rig.run(plan)
    answer = rig.wire.ask(lambda seq: protocol.HandOver(seq=seq, argv=("/nonexistent/keeper",)))
    assert isinstance(answer, protocol.Failed)
    assert (answer.error.step, answer.error.errno) == ("hand_over", 2)
    client.sendall(b"it\n")
    assert read_all(client) == b"got it\n"
    assert rig.wire.exit_of(plan.id).code == 0


def test_a_program_that_says_no_never_takes_over(rig: Rig) -> None:
    plan = rig.plan("read x; echo got $x", stdin=True)
    client = rig.attach(plan.id)
    rig.run(plan)
    answer = rig.wire.ask(lambda seq: protocol.HandOver(seq=seq, argv=("/bin/false",)))
    assert isinstance(answer, protocol.Failed)
    assert answer.error.step == "hand_over"
    assert answer.error.subject.startswith("/bin/false says no")
    client.sendall(b"it\n")
    assert read_all(client) == b"got it\n"


def test_the_new_program_lies_on_a_read_only_mount(rig: Rig) -> None:
    """What a container finds behind /proc/PID/exe before its own program is executed (CVE-2019-5736)."""
    assert rig.process is not None
    hand_over(rig)
    assert os.statvfs(f"/proc/{rig.process.pid}/exe").f_flag & os.ST_RDONLY
    plan = rig.plan("exit 3")
    rig.run(plan)
    assert rig.wire.exit_of(plan.id).code == 3

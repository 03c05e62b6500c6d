"""The keeper over its own protocol, with real containers: streams, exits, the ledger."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest
from instance import eventually
from keeper_rig import Rig, read_all, read_until

from proa.schema import keeper as protocol
from proa.schema import plan as plans


def test_exit_code_comes_after_the_last_byte_is_in_the_log(rig: Rig) -> None:
    plan = rig.plan("echo out; echo error >&2; printf end; exit 3")
    started = rig.run(plan)
    exited = rig.wire.exit_of(plan.id)
    assert started.pid > 0
    assert (exited.code, exited.reason, exited.oom) == (3, "exit", False)
    assert exited.finished_at_ns >= started.started_at_ns
    assert rig.log(plan) == b"out\nend"
    assert rig.log(plan, "stderr") == b"error\n"


def test_a_client_attached_before_start_sees_every_byte_and_the_end(rig: Rig) -> None:
    plan = rig.plan("echo hello")
    client = rig.attach(plan.id, preface=b"HTTP/1.1 101 UPGRADED\r\n\r\n", multiplexed=True)
    rig.run(plan)
    assert read_all(client) == b"HTTP/1.1 101 UPGRADED\r\n\r\n\x01\0\0\0\0\0\0\x06hello\n"


def test_stdin_of_any_size_and_half_close(rig: Rig) -> None:
    plan = rig.plan("wc -c; echo done", stdin=True)
    client = rig.attach(plan.id)
    rig.run(plan)
    client.sendall(b"x" * 5_000_000)
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"5000000\ndone\n"
    assert rig.wire.exit_of(plan.id).code == 0


def test_a_tty_echoes_resizes_and_detaches(rig: Rig) -> None:
    plan = rig.plan("stty size 2>/dev/null; cat", tty=True, stdin=True)
    client = rig.attach(plan.id, detach_keys=b"\x10\x11")
    rig.run(plan)
    client.sendall(b"hello\n")
    assert b"hello\r\n" in read_until(client, b"hello\r\n")
    done = rig.wire.ask(lambda seq: protocol.Resize(seq=seq, id=plan.id, rows=40, columns=100))
    assert isinstance(done, protocol.Done)
    client.sendall(b"\x10\x11")
    read_all(client)
    assert [p.id for p in rig.wire.hello().processes if p.exit is None] == [plan.id]
    rig.wire.ask(lambda seq: protocol.Signal(seq=seq, id=plan.id, signal=signal.SIGKILL))
    exited = rig.wire.exit_of(plan.id)
    assert (exited.code, exited.reason) == (137, "signal")


def test_exec_runs_inside_and_reports_its_own_exit(rig: Rig) -> None:
    plan = rig.plan("sleep 1000")
    rig.run(plan)
    client = rig.attach(plan.id, "e1")
    process = rig.process_of("cat; echo pid $$; exit 7")
    stdio = plans.Stdio(open_stdin=True, stdin_once=True)
    started = rig.wire.ask(
        lambda seq: protocol.Exec(seq=seq, id=plan.id, exec_id="e1", process=process, stdio=stdio)
    )
    assert isinstance(started, protocol.Started), started
    client.sendall(b"typed\n")
    client.shutdown(socket.SHUT_WR)
    output = read_all(client)
    assert output.startswith(b"typed\npid ")
    assert 1 < int(output.split()[-1]) < 1000
    assert rig.wire.exit_of(plan.id, "e1").code == 7


def test_exec_ends_though_a_child_keeps_its_output_open(rig: Rig) -> None:
    plan = rig.plan("sleep 1000")
    rig.run(plan)
    client = rig.attach(plan.id, "e1", stdin=False)
    process = rig.process_of("sleep 1000 & echo started")
    rig.wire.ask(
        lambda seq: protocol.Exec(seq=seq, id=plan.id, exec_id="e1", process=process, stdio=plans.Stdio())
    )
    assert rig.wire.exit_of(plan.id, "e1").code == 0
    assert read_all(client) == b"started\n"


def test_exec_in_a_container_that_does_not_run_is_a_conflict(rig: Rig) -> None:
    process = rig.process_of("true")
    answer = rig.wire.ask(
        lambda seq: protocol.Exec(seq=seq, id="0" * 64, exec_id="e", process=process, stdio=plans.Stdio())
    )
    assert isinstance(answer, protocol.Failed)
    assert answer.error.step == "conflict"


def test_a_failed_start_leaves_nothing_and_closes_waiting_clients(rig: Rig) -> None:
    plan = rig.plan("true")
    process = plans.Process(
        **{f: getattr(plan.process, f) for f in plan.process.__struct_fields__} | {"args": ("nosuch",)}
    )
    plan = plans.Plan(**{f: getattr(plan, f) for f in plan.__struct_fields__} | {"process": process})
    client = rig.attach(plan.id)
    answer = rig.wire.ask(lambda seq: protocol.Start(seq=seq, plan=plan))
    assert isinstance(answer, protocol.Failed)
    assert (answer.error.step, answer.error.subject, answer.error.errno) == ("exec", "nosuch", 2)
    assert read_all(client) == b""
    assert rig.wire.hello().processes == ()
    rig.wire.ask(lambda seq: protocol.Shutdown(seq=seq))
    assert rig.cgroups_left() == []


def test_timeout_kills_with_its_own_reason(rig: Rig) -> None:
    plan = rig.plan("trap '' TERM; sleep 1000", timeout_ns=50_000_000)
    rig.run(plan)
    exited = rig.wire.exit_of(plan.id)
    assert (exited.code, exited.reason) == (137, "timeout")


@pytest.mark.cgroup
def test_out_of_memory_is_told_and_typed(rig: Rig) -> None:
    resources = plans.Resources(memory_limit=16 << 20, memory_swap=16 << 20)
    plan = rig.plan("exec dd if=/dev/zero of=/dev/null bs=64M", resources=resources)
    rig.run(plan)
    exited = rig.wire.exit_of(plan.id)
    assert (exited.code, exited.reason, exited.oom) == (137, "oom", True)
    assert protocol.Oom(id=plan.id) in rig.wire.events


@pytest.mark.cgroup
def test_a_killed_child_of_a_living_container_is_told_at_once(rig: Rig) -> None:
    resources = plans.Resources(memory_limit=16 << 20, memory_swap=16 << 20)
    plan = rig.plan(
        "read go; dd if=/dev/zero of=/dev/null bs=64M; sleep 1000", stdin=True, resources=resources
    )
    client = rig.attach(plan.id)
    rig.run(plan)
    # The watch is deferred: a request that is deferred, too, shows that it is in place.
    endpoint = protocol.KeeperEndpoint(bridge="", mac=bytes(6), mtu=1500, addresses=(), gateways=())
    rig.wire.ask(lambda seq: protocol.NetPrepare(seq=seq, key=1, endpoint=endpoint))
    client.sendall(b"go\n")
    while not rig.wire.events:
        rig.wire._receive()
    assert rig.wire.events == [protocol.Oom(id=plan.id)]


def test_a_new_proad_learns_of_what_runs_and_what_has_ended(rig: Rig) -> None:
    lives, ends = rig.plan("sleep 1000"), rig.plan("read x; exit 4", stdin=True)
    client = rig.attach(ends.id)
    pid = rig.run(lives).pid
    rig.run(ends)
    rig.wire.socket.close()
    client.sendall(b"go\n")
    read_all(client)
    rig.connect()
    states = {state.id: state for state in rig.wire.hello().processes}
    assert states[lives.id].exit is None
    assert states[lives.id].pid == pid
    # The client's end comes right before the exit is in the ledger; the welcome comes after both.
    exit_ = states[ends.id].exit
    assert exit_ is not None
    assert exit_.code == 4
    rig.wire.ask(lambda seq: protocol.Acknowledge(seq=seq, id=ends.id))
    assert {state.id for state in rig.wire.hello().processes} == {lives.id}


@pytest.mark.cgroup
def test_the_ledger_outlives_a_killed_keeper_and_its_containers_do_not(rig: Rig) -> None:
    ended, running = rig.plan("exit 5"), rig.plan("sleep 1000")
    rig.run(ended)
    pid = rig.run(running).pid
    rig.wire.exit_of(ended.id)
    rig.kill()
    rig.start()
    states = rig.wire.hello().processes
    assert [(state.id, state.exit and state.exit.code) for state in states] == [(ended.id, 5)]
    assert eventually(lambda: is_dead(pid))


def is_dead(pid: int) -> bool:
    """Whether it is gone, or a zombie at most until pid 1 reaps it."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_second_keeper_is_refused(rig: Rig) -> None:
    second = subprocess.run(rig.command(), capture_output=True, text=True, check=False)
    assert "Address already in use" in second.stderr


def test_shutdown_refuses_while_a_container_runs(rig: Rig) -> None:
    plan = rig.plan("sleep 1000")
    rig.run(plan)
    answer = rig.wire.ask(lambda seq: protocol.Shutdown(seq=seq))
    assert isinstance(answer, protocol.Failed)
    assert answer.error.step == "conflict"
    answer = rig.wire.ask(lambda seq: protocol.Shutdown(seq=seq, kill=True))
    assert isinstance(answer, protocol.Done)
    assert rig.process is not None
    assert rig.process.wait(10) == 0
    assert rig.cgroups_left() == []


def test_one_slow_client_does_not_hold_up_another_container(rig: Rig) -> None:
    slow, quick = rig.plan("while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"), rig.plan("echo quick")
    stuck = rig.attach(slow.id, stdin=False)
    rig.run(slow)
    stuck.recv(1)
    client = rig.attach(quick.id)
    rig.run(quick)
    assert read_all(client) == b"quick\n"

"""The keeper's side of shipped logs: the journal's fields, hand-overs, ends with lines unsent."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeper_rig import Rig
from msgspec.structs import replace
from peers import free_port

from proa.schema import keeper as protocol
from proa.schema import plan as plans
from proa.schema.shipping import Fluentd, Journald, Remote, Shipping, Syslog, Tcp, Unix, Unixgram

SECOND = 10**9
SYSLOG = Syslog(facility=3, layout="unix", hostname="host", tag="t")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(20)
        yield server


def shipping(to: Remote, encoding: Syslog | Journald | Fluentd = SYSLOG, **options: object) -> Shipping:
    told: dict[str, object] = {"blocking": True, "buffer": 1 << 20, "attempts": 1000}
    told |= {"wait_ns": SECOND // 20, "longest_wait_ns": SECOND // 20} | options
    return Shipping(id="box", to=to, format=encoding, **told)  # type: ignore[arg-type]


def start(rig: Rig, plan: plans.Plan, ship: Shipping, *fds: int) -> None:
    answer = rig.wire.ask(lambda seq: protocol.Start(seq=seq, plan=plan, ship=ship), *fds)
    assert isinstance(answer, protocol.Started), (answer, rig.complaints())


def hand_over(rig: Rig) -> None:
    answer = rig.wire.ask(lambda seq: protocol.HandOver(seq=seq, argv=rig.command()))
    assert isinstance(answer, protocol.Done), (answer, rig.complaints())
    rig.connect()


def fields_of(message: bytes) -> dict[str, bytes]:
    """A datagram of the journal's, taken apart as systemd does it."""
    found = {}
    while message:
        name, _, rest = message.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            found[key.decode()], message = value, rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            found[name.decode()], message = rest[8 : 8 + length], rest[9 + length :]
    return found


def test_the_journals_fields(rig: Rig, journal: socket.socket, tmp_path: Path) -> None:
    encoding = Journald(fields=(("CONTAINER_NAME", "web"), ("LINES", "a\nb")))
    plan = rig.plan("printf 'o\\377\\n'; head -c 16385 /dev/zero | tr '\\0' x >&2")
    start(rig, plan, shipping(Unixgram(f"{tmp_path}/journal"), encoding))
    found = [fields_of(journal.recv(1 << 16)) for _ in range(3)]
    assert all((f["CONTAINER_NAME"], f["LINES"]) == (b"web", b"a\nb") for f in found)
    assert sorted(f["CONTAINER_LOG_ORDINAL"] for f in found) == [b"1", b"2", b"3"]
    whole = next(f for f in found if f["PRIORITY"] == b"6")
    assert whole["MESSAGE"] == b"o\xff"
    assert "CONTAINER_PARTIAL_ID" not in whole
    pieces = [f for f in found if f["PRIORITY"] == b"3"]
    assert [len(f["MESSAGE"]) for f in pieces] == [16384, 1]
    assert [f["CONTAINER_PARTIAL_ORDINAL"] for f in pieces] == [b"1", b"2"]
    assert len({f["CONTAINER_PARTIAL_ID"] for f in pieces}) == 1
    rig.wire.exit_of(plan.id)


def test_no_line_is_lost_by_hand_overs(rig: Rig, tmp_path: Path) -> None:
    """The connection goes along in the middle of a message, and what waits for it."""
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; read x; echo end"
    plan = rig.plan(script, stdin=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/log")
        listener.listen()
        listener.settimeout(20)
        client = rig.attach(plan.id, stdout=False, stderr=False)
        start(rig, plan, shipping(Unix(f"{tmp_path}/log"), buffer=50_000))
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            seen = b""
            for _ in range(4):
                seen += server.recv(1 << 14)
                hand_over(rig)
            client.sendall(b"go\n")
            while not seen.endswith(b": end\n"):
                chunk = server.recv(1 << 16)
                assert chunk, seen[-200:]
                seen += chunk
    lines = [line.partition(b": ")[2] for line in seen.splitlines()]
    assert lines == [*(b"line %d" % number for number in range(20000)), b"end"]
    rig.wire.exit_of(plan.id)


def test_lines_that_wait_for_a_server_go_along_and_outlive_their_container(rig: Rig) -> None:
    """By a name whose first address may refuse; the exit does not wait for them."""
    port = free_port()
    plan = rig.plan("echo last words; exit 4")
    start(rig, plan, shipping(Tcp("localhost", port)))
    assert rig.wire.exit_of(plan.id).code == 4
    hand_over(rig)
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(20)
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            assert server.recv(1 << 16).endswith(b": last words\n")
            assert server.recv(1) == b""


def test_a_connection_comes_along_and_the_same_container_starts_again(rig: Rig) -> None:
    """While the lines of its first life are on their way."""
    plan = rig.plan("echo x")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        start(rig, plan, shipping(Unix("/nowhere")), theirs.fileno())
        theirs.close()
        ours.settimeout(20)
        assert ours.recv(1 << 16).endswith(b": x\n")
        assert ours.recv(1) == b""
    rig.wire.exit_of(plan.id)
    start(rig, plan, shipping(Unix("/nowhere"), attempts=1, wait_ns=3600 * SECOND))
    rig.wire.exit_of(plan.id)
    start(rig, plan, shipping(Unix("/nowhere")))
    rig.wire.exit_of(plan.id)
    assert "log of box: 1 messages to unix:///nowhere were dropped" in rig.complaints()


def test_what_does_not_fit_is_dropped_and_counted(rig: Rig) -> None:
    script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done"
    plan = rig.plan(script)
    start(rig, plan, replace(shipping(Unix("/nowhere")), blocking=False, buffer=1000))
    assert rig.wire.exit_of(plan.id).code == 0
    assert rig.log(plan).endswith(b"line 999\n")
    assert "log of box: messages to unix:///nowhere are being dropped: the buffer is full" in rig.complaints()

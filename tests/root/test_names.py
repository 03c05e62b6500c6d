"""Names at 127.0.0.11, asked from within real containers; the servers behind it are the test's own."""

import itertools
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import dns_client as dns
import msgspec
import pytest
from dns_client import Client, FakeServer
from instance import eventually
from keeper_rig import Rig
from test_hand_over import hand_over

from proa.schema import keeper as protocol
from proa.schema import plan as plans

ADDRESS = socket.inet_aton("192.0.2.7")
BURST = 1000
SO_RCVBUFFORCE = 33
"""socket(7); the socket module does not name it."""


class Containers:
    """Containers with names, on a rig's keeper."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._keys = itertools.count(1)
        self._clients: list[Client] = []

    def prepare(self) -> int:
        """A namespace with only lo, all that the resolver needs; every other one is made ready for it."""
        key = next(self._keys)
        endpoint = protocol.KeeperEndpoint(bridge="", mac=bytes(6), mtu=1500, names=key % 2 == 0)
        answer = self.rig.wire.ask(lambda seq: protocol.NetPrepare(seq=seq, key=key, endpoint=endpoint))
        assert isinstance(answer, protocol.NetReady), answer
        return key

    def set(self, sandbox: protocol.DnsSandbox) -> protocol.Reply:
        return self.rig.wire.ask(lambda seq: protocol.DnsSet(seq=seq, sandbox=sandbox))

    def start(
        self, *networks: protocol.DnsNetwork, script: str = "sleep 1000", **options: object
    ) -> plans.Plan:
        """A container that runs with names on these networks."""
        key = self.prepare()
        plan = self.rig.plan(script, network=plans.PreparedNetwork(key))
        answer = self.set(protocol.DnsSandbox(id=plan.id, key=key, networks=networks, **options))  # type: ignore[arg-type]
        assert isinstance(answer, protocol.Done), (answer, self.rig.complaints())
        return plan

    def run(self, *networks: protocol.DnsNetwork, **options: object) -> tuple[str, Client]:
        """The id and a client inside of such a container."""
        plan = self.start(*networks, **options)  # type: ignore[arg-type]
        return plan.id, self.client(self.rig.run(plan).pid)

    def client(self, pid: int) -> Client:
        self._clients.append(Client(pid))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def containers(rig: Rig) -> Iterator[Containers]:
    containers = Containers(rig)
    yield containers
    containers.close()


def on(network: str, *names: str, addresses: tuple[str, ...] = (), **options: object) -> protocol.DnsNetwork:
    return protocol.DnsNetwork(id=f"{network}-id", name=network, names=names, addresses=addresses, **options)  # type: ignore[arg-type]


def host(server: FakeServer) -> protocol.DnsUpstream:
    return protocol.DnsUpstream(address="127.0.0.1", port=server.port, host=True)


def fixed(message: bytes, name: str, tcp: bool) -> bytes:
    return dns.respond(message, [dns.record(dns.A, 60, ADDRESS)])


def test_containers_find_each_other_by_every_name(containers: Containers) -> None:
    names = ("web", "www", "0123456789ab")
    containers.run(on("shop", *names, addresses=("10.5.0.2", "fd00:5::2")))
    _, client = containers.run(on("shop", "app", addresses=("10.5.0.3",)))
    for name in (*names, "WEB", "web.shop", "Www.Shop."):
        answer = client.ask(name)
        assert (answer.code, answer.addresses()) == (dns.NO_ERROR, ["10.5.0.2"]), name
        assert answer.answers[0][2] == 600
        assert answer.question == dns.encode_name(name) + struct.pack(">HH", dns.A, 1), "as it was asked"
        assert client.ask(name, dns.AAAA).addresses() == ["fd00:5::2"]
    nothing = client.ask("app", dns.AAAA)
    assert (nothing.code, nothing.answers) == (dns.NO_ERROR, []), "it exists, without such an address"
    assert client.ask("2.0.5.10.in-addr.arpa", dns.PTR).answers[0][3] == b"web.shop"
    reverse = ".".join(reversed("fd000005000000000000000000000002")) + ".ip6.arpa"
    assert client.ask(reverse, dns.PTR).answers[0][3] == b"web.shop"
    (over_tcp, other) = client.ask_over_tcp("web", "www.shop")
    assert over_tcp.addresses() == other.addresses() == ["10.5.0.2"]


def test_other_networks_names_are_not_found(containers: Containers) -> None:
    containers.run(on("secret", "db", addresses=("10.6.0.2",)))
    _, client = containers.run(on("shop", "app", addresses=("10.5.0.3",)))
    for name in ("db", "db.secret"):
        assert client.ask(name).code == dns.SERVER_FAILURE
    assert client.ask("2.0.6.10.in-addr.arpa", dns.PTR).code == dns.SERVER_FAILURE


def test_who_shares_a_name_is_answered_in_turn_and_large_answers_go_over_tcp(containers: Containers) -> None:
    members = {f"10.5.1.{number}" for number in range(1, 41)}
    for address in members:
        containers.start(on("shop", "many", addresses=(address,)))
    _, client = containers.run(on("shop", "app", addresses=("10.5.0.3",)))
    small = client.ask("many")
    assert small.truncated
    assert small.size <= 512
    assert len(small.answers) < 40
    large = client.ask("many", edns=4096)
    assert not large.truncated
    assert set(large.addresses()) == members
    assert [r[1] for r in large.additional] == [dns.OPT]
    assert set(client.ask_over_tcp("many")[0].addresses()) == members
    firsts = {client.ask("many").addresses()[0] for _ in range(60)}
    assert len(firsts) > 30, "each comes first in its turn"


def test_links_and_changes_while_it_runs(containers: Containers) -> None:
    containers.run(on("shop", "web", addresses=("10.5.0.2",)))
    id_, client = containers.run(on("shop", "app", addresses=("10.5.0.3",), links=(("backend", "web"),)))
    _, other = containers.run(on("shop", "job", addresses=("10.5.0.4",)))
    assert client.ask("backend").addresses() == ["10.5.0.2"]
    assert other.ask("backend").code == dns.SERVER_FAILURE
    # Connected to a second network, then away from the first.
    moved = protocol.DnsSandbox(id=id_, networks=(on("back", "app", addresses=("10.7.0.3",)),))
    for _ in range(2):
        assert isinstance(containers.set(moved), protocol.Done)
        assert client.ask("app.back").addresses() == ["10.7.0.3"]
        assert client.ask("web").code == dns.SERVER_FAILURE
        assert other.ask("app").code == dns.SERVER_FAILURE


def test_a_container_that_runs_already_is_served_from_then_on(containers: Containers) -> None:
    plan = containers.rig.plan("sleep 1000", network=plans.PreparedNetwork(containers.prepare()))
    pid = containers.rig.run(plan).pid
    joined = protocol.DnsSandbox(id=plan.id, networks=(on("shop", "late", addresses=("10.5.0.9",)),))
    assert isinstance(containers.set(joined), protocol.Done)
    assert containers.client(pid).ask("late").addresses() == ["10.5.0.9"]
    unknown = containers.set(protocol.DnsSandbox(id="f" * 64))
    assert isinstance(unknown, protocol.Failed)
    assert unknown.error.step == "not_found"


def test_a_container_may_run_a_server_of_its_own(containers: Containers) -> None:
    plan = containers.start(on("shop", "dns", addresses=("10.5.0.2",)))
    pid = containers.rig.run(plan).pid
    client = containers.client(pid)
    with dns.socket_inside(pid, socket.SOCK_DGRAM) as udp, dns.socket_inside(pid, socket.SOCK_STREAM) as tcp:
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        tcp.listen(1)
        with dns.socket_inside(pid, socket.SOCK_DGRAM) as asker:
            asker.sendto(b"for the container's own server", ("127.0.0.1", 53))
        assert udp.recv(100) == b"for the container's own server"
        assert client.ask("dns").addresses() == ["10.5.0.2"]
        assert client.ask_over_tcp("dns")[0].addresses() == ["10.5.0.2"]


def test_names_go_with_the_container_whoever_looks(containers: Containers) -> None:
    rig = containers.rig
    gone, _ = containers.run(on("shop", "web", addresses=("10.5.0.2",)), script="sleep 0.2")
    _, client = containers.run(on("shop", "app", addresses=("10.5.0.3",)))
    failed = containers.start(on("shop", "bad", addresses=("10.5.0.4",)))
    assert client.ask("bad").code == dns.NO_ERROR
    process = msgspec.structs.replace(failed.process, args=("/nonexistent",))
    plan = msgspec.structs.replace(failed, process=process)
    assert isinstance(rig.wire.ask(lambda seq: protocol.Start(seq=seq, plan=plan)), protocol.Failed)
    assert client.ask("bad").code == dns.SERVER_FAILURE
    rig.wire.exit_of(gone)
    assert client.ask("web").code == dns.SERVER_FAILURE


def test_names_survive_the_daemon_and_what_it_did_not_come_to_start_does_not(containers: Containers) -> None:
    rig = containers.rig
    _, client = containers.run(on("shop", "web", addresses=("10.5.0.2",)))
    containers.start(on("shop", "unborn", addresses=("10.5.0.8",)))
    assert client.ask("unborn").addresses() == ["10.5.0.8"]
    rig.wire.socket.close()
    assert client.ask("web").addresses() == ["10.5.0.2"]
    rig.connect()
    rig.wire.hello()
    assert client.ask("web").addresses() == ["10.5.0.2"]
    assert client.ask("unborn").code == dns.SERVER_FAILURE


def test_names_survive_a_hand_over_and_a_question_under_way_is_answered(containers: Containers) -> None:
    rig = containers.rig
    told: list[str] = []

    def once_told(message: bytes, name: str, tcp: bool) -> bytes | None:
        return fixed(message, name, tcp) if told else None

    with FakeServer(once_told) as server:
        _, client = containers.run(on("shop", "web", addresses=("10.5.0.2",)), upstreams=(host(server),))
        client.udp.send(dns.query(77, "slow.example"))
        assert eventually(lambda: bool(server.asked))
        told.append("answer")
        hand_over(rig)
        answer = client.answer()
        assert (answer.id, answer.addresses()) == (77, ["192.0.2.7"])
        assert client.ask("web").addresses() == ["10.5.0.2"]
        assert client.ask_over_tcp("web.shop")[0].addresses() == ["10.5.0.2"]
        assert client.ask("other.example").addresses() == ["192.0.2.7"]
        _, newer = containers.run(on("shop", "new", addresses=("10.5.0.7",)))
        assert client.ask("new").addresses() == ["10.5.0.7"]
        assert newer.ask("web").addresses() == ["10.5.0.2"]


def test_a_hand_over_that_fails_leaves_the_names(containers: Containers, tmp_path: Path) -> None:
    _, client = containers.run(on("shop", "web", addresses=("10.5.0.2",)))
    program = tmp_path / "says-yes-and-is-gone"
    program.write_text('#!/bin/sh\nrm "$0"\n')
    program.chmod(0o700)
    answer = containers.rig.wire.ask(lambda seq: protocol.HandOver(seq=seq, argv=(str(program),)))
    assert isinstance(answer, protocol.Failed)
    assert not program.exists(), "the old keeper had let go already"
    assert client.ask("web").addresses() == ["10.5.0.2"]


def test_an_internal_network_asks_nobody(containers: Containers) -> None:
    with FakeServer(fixed) as server:
        _, outside = containers.run(on("shop", "app"), upstreams=(host(server),))
        assert outside.ask("cached.example").addresses() == ["192.0.2.7"]
        _, inside = containers.run(on("inner", "app", addresses=("10.9.0.2",)))
        for name in ("cached.example", "other.example"):
            assert inside.ask(name).code == dns.SERVER_FAILURE
        assert inside.ask("app").addresses() == ["10.9.0.2"]
        assert [name for name, _ in server.asked] == ["cached.example"]


def test_what_servers_answer_is_kept_for_its_time_and_shared_where_it_may_be(containers: Containers) -> None:
    with FakeServer(fixed) as server:
        _, one = containers.run(on("shop", "one"), upstreams=(host(server),))
        _, two = containers.run(on("back", "two"), upstreams=(host(server),))
        assert one.ask("Example.ORG").addresses() == ["192.0.2.7"]
        kept = two.ask("eXample.org")
        assert kept.addresses() == ["192.0.2.7"]
        assert kept.question.startswith(b"\x07eXample")
        assert len(server.asked) == 1
        one.ask("example.org", dns.TXT)
        one.ask("example.org", edns=1232)
        assert len(server.asked) == 3, "other questions are asked"


def test_what_a_containers_own_server_answers_is_its_own(containers: Containers) -> None:
    """The same address is another server in another container, and may be lying."""
    plan = containers.start(on("shop", "one"))
    pid = containers.rig.run(plan).pid
    one = containers.client(pid)

    def lie(message: bytes, name: str, tcp: bool) -> bytes:
        return dns.respond(message, [dns.record(dns.A, 3600, socket.inet_aton("203.0.113.66"))])

    with FakeServer(lie, pid) as inner:
        own = protocol.DnsUpstream(address="127.0.0.1", port=inner.port)
        containers.set(protocol.DnsSandbox(id=plan.id, upstreams=(own,)))
        assert one.ask("bank.example").addresses() == ["203.0.113.66"]
        assert one.ask("bank.example").addresses() == ["203.0.113.66"]
        assert len(inner.asked) == 1, "kept for the container itself"
        _, two = containers.run(on("shop", "two"), upstreams=(own,))
        assert two.ask("bank.example").code == dns.SERVER_FAILURE, "nobody listens there in the other one"
        with FakeServer(fixed) as server:
            containers.set(protocol.DnsSandbox(id=plan.id, upstreams=(host(server),)))
            assert one.ask("bank.example").addresses() == ["192.0.2.7"], "not what the old server has said"


def test_that_there_is_nothing_is_kept_as_long_as_the_zone_says(containers: Containers) -> None:
    def nothing(message: bytes, name: str, tcp: bool) -> bytes:
        authority = [] if name.startswith("silent") else [dns.soa(300, 60)]
        return dns.respond(message, [], authority, code=dns.NAME_ERROR)

    with FakeServer(nothing) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        for _ in range(3):
            assert client.ask("missing.example").code == dns.NAME_ERROR
        assert len(server.asked) == 1
        for _ in range(3):
            assert client.ask("silent.example").code == dns.NAME_ERROR
        assert len(server.asked) == 4, "nobody has said how long"


def test_answers_that_are_cut_off_are_fetched_over_tcp_once(containers: Containers) -> None:
    many = [dns.record(dns.A, 60, bytes([192, 0, 2, number])) for number in range(100)]

    def too_large(message: bytes, name: str, tcp: bool) -> bytes:
        return dns.respond(message, many) if tcp else dns.respond(message, flags=0x8380)

    with FakeServer(too_large) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        assert client.ask("many.example").truncated
        assert len(client.ask_over_tcp("many.example")[0].answers) == 100
        assert server.asked == [("many.example", False), ("many.example", True)], (
            "the second came from memory"
        )
        assert len(client.ask("large.example", edns=4096).answers) == 100


def test_answers_longer_than_there_is_room_for_over_udp_are_fetched_over_tcp(containers: Containers) -> None:
    many = [dns.record(dns.A, 60, bytes([192, 0, number // 250, number % 250])) for number in range(500)]

    def large(message: bytes, name: str, tcp: bool) -> bytes:
        return dns.respond(message, many)

    with FakeServer(large) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        assert len(client.ask("many.example", edns=16384).answers) == 500
        assert server.asked == [("many.example", False), ("many.example", True)]


def test_the_next_server_is_asked_when_one_fails_or_is_silent(containers: Containers) -> None:
    def refuse(message: bytes, name: str, tcp: bool) -> bytes:
        return dns.respond(message, code=dns.SERVER_FAILURE)

    def silence(message: bytes, name: str, tcp: bool) -> None:
        return None

    with FakeServer(refuse) as refusing, FakeServer(silence) as silent, FakeServer(fixed) as good:
        closed = protocol.DnsUpstream(address="127.0.0.1", port=1, host=True)
        _, one = containers.run(on("a", "one"), upstreams=(closed, host(refusing), host(good)))
        assert one.ask("one.example").addresses() == ["192.0.2.7"]
        _, two = containers.run(on("a", "two"), upstreams=(host(silent), host(good)))
        assert two.ask("two.example").addresses() == ["192.0.2.7"]
        before = len(silent.asked)
        assert two.ask("three.example").addresses() == ["192.0.2.7"]
        assert len(silent.asked) == before, "who was silent is not asked first again"
        _, three = containers.run(on("a", "three"), upstreams=(closed, host(refusing)))
        assert three.ask("four.example").code == dns.SERVER_FAILURE


def test_only_the_server_asked_and_only_the_question_asked_are_believed(containers: Containers) -> None:
    def confused(message: bytes, name: str, tcp: bool) -> bytes:
        wrong_id = bytes([message[0] ^ 1]) + message[1:]
        server.udp.sendto(dns.respond(wrong_id, [dns.record(dns.A, 60, b"\1\1\1\1")]), server.clients[-1])
        other = dns.query(0, "other.example")
        server.udp.sendto(
            dns.respond(message[:2] + other[2:], [dns.record(dns.A, 60, b"\2\2\2\2")]), server.clients[-1]
        )
        # All that it must match, but from another port.
        liar.sendto(dns.respond(message, [dns.record(dns.A, 60, b"\3\3\3\3")]), server.clients[-1])
        return fixed(message, name, tcp)

    with FakeServer(confused) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        assert client.ask("example.org").addresses() == ["192.0.2.7"]
        ports, ids = set(), set()
        for number in range(20):
            client.ask(f"n{number}.example")
            ports.add(server.clients[-1][1])
            ids.add(server.messages[-1][:2])
        assert min(len(ports), len(ids)) > 15, "neither is to be guessed"


def test_questions_of_one_turn_share_a_socket_and_none_is_used_for_long(containers: Containers) -> None:
    """The kernel's way of a packet is most of a question's cost, so that equal ones go together."""
    with FakeServer(fixed) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        for turn in range(4):
            for number in range(200):
                client.udp.send(dns.query(number, f"{'n' * (number % 7)}{turn}-{number:03}.example"))
            answers = [client.answer() for _ in range(200)]
            assert {answer.id for answer in answers} == set(range(200))
            assert all(answer.addresses() == ["192.0.2.7"] for answer in answers)
        ports = {port for _, port in server.clients}
        assert 800 / 128 <= len(ports) < 200
        ids = {message[:2] for message in server.messages}
        assert len(ids) > 750, "each question has an id of its own"


def test_options_go_through_untouched_and_are_kept_for_nobody(containers: Containers) -> None:
    cookie = struct.pack(">HH", 10, 8) + b"cookie!!"
    with FakeServer(fixed) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),))
        for _ in range(2):
            assert client.ask("example.org", edns=1232, options=cookie).addresses() == ["192.0.2.7"]
        assert len(server.asked) == 2
        assert all(message.endswith(cookie) for message in server.messages)


def test_names_without_a_dot_stay_here_where_ndots_was_chosen(containers: Containers) -> None:
    with FakeServer(fixed) as server:
        _, client = containers.run(on("shop", "app"), upstreams=(host(server),), ndots=True)
        answer = client.ask("printer")
        assert (answer.code, answer.answers) == (dns.NO_ERROR, [])
        assert client.ask("printer.example").addresses() == ["192.0.2.7"]
        assert [name for name, _ in server.asked] == ["printer.example"]


def test_what_is_no_question_is_told_so_or_ignored(containers: Containers) -> None:
    _, client = containers.run(on("shop", "web", addresses=("10.5.0.2",)))
    good = dns.query(5, "web")
    for message, code in (
        (good[:4] + b"\0\2" + good[6:], dns.FORMAT_ERROR),
        (good[:-5], dns.FORMAT_ERROR),
        (good[:2] + b"\x28\0" + good[4:], dns.NOT_IMPLEMENTED),
    ):
        client.udp.send(message)
        assert client.udp.recv(512)[3] & 15 == code
    for message in (b"", b"\0" * 11, good[:2] + b"\x81\x80" + good[4:], os.urandom(3)):
        client.udp.send(message)
    assert client.ask("web").id == 1, "nothing came for the others"


def test_a_burst_of_questions_waits_for_its_turn(containers: Containers) -> None:
    """Programs that all ask at once, on a busy host: a question that is dropped costs five seconds."""
    _, client = containers.run(on("shop", "web", addresses=("10.5.0.2",)))
    client.udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    keeper = containers.rig.wire.hello().pid
    os.kill(keeper, signal.SIGSTOP)
    try:
        for number in range(BURST):
            client.udp.send(dns.query(number, "web"))
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert {client.answer().id for _ in range(BURST)} == set(range(BURST))


@pytest.mark.cgroup
def test_twelve_hundred_names_on_one_network(containers: Containers) -> None:
    for number in range(1200):
        address = f"10.8.{number // 250}.{number % 250 + 1}"
        containers.start(on("big", f"node{number}", f"{number:012x}", addresses=(address,)))
    _, client = containers.run(on("big", "asker", addresses=("10.8.99.1",)))
    for number in range(1200):
        assert client.ask(f"node{number}").addresses() == [f"10.8.{number // 250}.{number % 250 + 1}"]
    threads = list(Path(f"/proc/{containers.rig.wire.hello().pid}/task").iterdir())
    assert len(threads) <= 3, "one loop for all"

"""Log drivers that ship lines, each to a real receiver of this test: by unix sockets and 127.0.0.1."""

import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from instance import Instance, eventually, instance
from peers import free_port

PARTIAL = 16 * 1024


class Stream:
    """A server of stream connections that keeps all it reads."""

    def __init__(self, family: int, address: object) -> None:
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        self.listener.listen()
        self.received = b""
        self.connections: list[socket.socket] = []
        self._more = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            while chunk := connection.recv(1 << 16):
                with self._more:
                    self.received += chunk
                    self._more.notify_all()
        except OSError:
            return

    def wait_for(self, wanted: bytes) -> bytes:
        """All that has come, once `wanted` is among it."""
        with self._more:
            assert self._more.wait_for(lambda: wanted in self.received, 20), self.received[-500:]
            return self.received

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.connections.clear()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("logs") / "proa") as running:
        yield running


@pytest.fixture
def datagrams(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.settimeout(20)
        yield server


def run(daemon: Instance, script: str, driver: str, *words: str, **options: object) -> str:
    """Run a script to its end with a log driver; `options` go to it. The container's id."""
    logging = [word for name, value in options.items() for word in ("--log-opt", f"{_name(name)}={value}")]
    created = daemon.run("create", "--log-driver", driver, *logging, *words, "busybox", "sh", "-c", script)
    assert created.returncode == 0, created.stderr
    id_ = created.stdout.strip()
    started = daemon.run("start", id_)
    assert started.returncode == 0, started.stderr
    daemon.run("wait", id_)
    return id_


def _name(option: str) -> str:
    return option.replace("_", "-")


def refused(daemon: Instance, driver: str, **options: object) -> str:
    logging = [word for name, value in options.items() for word in ("--log-opt", f"{_name(name)}={value}")]
    done = daemon.run("run", "--rm", "--log-driver", driver, *logging, "busybox", "true")
    assert done.returncode == 125
    return done.stderr


@pytest.mark.parametrize(
    ("layout", "head"),
    [
        ("", r"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d web\[\d+\]: "),
        ("rfc3164", r"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d [\w.-]+ web\[\d+\]: "),
        ("rfc5424", r"<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ [\w.-]+ web \d+ web - "),
        ("rfc5424micro", r"<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\S+ [\w.-]+ web \d+ web - "),
    ],
)
def test_syslog_by_datagrams(
    daemon: Instance, datagrams: socket.socket, tmp_path: Path, layout: str, head: str
) -> None:
    options = {"syslog_address": f"unixgram://{tmp_path}/socket", "syslog_format": layout, "tag": "{{.Name}}"}
    id_ = run(
        daemon, "echo one; echo; printf 'b\\377\\0\\n'; echo end >&2", "syslog", "--name=web", **options
    )
    found = [datagrams.recv(1 << 16) for _ in range(3)]
    assert re.fullmatch(head.encode() + b"one\n", found[0]), found
    assert b"b\xff\0\n" in b"".join(found)
    assert any(message.startswith(b"<27>") and message.endswith(b"end\n") for message in found)
    logs = daemon.run("logs", id_)
    assert "one\n" in logs.stdout
    assert logs.stderr == "end\n"
    daemon.run("rm", id_)


def test_syslog_by_tcp_and_a_server_that_comes_back(daemon: Instance) -> None:
    port = free_port()
    server = Stream(socket.AF_INET, ("127.0.0.1", port))
    address = f"tcp://127.0.0.1:{port}"
    logging = ("--log-driver", "syslog", "--log-opt", f"syslog-address={address}")
    script = "mkfifo /go; echo first; read x < /go; echo second"
    id_ = daemon.run("run", "-d", *logging, "busybox", "sh", "-c", script).stdout.strip()
    server.wait_for(b"first\n")
    server.close()
    server = Stream(socket.AF_INET, ("127.0.0.1", port))
    daemon.run("exec", id_, "sh", "-c", "echo > /go")
    server.wait_for(b"second\n")
    server.close()
    daemon.run("rm", "-f", id_)


def test_fluentd_pieces_attributes_and_a_daemon_that_is_killed(daemon: Instance, tmp_path: Path) -> None:
    server = Stream(socket.AF_UNIX, str(tmp_path / "fluent"))
    script = f"head -c {2 * PARTIAL + 3} /dev/zero | tr '\\0' x; echo; echo err >&2; read x; echo after"
    logging = [
        word
        for option in (
            f"fluentd-address=unix://{tmp_path}/fluent",
            "fluentd-sub-second-precision=true",
            "labels=tier",
            "env-regex=^LE",
            "tag=docker.{{.Name}}",
        )
        for word in ("--log-opt", option)
    ]
    words = ("--name=flu", "--label=tier=front", "-eLEVEL=3", "busybox", "sh", "-c", script)
    id_ = daemon.run("run", "-di", "--log-driver=fluentd", *logging, *words).stdout.strip()
    server.wait_for(b"partial_last\xa4true")
    daemon.kill_daemon()
    daemon.start()
    daemon.run("attach", "--sig-proxy=false", id_, input="go\n")
    received = server.wait_for(b"after")
    messages = _unpacked(received)
    assert {message[0] for message in messages} == {"docker.flu"}
    assert all(message[1].code == 0 and len(message[1].data) == 8 for message in messages)
    records = [message[2] for message in messages]
    assert all(
        (r["container_id"], r["container_name"], r["tier"], r["LEVEL"]) == (id_, "/flu", "front", "3")
        for r in records
    )
    pieces = [r for r in records if "partial_id" in r]
    assert [len(piece["log"]) for piece in pieces] == [PARTIAL, PARTIAL, 3]
    assert [piece["partial_ordinal"] for piece in pieces] == ["1", "2", "3"]
    assert len({piece["partial_id"] for piece in pieces}) == 1
    assert {(r["source"], r["log"]) for r in records if "partial_id" not in r} == {
        ("stderr", "err"),
        ("stdout", "after"),
    }
    server.close()
    daemon.run("rm", "-f", id_)


def _unpacked(received: bytes) -> list[list[object]]:
    """Messages that follow each other without a mark: a sequence is made of them by counting."""
    decoder = msgspec.msgpack.Decoder(list)
    count = received.count(b"\xaccontainer_id")
    return decoder.decode(b"\xdc" + count.to_bytes(2) + received)


def test_gelf_by_udp_in_chunks_and_by_tcp(daemon: Instance) -> None:
    script = f"echo short; head -c 16000 /dev/urandom | od -An -tx1 | tr -d ' \\n' | head -c {PARTIAL}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        id_ = run(daemon, script, "gelf", gelf_address=f"udp://127.0.0.1:{server.getsockname()[1]}")
        short = json.loads(gzip.decompress(server.recv(1 << 16)))
        chunks = {}
        while not chunks or len(chunks) < next(iter(chunks.values()))[11]:
            chunk = server.recv(1 << 16)
            assert chunk[:2] == b"\x1e\x0f"
            chunks[chunk[10]] = chunk
        whole = b"".join(chunks[number][12:] for number in sorted(chunks))
        long = json.loads(gzip.decompress(whole))
    assert (short["short_message"], short["level"], short["version"]) == ("short", 6, "1.1")
    assert (short["_container_id"], short["_image_name"]) == (id_, "busybox")
    assert len(long["short_message"]) == PARTIAL
    daemon.run("rm", id_)

    stream = Stream(socket.AF_INET, ("127.0.0.1", port := free_port()))
    id_ = run(daemon, "echo plain; echo last >&2", "gelf", gelf_address=f"tcp://localhost:{port}")
    messages = stream.wait_for(b"last").split(b"\0")
    found = sorted((json.loads(m)["short_message"], json.loads(m)["level"]) for m in messages if m)
    assert found == [("last", 3), ("plain", 6)]
    stream.close()
    daemon.run("rm", id_)


def test_starts_fail_where_the_server_is_not_there(daemon: Instance, tmp_path: Path) -> None:
    port = free_port()
    told = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    for driver in ("syslog", "fluentd", "gelf"):
        text = refused(daemon, driver, **{f"{driver}_address": f"tcp://127.0.0.1:{port}"})
        assert "failed to create task for container: failed to initialize logging driver: " in text
        assert told in text
    assert "no such host" in refused(daemon, "syslog", syslog_address="tcp://no.such.host.invalid:1")
    assert "unknown log opt 'x' for syslog log driver" in refused(daemon, "syslog", x="1")
    assert "no log driver named 'splunk' is registered" in refused(daemon, "splunk")
    assert daemon.run("ps", "-aq").stdout == ""


def test_an_asynchronous_fluentd_gets_it_all_when_it_comes(daemon: Instance) -> None:
    port = free_port()
    options = {"fluentd_address": f"127.0.0.1:{port}", "fluentd_async": "true", "fluentd_retry_wait": "100ms"}
    logging = [word for name, value in options.items() for word in ("--log-opt", f"{_name(name)}={value}")]
    script = "echo early; read x"
    id_ = daemon.run("run", "-di", "--log-driver=fluentd", *logging, "busybox", "sh", "-c", script)
    server = Stream(socket.AF_INET, ("127.0.0.1", port))
    server.wait_for(b"early")
    server.close()
    assert daemon.run("logs", id_.stdout.strip()).stdout == "early\n"
    daemon.run("rm", "-f", id_.stdout.strip())


def test_a_server_that_does_not_read(daemon: Instance) -> None:
    """A blocking log holds its container up and lets it go on, another never waits; a kill is obeyed."""
    line = "head -c 100000 /dev/zero | tr '\\0' x; echo"
    script = f"i=0; while [ $i -lt 40 ]; do {line}; i=$((i+1)); done; echo done"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        dropping = run(daemon, script, "syslog", syslog_address=address, mode="non-blocking")
        assert daemon.run("logs", "--tail=1", dropping).stdout == "done\n"
        listener.accept()[0].close()

        logging = ("--log-driver=syslog", "--log-opt", f"syslog-address={address}")
        long = f"{script}; {script}; {script}"
        id_ = daemon.run("run", "-d", *logging, "busybox", "sh", "-c", long).stdout.strip()
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            size = Path(daemon.config.data_root, "containers", id_, f"{id_}-json.log")
            assert eventually(lambda: size.stat().st_size > 1_000_000)
            assert daemon.run("inspect", "-f", "{{.State.Running}}", id_).stdout == "true\n"
            seen = 0
            while seen < 12_000_000:
                seen += len(server.recv(1 << 20))
            assert daemon.run("wait", id_).stdout == "0\n"
        daemon.run("rm", "-f", dropping, id_)

        id_ = daemon.run("run", "-d", *logging, "busybox", "sh", "-c", f"{long}; {long}").stdout.strip()
        stuck, _ = listener.accept()
        with stuck:
            killed = daemon.run("rm", "-f", id_, timeout=10)
            assert killed.returncode == 0


def test_without_a_cache_there_is_nothing_to_read(
    daemon: Instance, datagrams: socket.socket, tmp_path: Path
) -> None:
    address = f"unixgram://{tmp_path}/socket"
    id_ = run(daemon, "echo x", "syslog", syslog_address=address, cache_disabled="true")
    assert datagrams.recv(1 << 16).endswith(b": x\n")
    assert "configured logging driver does not support reading" in daemon.run("logs", id_).stderr
    assert daemon.run("inspect", "-f", "{{.LogPath}}", id_).stdout == "\n"
    daemon.run("rm", id_)


def test_info_lists_the_drivers(daemon: Instance) -> None:
    info = daemon.api.call("GET", "/info")
    assert info["Plugins"]["Log"] == ["fluentd", "gelf", "journald", "json-file", "local", "syslog"]


def test_defaults_of_the_daemon(tmp_path: Path, datagrams: socket.socket) -> None:
    words = ("--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{tmp_path}/socket")
    with instance(tmp_path / "proa", *words, "--log-opt", "tag=def") as daemon:
        assert daemon.run("run", "--rm", "busybox", "echo", "hello").stdout == "hello\n"
        assert re.search(rb" def\[\d+\]: hello\n", datagrams.recv(1 << 16))
        assert daemon.run("info", "-f", "{{.LoggingDriver}}").stdout == "syslog\n"

"""The daemon's surface: names that are paths, who may connect, what others can read, what a client may take.

CVE-2020-15257, CVE-2021-41103, CVE-2025-64329.
"""

import http.client
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from hostile import compiled, host_pid, sh
from instance import Instance, eventually

from proa.api.server import ROUTES

NAMES = (
    "..",
    ".",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "x\0y",
    "x\nFORGED line",
    "%2e%2e%2f",
    "\u2028",
    "*",
    "-rf",
    "a" * 5000,
    "sha256:../../x",
    "localhost/../../x",
    "0" * 64 + "/../../x",
)


def request(
    daemon: Instance, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    assert daemon.engine is not None
    with closing(daemon.engine.connection()) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")


NAMED = [route for route in ROUTES if "{name}" in route.path]


@pytest.mark.parametrize("route", NAMED, ids=lambda route: f"{route.method} {route.path}")
def test_a_name_in_a_path_is_a_name(daemon: Instance, route: object) -> None:
    before = snapshot(daemon)
    for name in NAMES:
        for spelled in {quote(name, safe=""), quote(name, safe="/:")}:
            path = "/v1.51" + route.path.replace("{name}", spelled)
            status, text = request(daemon, route.method, path, b"{}" if route.method == "POST" else None)
            assert 400 <= status < 500 or status in (501, 503), (path[:80], status, text)
            assert "internal error" not in text
    assert snapshot(daemon) <= before
    assert "\nFORGED" not in (daemon.root / "log").read_text()


def snapshot(daemon: Instance) -> set[str]:
    """The directories that the engine keeps things in; what tests before this one removed may be on its way
    out still.
    """
    roots = (daemon.config.data_root, daemon.config.exec_root)
    found = (path for root in roots for path in Path(root).glob("*/*") if path.is_dir())
    return {str(path) for path in found if not path.name.startswith("removed-")}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "-rf"])
def test_a_name_that_is_given_is_one(daemon: Instance, name: str) -> None:
    before = snapshot(daemon)
    for path, body in (
        (f"/containers/create?name={quote(name)}", {"Image": "busybox"}),
        ("/volumes/create", {"Name": name}),
        ("/networks/create", {"Name": name}),
        ("/containers/create", {"Image": name}),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"Binds": [f"{name}:/x"]}}),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": f"container:{name}"}}),
        ("/containers/create", {"Image": "busybox", "HostConfig": {"VolumesFrom": [name]}}),
        (f"/images/create?fromSrc=-&repo={quote(name)}", None),
        (f"/images/busybox/tag?repo={quote(name)}", None),
        (f"/images/busybox/tag?repo=x&tag={quote(name)}", None),
    ):
        if "Binds" in str(body) and name.startswith(("/", "a/")):
            continue  # a path of the host, or refused as a relative one elsewhere
        made, refused = {}, ""
        try:
            made = daemon.api.call("POST", path, body)
        except RuntimeError as error:
            refused = str(error)
        assert " 500 " not in refused
        if (
            made and path == "/networks/create"
        ):  # any text names one, as Docker has it; its bridge is named by the id
            daemon.api.call("DELETE", f"/networks/{made['Id']}")
        elif not refused:
            assert name == "a" * 5000, (path, body, made)
            assert path.startswith("/containers/create?name"), (path, body, made)
            daemon.api.call("DELETE", f"/containers/{made['Id']}")  # a name may be as long as one likes
    assert eventually(lambda: snapshot(daemon) <= before)


def test_state_is_the_engine_s_alone(daemon: Instance) -> None:
    for root in (Path(daemon.config.data_root), Path(daemon.config.exec_root)):
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        open_ = {path.name for path in root.iterdir() if stat.S_IMODE(path.lstat().st_mode) & 0o077}
        assert open_ <= {"engine-id", "proad.pid", "cgroup"}


def test_sockets_are_pathnames_and_private(daemon: Instance) -> None:
    assert daemon.engine is not None
    pids = set(daemon.engine.pids())
    inodes = {
        os.readlink(entry)[8:-1]
        for pid in pids
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.lexists(entry) and os.readlink(entry).startswith("socket:")
    }
    listening = [
        line.split()
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if line.split()[6] in inodes and int(line.split()[3], 16) & 0x10000
    ]
    assert len(listening) >= 2
    for fields in listening:
        path = fields[7]
        assert path.startswith("/"), fields  # none in the abstract name space
        assert stat.S_IMODE(os.stat(path).st_mode) in (0o600, 0o660)
    tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    assert not [line for line in tcp.splitlines() if len(line.split()) > 9 and line.split()[9] in inodes]


@pytest.mark.parametrize("name", ["proad.sock", "keeper.sock"])
def test_another_user_is_turned_away_even_through_a_wide_door(daemon: Instance, name: str) -> None:
    """Should someone widen the modes, the peer's credentials still count."""
    root = Path(daemon.config.exec_root)
    path = root / name
    kind = socket.SOCK_STREAM if name == "proad.sock" else socket.SOCK_SEQPACKET
    parents = [root.parent, root]
    modes = [stat.S_IMODE(parent.stat().st_mode) for parent in (*parents, path)]
    for parent in (*parents, path):
        parent.chmod(0o777)
    try:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            answer = b""
            try:
                with socket.socket(socket.AF_UNIX, kind) as client:
                    client.settimeout(10)
                    client.connect(str(path))
                    client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = client.recv(1000)
            except OSError:
                pass
            os.write(writer, answer or b"nothing")
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as told:
            answer = told.read()
        assert answer == b"nothing" or answer.startswith(b"HTTP/1.1 403"), answer
    finally:
        for parent, mode in zip((*parents, path), modes, strict=True):
            parent.chmod(mode)


def test_bodies_have_a_limit(daemon: Instance) -> None:
    try:
        status, _ = request(daemon, "POST", "/v1.51/containers/create", b" " * (9 << 20))
    except (OSError, http.client.HTTPException):
        status = 413  # it has closed the connection before all was sent
    assert status == 413
    assert request(daemon, "GET", "/_ping")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"Cmd":' + b"[" * 500_000,
        b'{"Cmd":"' + b"\\u0000" * 1000 + b'"}',
    ],
)
@pytest.mark.parametrize("path", ["/containers/create", "/networks/create", "/auth"])
def test_json_that_is_no_request(daemon: Instance, path: str, body: bytes) -> None:
    status, text = request(daemon, "POST", "/v1.51" + path, body)
    # What /auth reads nothing of is a login, which here no registry can be asked for.
    assert 400 <= status < 500 or status in (501, 503), text
    assert "internal error" not in text


@contextmanager
def running(daemon: Instance, *flags: str) -> Iterator[str]:
    done = daemon.run("run", "-d", *flags, "busybox", "sleep", "1000", cli="proa")
    assert done.returncode == 0, done.stderr
    try:
        yield done.stdout.strip()
    finally:
        daemon.run("rm", "-f", done.stdout.strip(), cli="proa")


def test_an_exec_into_a_paused_container_is_refused(daemon: Instance) -> None:
    with running(daemon) as name:
        daemon.run("pause", name, cli="proa")
        done = daemon.run("exec", name, "true", cli="proa")
        assert done.returncode == 1
        assert "is paused" in done.stderr
        daemon.run("unpause", name, cli="proa")
        assert daemon.run("exec", name, "true", cli="proa").returncode == 0


def test_an_exec_into_a_dying_container_ends(daemon: Instance) -> None:
    for _ in range(8):
        with running(daemon) as name:
            killing = threading.Thread(target=lambda name=name: daemon.run("kill", name, cli="proa"))
            killing.start()
            done = daemon.run("exec", name, "sleep", "1000", cli="proa")
            killing.join()
            assert done.returncode != 0
    assert sh(daemon, "echo alive")[1] == "alive\n"


def test_a_flood_of_attached_clients_is_let_go(daemon: Instance) -> None:
    assert daemon.engine is not None
    with running(daemon, "-i") as name:
        clients = []
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            client.connect(daemon.engine.socket)
            query = "stream=1&stdin=1&stdout=1&stderr=1"
            client.sendall(
                f"POST /v1.51/containers/{name}/attach?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            clients.append(client)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert sh(daemon, "echo alive")[1] == "alive\n"
        keeper = daemon.keeper_pid()
        many = len(os.listdir(f"/proc/{keeper}/fd"))
        for client in clients:
            client.close()
        assert eventually(lambda: len(os.listdir(f"/proc/{keeper}/fd")) < many - 250)


def test_followers_of_logs_share_what_a_user_has_128_of(daemon: Instance) -> None:
    assert daemon.engine is not None
    clients = []
    with running(daemon) as name:
        try:
            for _ in range(300):
                client = socket.socket(socket.AF_UNIX)
                clients.append(client)
                client.settimeout(20)
                client.connect(daemon.engine.socket)
                target = f"/containers/{name}/logs?follow=1&stdout=1"
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for client in clients:
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            daemon.run("exec", name, "sh", "-c", "echo told to all > /proc/1/fd/1", cli="proa")
            for client in clients:
                text = b""
                while b"told to all" not in text:
                    text += client.recv(1000) or pytest.fail("cut")
        finally:
            for client in clients:
                client.close()


@pytest.mark.parametrize(
    "request_line",
    ["POST /images/load", "POST /build", "PUT /containers/{name}/archive?path=/tmp"],
    ids=["load", "build", "copy"],
)
def test_uploads_that_are_cut_leave_no_descriptor(daemon: Instance, request_line: str) -> None:
    assert daemon.engine is not None
    assert daemon.process is not None
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    with running(daemon) as name:
        before = len(list(descriptors.iterdir()))
        head = f"{request_line.format(name=name)} HTTP/1.1\r\nHost: p\r\nContent-Type: application/x-tar\r\n"
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(daemon.engine.socket)
                client.sendall(head.encode() + b"Content-Length: 100000\r\n\r\n" + bytes(1000))
                client.shutdown(socket.SHUT_WR)
                client.recv(1000)
        assert eventually(lambda: len(list(descriptors.iterdir())) <= before + 5)


def test_the_root_of_a_user_namespace_is_nobody_outside(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host's root")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    script = (
        "id -u; cat /proc/self/uid_map; cat /in/secret 2>&1; echo x > /made; stat -c %u /made /bin/sh;"
        " busybox mknod /n b 8 0 2>&1; (echo 1 > /proc/sys/kernel/core_pattern) 2>&1; exec sleep 1000"
    )
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script]}
    body["HostConfig"] = {"UsernsMode": "private", "Binds": [f"{tmp_path}:/in:ro"]}
    name = str(daemon.api.call("POST", "/containers/create", body)["Id"])
    try:
        daemon.api.call("POST", f"/containers/{name}/start")
        assert eventually(lambda: "core_pattern" in daemon.run("logs", name, cli="proa").stdout)
        lines = daemon.run("logs", name, cli="proa").stdout.splitlines()
        assert lines[0] == "0"
        assert int(lines[1].split()[1]) >= 1000
        assert "ermission denied" in lines[2]
        assert lines[3:5] == ["0", "0"]
        assert "ermitted" in lines[5]
        assert "Read-only" in lines[6] or "denied" in lines[6]
        assert os.stat(f"/proc/{host_pid(daemon, name)}").st_uid >= 1000
        done = daemon.run("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map", cli="proa")
        assert done.stdout.splitlines() == lines[:2]
    finally:
        daemon.api.call("DELETE", f"/containers/{name}?force=1")


SUID = """
#include <stdio.h>
#include <unistd.h>
int main(void) { setuid(0); printf("%d %d\\n", getuid(), geteuid()); return 0; }
"""


@pytest.mark.parametrize(
    ("flags", "ids"), [((), "0 0"), (("--security-opt", "no-new-privileges"), "1000 1000")]
)
def test_set_user_id_programs(daemon: Instance, tmp_path: Path, flags: tuple[str, ...], ids: str) -> None:
    program = compiled(SUID, tmp_path, "suid")
    tmp_path.chmod(0o755)
    program.chmod(0o4755)
    script = "/x/suid"
    assert sh(daemon, script, "-u", "1000:1000", "-v", f"{tmp_path}:/x", *flags)[1].strip() == ids


@pytest.mark.parametrize("flags", [(), ("--cap-add", "SYS_PTRACE")], ids=["default", "ptrace"])
def test_no_exec_is_a_way_to_the_host(daemon: Instance, flags: tuple[str, ...]) -> None:
    """A process on its way into the container, looked at by one that is there, privileged to do so even."""
    mark = f"{daemon.root}/log"
    assert Path(mark).exists()
    watch = (
        "while :; do for p in /proc/[2-9]* /proc/1?*; do"
        f" [ -e $p/root{mark} ] && echo root $p;"
        f" for f in $p/cwd $p/fd/*; do [ -e $f/../../../../../../../..{mark} ] && echo $f;"
        f" [ -e $f{mark} ] && echo at $f; done;"
        " busybox tr '\\0' '\\n' < $p/environ | busybox grep -a PROA;"
        " done; done 2>/dev/null"
    )
    name = daemon.run("run", "-d", *flags, "busybox", "sh", "-c", watch, cli="proa").stdout.strip()
    try:
        for _ in range(25):
            assert daemon.run("exec", name, "true", cli="proa").returncode == 0
        assert daemon.run("logs", name, cli="proa").stdout == ""
    finally:
        daemon.run("rm", "-f", name, cli="proa")

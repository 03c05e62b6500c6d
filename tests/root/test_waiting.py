"""What users of container engines wait for and should not: stops, execs, lists, exit codes, zombies.

Source: beaker#1400, moby#33039, moby#30883, podman#18889, moby#42883, moby#38814.
Where something must not wait, it would wait here until the test is ended from outside.
"""

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator

import pytest
from image_archives import tar
from instance import Instance, eventually

from proa.daemon import WORKERS

CLIS = [
    pytest.param(
        "docker", marks=pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker CLI")
    ),
    "proa",
]
FOREVER = "600"
"""Seconds of grace: more than a test has."""


@pytest.fixture
def name(daemon: Instance, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"waiting-{request.node.name.partition('[')[0]}"
    yield name
    daemon.run("rm", "-f", name, cli="proa")


def started(daemon: Instance, name: str, script: str, *flags: str) -> None:
    done = daemon.run("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", script, cli="proa")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flags", [(), ("--init",)], ids=["alone", "below an init"])
def test_who_does_not_listen_is_not_waited_for(daemon: Instance, name: str, flags: tuple[str, ...]) -> None:
    started(daemon, name, "exec sleep 1000", *flags)
    assert daemon.run("stop", "-t", FOREVER, name, cli="proa").returncode == 0


def test_lists_go_on_while_a_stop_waits(daemon: Instance, name: str) -> None:
    started(daemon, name, "trap 'echo noticed' TERM; while :; do sleep 1000 & wait; done")
    stop = threading.Thread(target=daemon.run, args=("stop", "-t", FOREVER, name), kwargs={"cli": "proa"})
    stop.start()
    assert eventually(lambda: "noticed" in daemon.run("logs", name, cli="proa").stdout)
    assert name in daemon.run("ps", cli="proa").stdout
    assert json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]["State"]["Running"] is True
    assert stop.is_alive()
    assert daemon.run("kill", name, cli="proa").returncode == 0
    stop.join(60)
    assert not stop.is_alive()


@pytest.mark.parametrize("cli", CLIS)
def test_an_exec_ends_with_its_process_and_not_with_who_has_its_output(
    daemon: Instance, name: str, cli: str
) -> None:
    started(daemon, name, "exec sleep 1000")
    done = daemon.run("exec", name, "sh", "-c", "sleep 1000 & echo last; exit 3", cli=cli)
    assert (done.returncode, done.stdout) == (3, "last\n")


@pytest.mark.parametrize("code", [0, 1, 125, 255])
@pytest.mark.parametrize("cli", CLIS)
def test_the_exit_code_of_what_is_removed_at_once(daemon: Instance, cli: str, code: int) -> None:
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", f"echo last; exit {code}", cli=cli)
    assert (done.returncode, done.stdout) == (code, "last\n")


def test_whose_removal_is_waited_for_has_its_code_told(daemon: Instance, name: str) -> None:
    api = daemon.api
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "exit 7"], "HostConfig": {"AutoRemove": True}}
    api.call("POST", f"/containers/create?name={name}", body)
    api.request("POST", f"/containers/{name}/wait?condition=removed")
    daemon.api.call("POST", f"/containers/{name}/start")
    assert json.loads(api.getresponse().read())["StatusCode"] == 7


def test_orphans_are_reaped_by_the_built_in_init(daemon: Instance, name: str) -> None:
    started(daemon, name, "for i in 1 2 3 4 5 6 7 8; do (true &) ; done; exec sleep 1000", "--init")

    def zombies() -> str:
        return daemon.run(
            "exec", name, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status", cli="proa"
        ).stdout

    assert eventually(lambda: zombies() == "")


def test_a_container_may_open_as_many_files_as_it_should(daemon: Instance) -> None:
    found = daemon.run("run", "--rm", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn", cli="proa").stdout
    soft, hard = (int(number) for number in found.split())
    assert soft == 1024
    assert soft <= hard <= 524288


STALLED = [
    ("POST", "/images/load", "a load"),
    ("POST", "/build?t=stalled", "a build"),
    ("POST", "/images/create?fromSrc=-&repo=stalled", "an import"),
    ("PUT", "/containers/{name}/archive?path=/tmp", "a copy"),
]


@pytest.mark.parametrize(("method", "path"), [pytest.param(*row[:2], id=row[2]) for row in STALLED])
def test_clients_that_send_no_more_hold_up_nobody(
    daemon: Instance, name: str, method: str, path: str
) -> None:
    """More of them than the daemon has threads for everybody."""
    started(daemon, name, "exec sleep 1000")
    head = f"{method} {path.format(name=name)} HTTP/1.1\r\nHost: proa\r\nTransfer-Encoding: chunked\r\n"
    start = tar({"a": bytes(5000)})[:2000]
    body = b"Content-Type: application/x-tar\r\n\r\n%x\r\n%b\r\n" % (len(start), start)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * WORKERS):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(f"{daemon.config.exec_root}/proad.sock")
            client.sendall(head.encode() + body)
        for words in (("top", name), ("system", "df"), ("volume", "create", name), ("volume", "rm", name)):
            done = daemon.run(*words, cli="proa")
            assert done.returncode == 0, done.stderr
        assert daemon.run("rm", "-f", name, cli="proa").returncode == 0

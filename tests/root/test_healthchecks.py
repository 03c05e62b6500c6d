"""Healthchecks: commands, and probes from within a container's network that need no process in it.

Source: moby#39102, kubernetes#82440 (what a command costs); moby daemon/health.go.
"""

import itertools
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, eventually, instance

OFTEN = ("--health-interval", "50ms", "--health-retries", "2", "--health-timeout", "5s")
HTTPD = "mkdir /w; echo fine >/w/up; exec busybox httpd -f -p 8080 -h /w"
SILENT = "exec sleep 1000"
NUMBERS = itertools.count()


@pytest.fixture
def name(daemon: Instance) -> Iterator[str]:
    name = f"health-{os.getpid()}-{next(NUMBERS)}"  # events are told apart by it
    yield name
    daemon.run("rm", "-f", name, cli="proa")


def run(daemon: Instance, name: str, script: str, *flags: str) -> None:
    words = ("run", "-d", "--name", name, *OFTEN, *flags, "busybox", "sh", "-c", script)
    done = daemon.run(*words, cli="proa")
    assert done.returncode == 0, done.stderr


def health(daemon: Instance, name: str) -> dict:
    return daemon.api.call("GET", f"/containers/{name}/json")["State"]["Health"]


def last(daemon: Instance, name: str) -> tuple[str, int, str]:
    """(status, exit code, output) of what was found last."""
    found = health(daemon, name)
    result = (found["Log"] or [{"ExitCode": None, "Output": ""}])[-1]
    return found["Status"], result["ExitCode"], result["Output"]


def becomes(daemon: Instance, name: str, wanted: tuple[str, int, str]) -> bool:
    return eventually(lambda: last(daemon, name) == wanted, 20) or last(daemon, name)


def actions(daemon: Instance, name: str) -> list[str]:
    done = daemon.run(
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        f"container={name}",
        "--format",
        "{{.Action}}",
        cli="proa",
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "flags", [("--health-http", "8080/up"), ("--health-cmd", "HTTP 8080/up")], ids=["own", "docker's"]
)
def test_http(daemon: Instance, name: str, flags: tuple[str, str]) -> None:
    run(daemon, name, HTTPD, *flags)
    assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
    result = health(daemon, name)["Log"][-1]
    assert result["Start"] <= result["End"]
    assert daemon.run("exec", name, "busybox", "rm", "/w/up", cli="proa").returncode == 0
    assert becomes(daemon, name, ("unhealthy", 1, "HTTP 404")) is True
    assert daemon.run("exec", name, "touch", "/w/up", cli="proa").returncode == 0
    assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
    assert eventually(lambda: len(health(daemon, name)["Log"]) == 5, 20)
    told = actions(daemon, name)
    assert [action for action in told if action.startswith("health")] == [
        "health_status: healthy",
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    # Nothing runs in the container for it.
    assert len([action for action in told if action.startswith("exec_create")]) == 2


def nobody(port: int) -> str:
    return f"127.0.0.1:{port}: connection refused"


def test_each_asks_in_its_own_network(daemon: Instance, name: str) -> None:
    """A port of the host's is none of the container's, unless the network is the host's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for network, wanted in [
            ("bridge", ("unhealthy", 1, nobody(port))),
            ("none", ("unhealthy", 1, nobody(port))),
            ("host", ("healthy", 0, f"127.0.0.1:{port}: connected")),
        ]:
            run(daemon, name, SILENT, "--network", network, "--health-tcp", str(port))
            assert becomes(daemon, name, wanted) is True, network
            daemon.run("rm", "-f", name, cli="proa")


@pytest.mark.parametrize(
    "flags",
    [("--network", "none"), ("--read-only", "--cap-drop", "ALL", "--user", "99")],
    ids=["no network", "nothing allowed"],
)
def test_a_container_without_much(daemon: Instance, name: str, flags: tuple[str, ...]) -> None:
    run(daemon, name, "exec busybox nc -ll -p 5432 -e true", *flags, "--health-tcp", "5432")
    assert becomes(daemon, name, ("healthy", 0, "127.0.0.1:5432: connected")) is True


def test_a_user_namespace_of_its_own(daemon: Instance, name: str) -> None:
    check = {"Test": ["TCP", "5432"], "Interval": 50_000_000}
    body = {
        "Image": "busybox",
        "Cmd": ["busybox", "nc", "-ll", "-p", "5432", "-e", "true"],
        "Healthcheck": check,
        "HostConfig": {"UsernsMode": "private"},
    }
    daemon.api.call("POST", f"/containers/create?name={name}", body)
    daemon.api.call("POST", f"/containers/{name}/start")
    assert becomes(daemon, name, ("healthy", 0, "127.0.0.1:5432: connected")) is True
    own = daemon.run("exec", name, "cat", "/proc/self/uid_map", cli="proa").stdout.split()
    assert own[1] != "0"


def test_the_network_of_another(daemon: Instance, name: str) -> None:
    owner = f"{name}-owner"
    try:
        run(daemon, owner, HTTPD)
        run(daemon, name, SILENT, "--network", f"container:{owner}", "--health-http", "localhost:8080/up")
        assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
    finally:
        daemon.run("rm", "-f", owner, cli="proa")


def test_ipv6(daemon: Instance, name: str) -> None:
    run(daemon, name, HTTPD, "--health-http", "http://[::1]:8080/up")
    assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (
            "printf 'HTTP/1.1 302 Found\\r\\nLocation: http://127.0.0.1:1/\\r\\n\\r\\n'",
            ("healthy", 0, "HTTP 302"),
        ),
        ("cat /dev/zero", ("unhealthy", 1, "127.0.0.1:80: malformed HTTP response")),
        (
            "while :; do printf 'HTTP/1.1 100 Continue\\r\\n\\r\\n'; done",
            ("unhealthy", 1, "127.0.0.1:80: the answer has no status in its first 16 KiB"),
        ),
        ("printf 'HTTP/1.1 200 OK\\r\\n'; while :; do echo 'X: y'; done", ("healthy", 0, "HTTP 200")),
        ("true", ("unhealthy", 1, "127.0.0.1:80: the connection was closed before an answer")),
        ("sleep 1000", ("unhealthy", -1, "Health check exceeded timeout (100ms)")),
    ],
    ids=["redirect", "garbage", "interim", "endless head", "nothing", "silence"],
)
def test_hostile_answers(daemon: Instance, name: str, answer: str, wanted: tuple[str, int, str]) -> None:
    quoted = answer.replace("'", '"')
    script = f"echo '{{ head -n1 >/dev/null; {quoted}; }}' >/a; exec busybox nc -ll -p 80 -e sh /a"
    run(daemon, name, script, "--health-timeout", "100ms", "--health-http", "/")
    assert becomes(daemon, name, wanted) is True


def test_who_is_frozen_is_not_asked(daemon: Instance, name: str) -> None:
    run(daemon, name, HTTPD, "--health-http", "8080/up")
    assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
    daemon.run("pause", name, cli="proa")
    frozen = health(daemon, name)
    assert frozen["Status"] == "unhealthy"
    daemon.run("unpause", name, cli="proa")
    assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
    assert [result["ExitCode"] for result in health(daemon, name)["Log"]].count(0) >= 2


def test_the_next_daemon_asks_on(tmp_path: Path) -> None:
    with instance(tmp_path) as daemon:
        run(daemon, "web", HTTPD, "--health-http", "8080/up")
        run(daemon, "old", "touch /up; exec sleep 1000", "--health-cmd", "test -e /up")
        for name in ("web", "old"):
            assert eventually(lambda name=name: last(daemon, name)[0] == "healthy", 20)
        daemon.kill_daemon()
        daemon.start()
        for name in ("web", "old"):
            assert eventually(lambda name=name: last(daemon, name)[0] == "healthy", 20)


def test_many_have_one_thread_and_no_descriptor_of_their_own(tmp_path: Path) -> None:
    with instance(tmp_path) as daemon:
        assert daemon.process is not None

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        run(daemon, "first", HTTPD, "--network", "none", "--health-http", "8080/up")
        assert becomes(daemon, "first", ("healthy", 0, "HTTP 200")) is True
        before = descriptors()
        names = [f"more{number}" for number in range(10)]
        for name in names:
            run(daemon, name, HTTPD, "--network", "none", "--health-http", "8080/up")
        for name in names:
            assert becomes(daemon, name, ("healthy", 0, "HTTP 200")) is True
        tasks = Path(f"/proc/{daemon.process.pid}/task").glob("*/comm")
        assert [task.read_text() for task in tasks].count("proa-probes\n") == 1
        assert eventually(lambda: descriptors() <= before + 2, 20)


def test_a_command_that_takes_too_long_dies_with_what_it_waits_for(daemon: Instance, name: str) -> None:
    command = "echo asked; sleep 987; true"
    run(daemon, name, SILENT, "--health-timeout", "200ms", "--health-cmd", command)
    assert becomes(daemon, name, ("unhealthy", -1, "Health check exceeded timeout (200ms): asked\n")) is True
    found = daemon.run("exec", name, "busybox", "ps", "-o", "args", cli="proa")
    assert found.returncode == 0
    # The one under way has a shell and a command; of those before it nothing is left.
    assert found.stdout.splitlines().count("sleep 987") <= 1, found.stdout


def test_output_is_cut_and_kept_five_times(daemon: Instance, name: str) -> None:
    run(daemon, name, SILENT, "--health-cmd", "head -c 5000 /dev/zero | tr '\\0' x; exit 3")
    assert eventually(lambda: len(health(daemon, name)["Log"]) == 5, 20)
    assert last(daemon, name) == ("unhealthy", 3, "x" * 4096 + "...")
    assert health(daemon, name)["FailingStreak"] >= 5


def test_none_and_what_cannot_be(daemon: Instance, name: str) -> None:
    def create(test: list[str]) -> str:
        body = {"Image": "busybox", "Cmd": ["true"], "Healthcheck": {"Test": test}}
        return daemon.api.call("POST", f"/containers/create?name={name}", body)["Id"]

    for test in (["HTTP", "https://localhost/"], ["TCP", "db:1"], ["GRPC", "1"]):
        with pytest.raises(RuntimeError, match=": 400 "):
            create(test)
    create(["NONE"])
    assert "Health" not in daemon.api.call("GET", f"/containers/{name}/json")["State"]


def test_the_command_line_takes_one_kind(daemon: Instance) -> None:
    done = daemon.run("create", "--health-cmd", "x", "--health-tcp", "1", "busybox", cli="proa")
    assert "--health-cmd, --health-http and --health-tcp exclude each other" in done.stderr
    done = daemon.run("run", "--no-healthcheck", "--health-tcp", "1", "busybox", cli="proa")
    assert "--no-healthcheck conflicts with --health-* options" in done.stderr


def test_what_a_check_asked_for_is_shown(daemon: Instance, name: str) -> None:
    done = daemon.run("create", "--name", name, "--health-http", "8080/up", "busybox", cli="proa")
    assert done.returncode == 0
    shown = json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]
    assert shown["Config"]["Healthcheck"] == {"Test": ["HTTP", "8080/up"]}

"""Containers that share namespaces and volumes, and ports that are published, through the whole engine."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from instance import Instance, eventually

pytestmark = pytest.mark.start


def proa(daemon: Instance, *words: str, code: int = 0) -> str:
    done = daemon.run(*words, cli="proa")
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout.strip()


@contextmanager
def container(daemon: Instance, *words: str) -> Iterator[str]:
    """A container in the background, by name; removed with its volumes."""
    name = f"shared-{uuid.uuid4().hex[:8]}"
    proa(daemon, "run", "-d", "--name", name, *words)
    try:
        yield name
    finally:
        daemon.run("rm", "-f", "-v", name, cli="proa")


def test_another_containers_network_has_its_address_and_names(daemon: Instance) -> None:
    with container(daemon, "--hostname", "first", "busybox", "sleep", "60") as name:
        first = proa(daemon, "exec", name, "cat", "/etc/hosts")
        script = "hostname; cat /etc/hosts"
        second = proa(daemon, "run", "--rm", "--network", f"container:{name}", "busybox", "sh", "-c", script)
        assert second == f"first\n{first}"


def test_another_containers_processes_are_seen(daemon: Instance) -> None:
    with container(daemon, "busybox", "sleep", "61") as name:
        seen = proa(daemon, "run", "--rm", "--pid", f"container:{name}", "busybox", "cat", "/proc/1/cmdline")
        assert seen.split("\0")[:2] == ["sleep", "61"]


def test_shared_memory_is_shared_with_who_joins(daemon: Instance) -> None:
    with container(daemon, "--ipc", "shareable", "busybox", "sleep", "60") as name:
        proa(
            daemon,
            "run",
            "--rm",
            "--ipc",
            f"container:{name}",
            "busybox",
            "sh",
            "-c",
            "echo x >/dev/shm/file",
        )
        assert proa(daemon, "exec", name, "cat", "/dev/shm/file") == "x"


def test_private_shared_memory_is_not_given_away(daemon: Instance) -> None:
    with container(daemon, "busybox", "sleep", "60") as name:
        done = daemon.run("run", "--rm", "--ipc", f"container:{name}", "busybox", "true", cli="proa")
        assert done.returncode == 125
        assert "non-shareable IPC" in done.stderr


def test_no_shared_memory_at_all(daemon: Instance) -> None:
    mounts = proa(daemon, "run", "--rm", "--ipc", "none", "busybox", "cat", "/proc/mounts")
    assert " /dev/shm " not in mounts


def test_a_container_that_does_not_run_cannot_be_joined(daemon: Instance) -> None:
    with container(daemon, "busybox", "true") as name:
        assert eventually(lambda: proa(daemon, "inspect", "-f", "{{.State.Status}}", name) == "exited")
        done = daemon.run("run", "--rm", "--network", f"container:{name}", "busybox", "true", cli="proa")
        assert done.returncode == 125
        assert "non running container" in done.stderr


# ---- volumes ------------------------------------------------------------------------------------


def test_a_volume_is_filled_from_the_image_and_outlives_the_container(daemon: Instance) -> None:
    name = f"volume-{uuid.uuid4().hex[:8]}"
    try:
        assert "busybox" in proa(daemon, "run", "--rm", "-v", f"{name}:/bin", "busybox", "ls", "/bin")
        proa(daemon, "run", "--rm", "-v", f"{name}:/v", "busybox", "sh", "-c", "echo kept >/v/file")
        assert proa(daemon, "run", "--rm", "-v", f"{name}:/v:ro", "busybox", "cat", "/v/file") == "kept"
        done = daemon.run("run", "--rm", "-v", f"{name}:/v:ro", "busybox", "touch", "/v/file", cli="proa")
        assert "Read-only" in done.stderr
    finally:
        proa(daemon, "volume", "rm", name)


def test_anonymous_volumes_go_with_their_container(daemon: Instance) -> None:
    before = proa(daemon, "volume", "ls", "-q")
    proa(daemon, "run", "--rm", "-v", "/anonymous", "busybox", "true")
    assert eventually(lambda: proa(daemon, "volume", "ls", "-q") == before)
    with container(daemon, "-v", "/anonymous", "busybox", "sleep", "60") as name:
        assert len(proa(daemon, "volume", "ls", "-q").split()) == len(before.split()) + 1
        del name
    assert proa(daemon, "volume", "ls", "-q") == before


def test_volumes_from_another_container(daemon: Instance) -> None:
    with container(daemon, "-v", "/data", "busybox", "sh", "-c", "echo x >/data/f; sleep 60") as name:
        assert eventually(lambda: daemon.run("exec", name, "cat", "/data/f", cli="proa").stdout == "x\n")
        flags = ("--volumes-from", f"{name}:ro")
        assert proa(daemon, "run", "--rm", *flags, "busybox", "cat", "/data/f") == "x"
        assert (
            "Read-only" in daemon.run("run", "--rm", *flags, "busybox", "touch", "/data/f", cli="proa").stderr
        )


def test_a_volume_in_use_stays(daemon: Instance) -> None:
    volume = f"volume-{uuid.uuid4().hex[:8]}"
    with container(daemon, "-v", f"{volume}:/v", "busybox", "sleep", "60"):
        done = daemon.run("volume", "rm", volume, cli="proa")
        assert done.returncode == 1
        assert "volume is in use" in done.stderr
    proa(daemon, "volume", "rm", volume)


# ---- ports --------------------------------------------------------------------------------------

SERVER = ("busybox", "sh", "-c", "mkdir /w; echo hello >/w/index.html; exec httpd -f -p 80 -h /w")


def fetch(port: int) -> str:
    """What a published port of localhost answers; empty while nobody does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.makefile().read().rpartition("\n\n")[2].strip()
    except ConnectionError:
        return ""


def port_of(daemon: Instance, name: str) -> int:
    return int(proa(daemon, "port", name, "80/tcp").rpartition(":")[2])


def test_a_published_port_answers_and_is_held(daemon: Instance) -> None:
    with container(daemon, "-p", "80", *SERVER) as name:
        port = port_of(daemon, name)
        assert eventually(lambda: fetch(port) == "hello")
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", port))
        done = daemon.run("run", "--rm", "-p", f"{port}:80", "busybox", "true", cli="proa")
        assert done.returncode == 125
        assert "port is already allocated" in done.stderr
    assert fetch(port) == ""


def test_a_fixed_port_is_there_again_after_a_restart(daemon: Instance) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with container(daemon, "-p", f"127.0.0.1:{port}:80", *SERVER) as name:
        assert eventually(lambda: fetch(port) == "hello")
        proa(daemon, "restart", "-t", "0", name)
        assert eventually(lambda: fetch(port) == "hello")


def test_ports_and_volumes_survive_the_daemon(daemon: Instance) -> None:
    with container(daemon, "-p", "80", "-v", "/anonymous", *SERVER) as name:
        port = port_of(daemon, name)
        assert eventually(lambda: fetch(port) == "hello")
        volumes = proa(daemon, "volume", "ls", "-q")
        daemon.kill_daemon()
        assert fetch(port) == "hello"
        daemon.start()
        assert eventually(lambda: fetch(port) == "hello")
        assert port_of(daemon, name) == port
        assert proa(daemon, "volume", "ls", "-q") == volumes
        other = proa(daemon, "run", "--rm", "busybox", "cat", "/etc/hosts")
        mine = proa(daemon, "exec", name, "cat", "/etc/hosts")
        assert other.splitlines()[-1].split()[0] != mine.splitlines()[-1].split()[0]

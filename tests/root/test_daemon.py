"""proad as a process: start, lock, signals, deaths; containers do not notice, the keeper is not forgotten."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import proa_native
import pytest
from instance import Instance, eventually, instance


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    """A proad of this file's own: it is killed and started again."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-daemon-"))) as running:
        yield running


@pytest.fixture
def name(daemon: Instance) -> Iterator[str]:
    """A container's name; the container is removed afterwards."""
    name = f"t-{secrets.token_hex(4)}"
    yield name
    daemon.run("rm", "-f", name)


def command(root: Path) -> list[str]:
    """proad on roots below `root`."""
    return [
        sys.executable,
        "-P",
        "-m",
        "proa.daemon",
        "--exec-root",
        f"{root}/run",
        "--data-root",
        f"{root}/lib",
    ]


def status(daemon: Instance, name: str) -> str:
    return daemon.run("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).stdout.strip()


def test_a_second_daemon_on_the_same_roots_says_so(daemon: Instance) -> None:
    second = subprocess.run(command(daemon.root), capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert second.stderr == f"proad: another proad is running with the exec root {daemon.root}/run\n"


def test_directories_are_closed_and_the_pid_is_told(daemon: Instance) -> None:
    for directory in ("run", "lib"):
        assert Path(daemon.root, directory).stat().st_mode & 0o777 == 0o700
    assert int(Path(daemon.root, "run/proad.pid").read_text()) == daemon.process.pid


def test_sigterm_ends_the_daemon_and_leaves_containers_running(daemon: Instance, name: str) -> None:
    daemon.run("run", "-d", "--name", name, "busybox", "sh", "-c", "sleep 2; echo late; exit 6")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert not Path(daemon.root, "run/proad.pid").exists()
    assert not Path(daemon.root, "run/proad.sock").exists()
    daemon.start()
    assert status(daemon, name) == "running 0"
    assert daemon.run("wait", name).stdout == "6\n"
    assert daemon.run("logs", name).stdout == "late\n"


def test_an_exit_while_no_daemon_was_there(daemon: Instance, name: str) -> None:
    daemon.run("run", "-d", "--name", name, "busybox", "sh", "-c", "sleep 0.5; exit 7")
    daemon.kill_daemon()
    assert eventually(lambda: not any("sleep 0.5; exit 7" in line for _, line in _processes()))
    daemon.start()
    assert eventually(lambda: status(daemon, name) == "exited 7")
    past = ("events", "--since", "1", "--until", "0s", "--filter", f"container={name}")
    assert eventually(lambda: "exitCode=7" in daemon.run(*past).stdout)  # until is in whole seconds


def test_exec_and_network_work_after_a_restart(daemon: Instance, name: str) -> None:
    daemon.run("run", "-d", "--name", name, "busybox", "sleep", "60")
    before = daemon.run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).stdout
    daemon.kill_daemon()
    daemon.start()
    assert daemon.run("exec", name, "echo", "hi").stdout == "hi\n"
    assert daemon.run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).stdout == before
    others = [daemon.run("run", "--rm", "busybox", "sh", "-c", "cat /etc/hosts").stdout for _ in range(3)]
    assert not any(before.strip() + "\t" in hosts for hosts in others)
    daemon.run("stop", "-t", "0", name)


def test_the_keeper_s_death_ends_its_containers_and_starts_those_that_want_it(
    daemon: Instance, name: str
) -> None:
    daemon.run("run", "-d", "--name", name, "busybox", "sleep", "60")
    daemon.run("run", "-d", "--name", f"{name}-again", "--restart", "always", "busybox", "sleep", "60")
    os.kill(daemon.keeper_pid(), signal.SIGKILL)
    assert eventually(lambda: status(daemon, name) == "exited 137")
    assert eventually(lambda: status(daemon, f"{name}-again") == "running 0")
    error = daemon.run("inspect", "--format", "{{.State.Error}}", name).stdout
    assert error == "the container was killed: its supervisor had died\n"
    assert daemon.run("run", "--rm", "busybox", "echo", "on").stdout == "on\n"
    daemon.run("rm", "-f", f"{name}-again", name)
    assert eventually(lambda: not daemon.leftovers()), daemon.leftovers()


def test_an_upgraded_native_module_takes_over_without_a_container_noticing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    installed = Path(proa_native.__file__)
    if installed.name == "__init__.py":
        shutil.copytree(installed.parent, library / "proa_native")
    else:
        library.mkdir()
        shutil.copy(installed, library)
    module = next(library.rglob("*.so"))
    monkeypatch.setenv("PYTHONPATH", f"{library}:{os.environ.get('PYTHONPATH', '')}")
    with instance(Path(tempfile.mkdtemp(prefix="proa-upgrade-"))) as daemon:
        program = "mkfifo /go; read word < /go; echo late; exit 6"
        daemon.run("run", "-d", "--name", "it", "busybox", "sh", "-c", program)
        keeper = daemon.keeper_pid()
        daemon.kill_daemon()
        shutil.copy(module, library / "new")
        (library / "new").rename(module)
        daemon.start()
        assert daemon.keeper_pid() == keeper
        mapped = Path(f"/proc/{keeper}/maps").read_text()
        assert f" {module.stat().st_ino} " in mapped
        assert "(deleted)" not in "".join(line for line in mapped.splitlines() if "proa_native" in line)
        assert daemon.run("exec", "it", "sh", "-c", "echo hi; echo > /go").stdout == "hi\n"
        assert daemon.run("wait", "it").stdout == "6\n"
        assert daemon.run("logs", "it").stdout == "late\n"


def test_sighup_reads_the_configuration_again(daemon: Instance) -> None:
    path = Path(daemon.root, "daemon.json")
    path.write_text("{}")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(60)
    daemon.arguments = ("--config-file", str(path))
    daemon.start()
    path.write_text(json.dumps({"labels": ["tier=test"]}))
    daemon.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "tier=test" in daemon.run("info", "--format", "{{.Labels}}").stdout)
    path.write_text("{")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.run("info", "--format", "{{.Labels}}").stdout == "[tier=test]\n"
    path.write_text("{}")  # for the next start


def test_detached_it_comes_back_once_it_serves(tmp_path: Path) -> None:
    started = subprocess.run([*command(tmp_path), "--detach", "--bridge", "none"], check=False, timeout=60)
    assert started.returncode == 0
    assert (tmp_path / "run/proad.sock").is_socket()
    pid = int((tmp_path / "run/proad.pid").read_text())
    keeper = next(pid for pid, line in _processes() if "keeper_main" in line and str(tmp_path) in line)
    os.kill(pid, signal.SIGTERM)
    os.kill(keeper, signal.SIGKILL)
    assert eventually(lambda: not (tmp_path / "run/proad.sock").exists())


def _processes() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_text(errors="replace").replace("\0", " ")))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_tear_down_leaves_the_data_root_alone(tmp_path: Path) -> None:
    """Containers end, the host has nothing of the instance left, the next daemon starts what shall run."""
    with instance(tmp_path) as daemon:
        network = daemon.run("network", "create", "kept").stdout.strip()
        started = daemon.run(
            "run",
            "-d",
            "--name",
            "always",
            "--restart",
            "always",
            "--network",
            "kept",
            "busybox",
            "sleep",
            "inf",
        )
        assert started.returncode == 0, started.stderr
        keeper = daemon.keeper_pid()
        tear_down = [*command(tmp_path), "--tear-down"]
        refused = subprocess.run(tear_down, capture_output=True, text=True, check=False, timeout=60)
        assert (refused.returncode, "another proad is running" in refused.stderr) == (1, True)
        daemon.kill_daemon()
        done = subprocess.run(tear_down, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert eventually(lambda: not Path(f"/proc/{keeper}").exists())
        assert os.listdir(tmp_path / "run") == ["proad.lock"]
        assert not proa_native.cgroup_list(daemon.config.cgroup_root)
        for interface in (daemon.config.bridge_name, f"br-{network[:12]}"):
            assert not Path("/sys/class/net", interface).exists()
        daemon.start()
        assert eventually(lambda: status(daemon, "always") == "running 0")

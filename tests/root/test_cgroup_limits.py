"""Limits are in force: read from inside the container's own cgroup view, and hit on purpose. v1 and v2."""

import json
from pathlib import Path

import pytest
from instance import Instance

pytestmark = pytest.mark.cgroup

V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def has(controller: str) -> bool:
    if V2:
        return controller in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    return Path("/sys/fs/cgroup", controller).is_dir()


def value(daemon: Instance, v1: str, v2: str, *flags: str) -> str:
    """A file of the container's own cgroup, as it sees it."""
    path = f"/sys/fs/cgroup/{v2 if V2 else v1}"
    done = daemon.run("run", "--rm", *flags, "busybox", "cat", path, cli="proa")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_memory(daemon: Instance) -> None:
    found = value(daemon, "memory/memory.limit_in_bytes", "memory.max", "--memory", "64m")
    assert found == str(64 << 20)


def test_memory_reservation(daemon: Instance) -> None:
    flags = ("--memory", "64m", "--memory-reservation", "32m")
    assert value(daemon, "memory/memory.soft_limit_in_bytes", "memory.low", *flags) == str(32 << 20)


def test_cpu_quota_from_cpus(daemon: Instance) -> None:
    found = value(daemon, "cpu/cpu.cfs_quota_us", "cpu.max", "--cpus", "0.5")
    assert found == ("50000 100000" if V2 else "50000")


def test_cpu_shares(daemon: Instance) -> None:
    found = value(daemon, "cpu/cpu.shares", "cpu.weight", "--cpu-shares", "512")
    assert found in (("20", "59") if V2 else ("512",))


def test_cpuset(daemon: Instance) -> None:
    assert value(daemon, "cpuset/cpuset.cpus", "cpuset.cpus", "--cpuset-cpus", "0") == "0"


def test_pids(daemon: Instance) -> None:
    assert value(daemon, "pids/pids.max", "pids.max", "--pids-limit", "33") == "33"
    done = daemon.run(
        "run",
        "--rm",
        "--pids-limit",
        "4",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6; do sleep 1 & done; wait",
        cli="proa",
    )
    assert "can't fork" in done.stderr


def test_the_container_sees_its_own_group_as_the_root(daemon: Instance) -> None:
    done = daemon.run("run", "--rm", "busybox", "cat", "/proc/self/cgroup", cli="proa")
    paths = {line.split(":")[2] for line in done.stdout.splitlines() if ":name=" not in line}
    assert paths == {"/"}


def test_the_group_cannot_be_written_from_inside(daemon: Instance) -> None:
    path = "/sys/fs/cgroup/pids.max" if V2 else "/sys/fs/cgroup/pids/pids.max"
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", f"echo 1 >{path}", cli="proa")
    assert done.returncode != 0
    assert "Read-only" in done.stderr


def test_devices_outside_the_list_are_denied(daemon: Instance) -> None:
    script = "/bin/busybox mknod /tmp/fuse c 10 229 && : </tmp/fuse"
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", script, cli="proa")
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr


@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no device on this host that Docker denies")
def test_a_device_that_was_asked_for_can_be_used(daemon: Instance) -> None:
    flags = ("--device", "/dev/fuse:/dev/mine:rw")
    done = daemon.run("run", "--rm", *flags, "busybox", "sh", "-c", ": </dev/mine && echo opened", cli="proa")
    assert (done.stdout, done.returncode) == ("opened\n", 0), done.stderr
    flags = ("--device", "/dev/fuse:/dev/mine:w")
    done = daemon.run("run", "--rm", *flags, "busybox", "sh", "-c", ": </dev/mine", cli="proa")
    assert "Operation not permitted" in done.stderr


def test_out_of_memory_is_told(daemon: Instance) -> None:
    name = "oom-told"
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=64"
    flags = ("--memory", "16m", "--memory-swap", "16m", "--shm-size", "128m", "--name", name)
    done = daemon.run("run", *flags, "busybox", "sh", "-c", f"exec {script}", cli="proa")
    try:
        assert done.returncode == 137
        state = json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]["State"]
        assert state["OOMKilled"] is True
        assert state["ExitCode"] == 137
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def test_update_changes_a_running_container(daemon: Instance) -> None:
    name = "updated"
    started = daemon.run("run", "-d", "--memory", "64m", "--name", name, "busybox", "sleep", "60", cli="proa")
    assert started.returncode == 0, started.stderr
    try:
        done = daemon.run("update", "--memory", "32m", "--memory-swap", "-1", name, cli="proa")
        assert done.returncode == 0, done.stderr
        path = "/sys/fs/cgroup/memory.max" if V2 else "/sys/fs/cgroup/memory/memory.limit_in_bytes"
        assert daemon.run("exec", name, "cat", path, cli="proa").stdout.strip() == str(32 << 20)
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def test_pause_stops_every_process_and_unpause_lets_them_go(daemon: Instance) -> None:
    name = "paused"
    script = "while :; do echo tick; done"
    daemon.run("run", "-d", "--name", name, "busybox", "sh", "-c", script, cli="proa")
    try:
        assert daemon.run("pause", name, cli="proa").returncode == 0
        pid = json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]["State"]["Pid"]
        before = Path(f"/proc/{pid}/stat").read_text().split()[13:15]
        # A loop that ran would have used processor time while these commands do.
        state = json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]["State"]
        assert state["Status"] == "paused"
        assert daemon.run("ps", cli="proa").returncode == 0
        assert Path(f"/proc/{pid}/stat").read_text().split()[13:15] == before
        assert daemon.run("unpause", name, cli="proa").returncode == 0
        assert json.loads(daemon.run("inspect", name, cli="proa").stdout)[0]["State"]["Status"] == "running"
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def test_blkio_weight_or_a_clear_warning(daemon: Instance) -> None:
    controller = "io" if V2 else "blkio"
    if not has(controller):
        pytest.skip(f"no {controller} controller")
    done = daemon.run("run", "--rm", "--blkio-weight", "300", "busybox", "true", cli="proa")
    assert done.returncode == 0, done.stderr


def test_stats_show_the_limit(daemon: Instance) -> None:
    name = "measured"
    daemon.run("run", "-d", "--memory", "64m", "--name", name, "busybox", "sleep", "60", cli="proa")
    try:
        stats = daemon.api.call("GET", f"/containers/{name}/stats?stream=0&one-shot=1")
        assert stats["memory_stats"]["limit"] == 64 << 20
        assert stats["pids_stats"]["current"] == 1
        assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    finally:
        daemon.run("rm", "-f", name, cli="proa")

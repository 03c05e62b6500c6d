"""What cgroup v2 has and v1 lacks, or says in other words. Skipped on v1 and on hybrids."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, eventually

ROOT = Path("/sys/fs/cgroup")

pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.skipif(
        not (ROOT / "cgroup.controllers").exists(), reason="cgroup v2 is not at /sys/fs/cgroup"
    ),
]

PATIENCE = 60
"""Seconds for what the engine does behind its answer: tests may run on an emulated machine."""


@contextlib.contextmanager
def container(daemon: Instance, *words: str) -> Iterator[str]:
    """The name of a container that `proa run -d` has started."""
    name = f"v2-{uuid.uuid4().hex[:8]}"
    done = daemon.run("run", "-d", "--name", name, *words, cli="proa")
    try:
        assert done.returncode == 0, done.stderr
        # Nothing of what was asked for is beyond this kernel.
        assert done.stderr == ""
        yield name
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def group(daemon: Instance, name: str) -> Path:
    """The container's group as the host sees it."""
    return (
        ROOT / daemon.config.cgroup_root.strip("/") / daemon.api.call("GET", f"/containers/{name}/json")["Id"]
    )


def block_device() -> str:
    """A device that can be throttled, `/dev/vda`."""
    found = [path for path in Path("/dev").glob("[vsn][dv][am]*") if path.is_block_device()]
    whole = [path for path in found if (Path("/sys/block") / path.name).exists()]
    if not whole:
        pytest.skip("no block device")
    return str(whole[0])


def test_one_container_with_every_limit(daemon: Instance) -> None:
    device = block_device()
    flags = ("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--cpu-shares", "2048")
    flags += ("--cpus", "1.5", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "50")
    flags += ("--device-read-bps", f"{device}:1mb", "--device-write-iops", f"{device}:100")
    numbers = (Path("/sys/block") / Path(device).name / "dev").read_text().strip()
    with container(daemon, *flags, "busybox", "sleep", "300") as name:
        own = group(daemon, name)
        wanted = {
            "memory.max": str(64 << 20),
            "memory.swap.max": str(32 << 20),
            "memory.low": str(32 << 20),
            "cpu.max": "150000 100000",
            "cpuset.cpus": "0",
            "cpuset.mems": "0",
            "pids.max": "50",
            "io.max": f"{numbers} rbps=1048576 wbps=max riops=max wiops=100",
        }
        assert {file: (own / file).read_text().strip() for file in wanted} == wanted
        assert int((own / "cpu.weight").read_text()) > 100
        flags = ("--memory", "128m", "--memory-swap", "-1", "--cpus", "0.5", "--pids-limit", "-1")
        done = daemon.run("update", *flags, "--cpu-shares", "1024", name, cli="proa")
        assert done.returncode == 0, done.stderr
        wanted |= {"memory.max": str(128 << 20), "memory.swap.max": "max", "cpu.max": "50000 100000"}
        wanted |= {"pids.max": "max", "cpu.weight": "100"}
        assert {file: (own / file).read_text().strip() for file in wanted} == wanted


def test_the_default_swap_is_as_much_as_the_memory(daemon: Instance) -> None:
    done = daemon.run(
        "run", "--rm", "--memory", "64m", "busybox", "cat", "/sys/fs/cgroup/memory.swap.max", cli="proa"
    )
    assert (done.stdout.strip(), done.stderr) == (str(64 << 20), "")


def test_the_group_is_shown_as_one_read_only_hierarchy(daemon: Instance) -> None:
    script = "grep ' /sys/fs/cgroup ' /proc/self/mountinfo; cat /proc/self/cgroup"
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", script, cli="proa")
    mount, membership = done.stdout.splitlines()
    assert mount.split()[3] == "/"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))
    assert mount.split(" - ")[1].split()[0] == "cgroup2"
    assert membership == "0::/"


def test_the_hosts_view_on_request(daemon: Instance) -> None:
    with container(daemon, "--cgroupns", "host", "busybox", "sleep", "300") as name:
        seen = daemon.run(
            "exec", name, "cat", "/proc/1/cgroup", "/proc/self/cgroup", cli="proa"
        ).stdout.split()
        path = "/" + str(group(daemon, name).relative_to(ROOT))
        assert seen == [f"0::{path}"] * 2


def test_an_exec_is_in_the_group_and_counted(daemon: Instance) -> None:
    with container(daemon, "busybox", "sleep", "300") as name:
        script = "cat /proc/self/cgroup /sys/fs/cgroup/pids.current"
        # The shell executes the last command in its own place.
        assert daemon.run("exec", name, "sh", "-c", script, cli="proa").stdout.split() == ["0::/", "2"]


def test_pause_freezes_the_group(daemon: Instance) -> None:
    with container(daemon, "busybox", "sleep", "300") as name:
        own = group(daemon, name)
        assert daemon.run("pause", name, cli="proa").returncode == 0
        assert "frozen 1" in (own / "cgroup.events").read_text()
        assert daemon.run("unpause", name, cli="proa").returncode == 0
        assert "frozen 0" in (own / "cgroup.events").read_text()
        # SIGKILL reaches who is frozen.
        assert daemon.run("pause", name, cli="proa").returncode == 0
        assert daemon.run("rm", "-f", name, cli="proa").returncode == 0
        assert eventually(lambda: not own.exists(), PATIENCE)


def test_what_left_the_pid_namespace_out_is_killed_with_the_group(daemon: Instance) -> None:
    script = "sleep 3000 </dev/null >/dev/null 2>&1 & echo $!; exec sleep 300"
    with container(daemon, "--pid", "host", "busybox", "sh", "-c", script) as name:
        assert eventually(lambda: bool(daemon.run("logs", name, cli="proa").stdout.strip()), PATIENCE)
        orphan = Path("/proc", daemon.run("logs", name, cli="proa").stdout.strip())
        assert "sleep\x003000" in (orphan / "cmdline").read_text()
        own = group(daemon, name)
        assert daemon.run("kill", name, cli="proa").returncode == 0
        assert eventually(lambda: not orphan.exists(), PATIENCE)
        assert eventually(lambda: not own.exists(), PATIENCE)


def test_a_process_that_is_killed_for_memory_is_an_event(daemon: Instance) -> None:
    # dd dies for its file in memory, the shell lives on.
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=64; echo survived; sleep 300"
    flags = ("--memory", "16m", "--memory-swap", "16m", "--shm-size", "128m")
    start = str(int(time.time()))
    with container(daemon, *flags, "busybox", "sh", "-c", script) as name:
        assert eventually(lambda: "survived" in daemon.run("logs", name, cli="proa").stdout, PATIENCE)
        events = dict(
            line.split() for line in (group(daemon, name) / "memory.events").read_text().splitlines()
        )
        assert int(events["oom_kill"]) >= 1

        def told() -> bool:
            flags = ("--since", start, "--until", str(int(time.time())), "--filter", f"container={name}")
            return " oom " in daemon.run("events", *flags, cli="proa").stdout

        assert eventually(told, PATIENCE)
        state = daemon.api.call("GET", f"/containers/{name}/json")["State"]
        assert state["Running"] is True


def test_groups_made_inside_go_with_the_container(daemon: Instance) -> None:
    script = (
        "mkdir -p /sys/fs/cgroup/a/b && echo $$ >/sys/fs/cgroup/a/b/cgroup.procs && echo made && sleep 300"
    )
    with container(daemon, "--privileged", "busybox", "/bin/busybox", "sh", "-c", script) as name:
        own = group(daemon, name)
        assert eventually(lambda: (own / "a/b/cgroup.procs").exists(), PATIENCE)
        assert eventually(lambda: (own / "a/b/cgroup.procs").read_text() != "", PATIENCE)
        # Processes are only in the leaf now, and counted all the same.
        assert len(daemon.api.call("GET", f"/containers/{name}/top")["Processes"]) >= 1
        assert daemon.run("rm", "-f", name, cli="proa").returncode == 0
        assert eventually(lambda: not own.exists(), PATIENCE)


def test_stats_are_of_this_version(daemon: Instance) -> None:
    device = block_device()
    flags = ("--memory", "64m", "--cpus", "0.1", "--device", f"{device}:/dev/disk:r")
    script = "dd if=/dev/disk of=/dev/null bs=64k count=4 2>/dev/null && echo read; while :; do :; done"
    with container(daemon, *flags, "busybox", "sh", "-c", script) as name:

        def sample() -> dict[str, dict[str, object]]:
            return daemon.api.call("GET", f"/containers/{name}/stats?stream=0&one-shot=1")

        def told() -> bool:
            return "read" in daemon.run("logs", name, cli="proa").stdout

        assert eventually(told, PATIENCE)
        assert eventually(lambda: sample()["cpu_stats"]["throttling_data"]["throttled_periods"] > 0, PATIENCE)
        stats = sample()
        assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
        assert stats["cpu_stats"]["online_cpus"] >= 1
        assert stats["memory_stats"]["limit"] == 64 << 20
        assert stats["memory_stats"]["usage"] > 0
        # The docker CLI takes it off the usage.
        assert "inactive_file" in stats["memory_stats"]["stats"]
        assert "max_usage" not in stats["memory_stats"]
        read = [e for e in stats["blkio_stats"]["io_service_bytes_recursive"] or () if e["op"] == "read"]
        assert sum(e["value"] for e in read) >= 4 * 65536


def test_info_tells_the_version(daemon: Instance) -> None:
    info = daemon.api.call("GET", "/info")
    assert (info["CgroupVersion"], info["CgroupDriver"]) == ("2", "cgroupfs")
    assert info["MemoryLimit"] is info["SwapLimit"] is info["PidsLimit"] is True


def test_nothing_is_left_when_a_container_is_gone(daemon: Instance) -> None:
    parent = ROOT / daemon.config.cgroup_root.strip("/")
    before = {path.name for path in parent.iterdir() if path.is_dir()}
    for _ in range(3):
        assert daemon.run("run", "--rm", "busybox", "true", cli="proa").returncode == 0
    assert eventually(lambda: {path.name for path in parent.iterdir() if path.is_dir()} <= before, PATIENCE)

"""Each confinement feature, looked at from inside a container."""

import os
import re
from pathlib import Path

import pytest
from instance import Instance

pytestmark = pytest.mark.start

DEFAULT_CAPABILITIES = 0x00000000A80425FB


def inside(daemon: Instance, script: str, *flags: str, code: int = 0) -> str:
    """What `sh -c script` printed in a container run with these flags."""
    done = daemon.run("run", "--rm", *flags, "busybox", "sh", "-c", script, cli="proa")
    assert done.returncode == code, done.stderr
    return done.stdout


def status(daemon: Instance, *flags: str) -> dict[str, str]:
    text = inside(daemon, "cat /proc/self/status", *flags)
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_default_capabilities_are_dockers(daemon: Instance) -> None:
    found = status(daemon)
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[name], 16) == DEFAULT_CAPABILITIES
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapAmb"], 16) == 0


def test_cap_add_and_drop(daemon: Instance) -> None:
    found = status(daemon, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
    assert int(found["CapEff"], 16) == 1 << 12
    assert int(found["CapBnd"], 16) == 1 << 12


def test_a_plain_user_has_no_capabilities_but_the_bounding_set(daemon: Instance) -> None:
    found = status(daemon, "--user", "1000:1000")
    assert int(found["CapEff"], 16) == 0
    assert int(found["CapPrm"], 16) == 0
    assert int(found["CapBnd"], 16) == DEFAULT_CAPABILITIES
    assert found["Uid"].split() == ["1000"] * 4


def test_seccomp_filters_by_default_and_not_when_unconfined(daemon: Instance) -> None:
    assert status(daemon)["Seccomp"].strip() == "2"
    assert status(daemon, "--security-opt", "seccomp=unconfined")["Seccomp"].strip() == "0"


def test_no_new_privileges(daemon: Instance) -> None:
    assert status(daemon)["NoNewPrivs"].strip() == "0"
    assert status(daemon, "--security-opt", "no-new-privileges")["NoNewPrivs"].strip() == "1"


def test_the_process_is_pid_1_and_sees_no_other(daemon: Instance) -> None:
    assert inside(daemon, "echo $$; ls /proc | grep -c '^[0-9]'").split()[0] == "1"


def test_built_in_init_is_pid_1_and_hands_on_the_exit_code(daemon: Instance) -> None:
    assert inside(daemon, "echo $$", "--init").strip() != "1"
    inside(daemon, "exit 7", "--init", code=7)


def test_hostname_and_domainname(daemon: Instance) -> None:
    text = inside(
        daemon,
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname",
        "-h",
        "box",
        "--domainname",
        "lan",
    )
    assert text.split() == ["box", "lan"]


def mounts(daemon: Instance, *flags: str) -> dict[str, tuple[str, set[str]]]:
    """Mount point -> (file system type, mount options), the topmost mount of each."""
    table = {}
    for line in inside(daemon, "cat /proc/self/mountinfo", *flags).splitlines():
        left, right = line.split(" - ")
        fields = left.split()
        table[fields[4]] = (right.split()[0], set(fields[5].split(",")))
    return table


def test_standard_mounts(daemon: Instance) -> None:
    table = mounts(daemon)
    kinds = {"/": "overlay", "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
    kinds |= {"/dev/mqueue": "mqueue", "/sys": "sysfs"}
    assert {path: table[path][0] for path in kinds} == kinds
    assert "ro" in table["/sys"][1]
    assert {"nosuid", "noexec", "nodev"} <= table["/proc"][1]
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"):
        if os.path.exists(path):  # not every kernel has them all
            assert "ro" in table[path][1], path


def test_masked_paths_show_nothing(daemon: Instance) -> None:
    assert inside(
        daemon, "cat /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l; ls /sys/firmware | wc -l"
    ).split() == [
        "0",
        "0",
        "0",
    ]


def test_read_only_root(daemon: Instance) -> None:
    assert "ro" in mounts(daemon, "--read-only")["/"][1]
    assert "Read-only" in inside(daemon, "touch /x 2>&1; true", "--read-only")


def test_binds(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    assert inside(daemon, "cat /in/file", "-v", f"{tmp_path}:/in:ro") == "from the host"
    assert "Read-only" in inside(daemon, "touch /in/x 2>&1; true", "-v", f"{tmp_path}:/in:ro")
    inside(daemon, "echo back >/in/out", "-v", f"{tmp_path}:/in")
    assert (tmp_path / "out").read_text() == "back\n"
    assert inside(daemon, "cat /etc/one", "-v", f"{tmp_path}/file:/etc/one") == "from the host"


def test_tmpfs_has_its_size_and_mode(daemon: Instance) -> None:
    text = inside(daemon, "grep ' /t ' /proc/mounts; stat -c %a /t", "--tmpfs", "/t:size=1m,mode=1700")
    assert "size=1024k" in text
    assert text.split()[-1] == "1700"


def test_standard_devices_work(daemon: Instance) -> None:
    text = inside(daemon, "head -c4 /dev/zero | wc -c; echo x >/dev/null; head -c8 /dev/urandom | wc -c")
    assert text.split() == ["4", "8"]


def test_rlimits(daemon: Instance) -> None:
    assert inside(daemon, "ulimit -n; ulimit -Hn", "--ulimit", "nofile=100:200").split() == ["100", "200"]


def test_sysctls_of_the_network_namespace(daemon: Instance) -> None:
    flags = ("--sysctl", "net.ipv4.ip_forward=1")
    assert inside(daemon, "cat /proc/sys/net/ipv4/ip_forward", *flags).strip() == "1"


def test_oom_score_adj(daemon: Instance) -> None:
    assert inside(daemon, "cat /proc/self/oom_score_adj", "--oom-score-adj", "300").strip() == "300"


def test_supplementary_groups_are_exactly_those_asked_for(daemon: Instance) -> None:
    found = status(daemon, "--user", "5", "--group-add", "77")
    # The primary group is among them, as Docker has it since CVE-2022-36109.
    assert found["Groups"].split() == ["0", "77"]


def test_shm_size(daemon: Instance) -> None:
    assert "size=1024k" in inside(daemon, "grep /dev/shm /proc/mounts", "--shm-size", "1m")


def test_privileged_has_what_the_host_has(daemon: Instance) -> None:
    found = status(daemon, "--privileged")
    host = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert host is not None
    assert int(found["CapEff"], 16) == int(host[1], 16)
    assert found["Seccomp"].strip() == "0"


@pytest.mark.parametrize("kind", ["ipc", "uts", "pid", "net", "mnt", "cgroup"])
def test_namespaces_are_the_containers_own(daemon: Instance, kind: str) -> None:
    if kind == "cgroup" and not os.path.exists("/proc/self/ns/cgroup"):
        pytest.skip("no cgroup namespaces")
    own = inside(daemon, f"ls -l /proc/self/ns/{kind}")
    assert re.search(r"\d+", own.split("->")[1]).group() not in os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize(
    ("flag", "kind"), [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "net")]
)
def test_host_namespaces_on_request(daemon: Instance, flag: str, kind: str) -> None:
    own = inside(daemon, f"ls -l /proc/self/ns/{kind}", flag, "host")
    assert own.split("-> ")[1].strip() == os.readlink(f"/proc/self/ns/{kind}")


def test_no_file_descriptors_leak_in(daemon: Instance) -> None:
    assert inside(daemon, "ls /proc/$$/fd; true").split() == ["0", "1", "2"]

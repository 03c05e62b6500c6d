"""The kernel class: calls, sockets, devices and cgroups that a default container must not reach.

CVE-2026-31431 and kin, CVE-2022-0492, CVE-2022-0811.
"""

from pathlib import Path

import pytest
from hostile import compiled, image, sh
from instance import Instance

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/stat.h>
#include <unistd.h>
#define TRY(name, call) say(name, (errno = 0, (long)(call)))
#define RAW(name, ...) TRY(name, syscall(__VA_ARGS__))
static void say(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); }
static char stack[65536];
static int nothing(void *unused) { return 0; }
#ifdef __x86_64__
static long old(long number, long a, long b, long c) {   /* int 0x80: the i386 table */
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c)
                 : "memory", "r8", "r9", "r10", "r11");
    return result < 0 && result > -4096 ? (errno = -result, -1) : result;
}
static void fault(int signal) { printf("i386 -1\n"); fflush(stdout); _exit(0); }
#endif
int main(void) {
    setbuf(stdout, 0);
    TRY("socket:AF_ALG", socket(38, SOCK_SEQPACKET, 0));
    TRY("socket:AF_VSOCK", socket(40, SOCK_STREAM, 0));
    RAW("io_uring_setup", 425, 8, 0);
    RAW("io_uring_enter", 426, -1, 0, 0, 0, 0);
    RAW("io_uring_register", 427, -1, 0, 0, 0);
    RAW("userfaultfd", SYS_userfaultfd, 0);
    RAW("bpf", SYS_bpf, 0, 0, 0);
    RAW("perf_event_open", SYS_perf_event_open, 0, 0, -1, -1, 0);
    RAW("kexec_load", SYS_kexec_load, 0, 0, 0, 0);
    RAW("kexec_file_load", SYS_kexec_file_load, -1, -1, 0, 0, 0);
    RAW("keyctl", SYS_keyctl, 0, -3, 0, 0, 0);
    RAW("add_key", SYS_add_key, "user", "x", "y", 1, -3);
    RAW("request_key", SYS_request_key, "user", "x", 0, 0);
    RAW("mount", SYS_mount, "none", "/tmp", "tmpfs", 0, 0);
    RAW("umount2", SYS_umount2, "/proc", 0);
    RAW("pivot_root", SYS_pivot_root, "/", "/tmp");
    RAW("fsopen", 430, "tmpfs", 0);
    RAW("open_tree", 428, AT_FDCWD, "/", 1);
    RAW("move_mount", 429, -1, "", -1, "", 0);
    RAW("mount_setattr", 442, -1, "", 0, 0, 0);
    RAW("unshare:NEWUSER", SYS_unshare, CLONE_NEWUSER);
    RAW("unshare:NEWNS", SYS_unshare, CLONE_NEWNS);
    RAW("unshare:NEWCGROUP", SYS_unshare, CLONE_NEWCGROUP);
    TRY("clone:NEWUSER", clone(nothing, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, 0));
    RAW("clone3", 435, 0, 0);
    RAW("setns", SYS_setns, open("/proc/self/ns/net", O_RDONLY), 0);
    RAW("init_module", SYS_init_module, 0, 0, "");
    RAW("finit_module", SYS_finit_module, -1, "", 0);
    RAW("delete_module", SYS_delete_module, "x", 0);
    RAW("reboot", SYS_reboot, 0, 0, 0, 0);
    RAW("swapon", SYS_swapon, "/x", 0);
    RAW("syslog", SYS_syslog, 3, 0, 0);
    RAW("settimeofday", SYS_settimeofday, 0, 0);
    RAW("clock_settime", SYS_clock_settime, 0, 0);
    RAW("acct", SYS_acct, 0);
    RAW("quotactl", SYS_quotactl, 0, 0, 0, 0);
    RAW("open_by_handle_at", SYS_open_by_handle_at, -1, 0, 0);
    RAW("vhangup", SYS_vhangup);
    RAW("personality:weird", SYS_personality, 0x1234567);
#ifdef __x86_64__
    RAW("iopl", SYS_iopl, 3);
    RAW("ioperm", SYS_ioperm, 0, 1, 1);
    RAW("x32:getpid", 0x40000000 + SYS_getpid);
#endif
    dev_t host[] = {makedev(1, 1), makedev(1, 11), makedev(10, 237), makedev(HOST_MAJOR, HOST_MINOR)};
    mode_t kinds[] = {S_IFCHR, S_IFCHR, S_IFCHR, S_IFBLK};
    const char *names[] = {"device:mem", "device:kmsg", "device:loop-control", "device:disk"};
    for (int i = 0; i < 4; i++) {
        unlink("/node");
        if (mknod("/node", kinds[i] | 0600, host[i]) < 0) { printf("%s %d\n", names[i], errno); continue; }
        TRY(names[i], open("/node", O_RDWR | O_NONBLOCK));
    }
#ifdef __x86_64__
    signal(SIGSEGV, fault);
    signal(SIGILL, fault);
    /* The stack lies above 4 GiB: what i386 is to read must not. */
    static long low[3]; unsigned *arguments = (unsigned *)low;
    arguments[0] = 38; arguments[1] = SOCK_SEQPACKET; arguments[2] = 0;
    TRY("i386:socket:AF_ALG", old(359, 38, SOCK_SEQPACKET, 0));
    TRY("i386:socketcall:AF_ALG", old(102, 1, (long)arguments, 0));
    arguments[0] = 40; arguments[1] = SOCK_STREAM;
    TRY("i386:socketcall:AF_VSOCK", old(102, 1, (long)arguments, 0));
    TRY("i386:io_uring_setup", old(425, 8, 0, 0));
    TRY("i386:bpf", old(357, 0, 0, 0));
    TRY("i386:unshare", old(310, CLONE_NEWUSER, 0, 0));
    TRY("i386:keyctl", old(288, 0, -3, 0));
#endif
    return 0;
}
"""
ALLOWED_TO_FAIL = {1, 13, 38, 97}
"""EPERM, EACCES; ENOSYS where the profile says so; EAFNOSUPPORT for a family the profile names so."""


@pytest.fixture(scope="module")
def probe(daemon: Instance, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("probe")
    major, minor = host_disk()
    source = PROBE.replace("HOST_MAJOR", major).replace("HOST_MINOR", minor)
    program = compiled(source, directory, "probe", "-static", "-no-pie")

    def alter(tree: Path) -> None:
        (tree / "probe").write_bytes(program.read_bytes())
        (tree / "probe").chmod(0o755)

    return image(daemon, "attack/probe", alter)


def host_disk() -> tuple[str, str]:
    """The numbers of some block device of the host."""
    for entry in sorted(Path("/sys/block").glob("*/dev")):
        if not entry.parent.name.startswith(("loop", "ram")):
            major, _, minor = entry.read_text().strip().partition(":")
            return major, minor
    return "7", "0"


def results(daemon: Instance, probe: str, *flags: str) -> dict[str, int]:
    code, output, errors = sh(daemon, "/probe", *flags, image=probe)
    assert code == 0, (code, output, errors)
    return {name: int(number) for name, number in (line.split() for line in output.splitlines())}


@pytest.mark.parametrize("flags", [(), ("--user", "1000"), ("--init",)], ids=["root", "user", "init"])
def test_a_default_container_reaches_none_of_it(daemon: Instance, probe: str, flags: tuple[str, ...]) -> None:
    found = results(daemon, probe, *flags)
    reached = {
        name: number for name, number in found.items() if number not in ALLOWED_TO_FAIL and name != "i386"
    }
    assert reached == {}
    assert len(found) > 40


def test_clone3_says_that_it_is_not_there(daemon: Instance, probe: str) -> None:
    """So that C libraries fall back to clone, whose flags can be looked at."""
    assert results(daemon, probe)["clone3"] == 38


def test_an_exec_is_filtered_too(daemon: Instance, probe: str) -> None:
    name = daemon.run("run", "-d", probe, "sleep", "1000", cli="proa").stdout.strip()
    try:
        output = daemon.run("exec", name, "/probe", cli="proa").stdout
        found = {name: int(number) for name, number in (line.split() for line in output.splitlines())}
        assert found == results(daemon, probe)
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def test_capabilities_beyond_the_default_open_no_devices(daemon: Instance, probe: str) -> None:
    found = results(daemon, probe, "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    assert {found[name] for name in found if name.startswith("device:")} <= {1, 13}


def test_cgroups_are_read_only_and_have_no_agent_to_set(daemon: Instance) -> None:
    script = (
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do"
        " (echo x > $d/release_agent) 2>/dev/null && echo agent $d;"
        " (echo 1 > $d/notify_on_release) 2>/dev/null && echo notify $d;"
        " (echo 0 > $d/cgroup.procs) 2>/dev/null && echo procs $d;"
        " busybox mkdir $d/x 2>/dev/null && echo made $d;"
        " done; cat /proc/self/cgroup | busybox cut -d: -f3 | busybox sort -u; true"
    )
    for flags in ((), ("--cap-add", "SYS_ADMIN")):
        assert sh(daemon, script, *flags)[1].split() == ["/"]


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2", "proc", "sysfs", "securityfs", "debugfs", "tmpfs"])
def test_no_file_system_can_be_mounted(daemon: Instance, kind: str) -> None:
    _, output, _ = sh(daemon, f"busybox mount -t {kind} none /tmp 2>&1; busybox unshare -Ur true 2>&1; true")
    assert output.count("ermi") + output.count("denied") >= 2, output


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern",
        "kernel.shm_rmid_forced+kernel.core_pattern=x",
        "net.ipv4/../../kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net...kernel.core_pattern",
        "net.ipv4.ip_forward\n",
        "net./../kernel",
        "fs.mqueue./../../kernel/core_pattern",
        "kernel/core_pattern",
        "net.",
        ".net.ipv4.ip_forward",
    ],
)
def test_sysctls_are_of_namespaces_only(daemon: Instance, key: str) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Sysctls": {key: "|/evil"}}}
    with pytest.raises(RuntimeError, match="400"):
        daemon.api.call("POST", "/containers/create", body)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_terminal_is_the_container_s_own(daemon: Instance) -> None:
    name = daemon.run("run", "-dt", "busybox", "sleep", "1000", cli="proa").stdout.strip()
    try:
        done = daemon.run(
            "exec", name, "sh", "-c", "ls -l /proc/1/fd/0; ls /dev/pts; ls -l /dev/console", cli="proa"
        )
        assert "/dev/pts/0" in done.stdout
        assert done.stdout.split("\n")[1:3] == ["0", "ptmx"]
    finally:
        daemon.run("rm", "-f", name, cli="proa")

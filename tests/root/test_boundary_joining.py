"""Containers that join the pid namespace of one that may trace, and looks: what comes in has nothing of the
host's and no privilege that it will not keep.

CVE-2016-9962.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import compiled, sh
from instance import Instance, eventually

WATCH = r"""
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *mark;
static unsigned long long allowed;

static void look_at(int pid, const char *where) {
    char path[4096];
    snprintf(path, sizeof path, "/proc/%d/%s%s", pid, where, mark);
    if (access(path, F_OK) == 0) printf("host below %s\n", where);
    snprintf(path, sizeof path, "/proc/%d/%s/../../../../../../../..%s", pid, where, mark);
    if (access(path, F_OK) == 0) printf("host above %s\n", where);
}

static unsigned long long privileges(int pid) {
    char path[64], line[256];
    unsigned long long found = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "CapPrm: %llx", &found) == 1) break;
    if (status) fclose(status);
    return found;
}

static int before_execve(int pid) {
    char path[64], exe[512] = "";
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return readlink(path, exe, sizeof exe - 1) > 0 && !strstr(exe, "busybox");
}

static void look_into(int pid) {
    static int met;
    char directory[64], where[300];
    int early = before_execve(pid);
    unsigned long long has = privileges(pid);
    if (has & ~allowed) printf("privileges %llx\n", has);
    look_at(pid, "root");
    look_at(pid, "cwd");
    snprintf(directory, sizeof directory, "/proc/%d/fd", pid);
    DIR *fds = opendir(directory);
    for (struct dirent *one; fds && (one = readdir(fds));) {
        if (one->d_name[0] == '.') continue;
        snprintf(where, sizeof where, "fd/%s", one->d_name);
        look_at(pid, where);
    }
    if (fds) closedir(fds);
    if (early && !met) { met = 1; printf("met\n"); }
}

int main(int count, char **words) {
    mark = words[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
    allowed = privileges(getpid());
    printf("watching\n");
    for (;;) {
        DIR *proc = opendir("/proc");
        for (struct dirent *one; proc && (one = readdir(proc));) {
            int pid = atoi(one->d_name);
            if (pid > 1 && pid != getpid()) look_into(pid);
        }
        if (proc) closedir(proc);
    }
}
"""
ENOUGH = 25
"""Joins; more where the watcher has not been quick enough yet to see one before its execve."""
MOST = 200


@pytest.fixture
def watcher(daemon: Instance, tmp_path: Path) -> Iterator[str]:
    """A container with SYS_PTRACE that looks for the daemon's log in whatever process appears."""
    mark = f"{daemon.root}/log"
    assert Path(mark).exists()
    compiled(WATCH, tmp_path, "watch")
    tmp_path.chmod(0o755)
    flags = ("--cap-add", "SYS_PTRACE", "-v", f"{tmp_path}:/x:ro")
    done = daemon.run("run", "-d", *flags, "busybox", "/x/watch", mark, cli="proa")
    name = done.stdout.strip()
    try:
        assert eventually(lambda: daemon.run("logs", name, cli="proa").stdout == "watching\n")
        yield name
    finally:
        daemon.run("rm", "-f", name, cli="proa")


@pytest.mark.parametrize("flags", [(), ("-t",), ("--init", "-u", "1000")], ids=["plain", "tty", "init"])
def test_nothing_of_the_host_comes_in(daemon: Instance, watcher: str, flags: tuple[str, ...]) -> None:
    seen = ""
    for number in range(MOST):
        joining = ("--pid", f"container:{watcher}", *flags)
        done = daemon.run("run", "--rm", *joining, "busybox", "true", cli="proa")
        assert (done.returncode, done.stderr) == (0, "")
        seen = daemon.run("logs", watcher, cli="proa").stdout
        if number >= ENOUGH and "met" in seen:
            break
    assert seen == "watching\nmet\n"


def test_it_sees_the_processes_that_it_joins(daemon: Instance, watcher: str) -> None:
    joining = ("--pid", f"container:{watcher}")
    script = "cat /proc/1/cmdline; echo; cat /proc/self/oom_score_adj; busybox stat -c %F /proc/keys"
    flags = ("--oom-score-adj", "300", "--sysctl", "net.ipv4.ip_forward=1")
    _, output, errors = sh(daemon, script, *joining, *flags)
    assert output.splitlines()[1:] == ["300", "character special file"], errors
    assert output.startswith("/x/watch")
    assert sh(daemon, "echo 1 > /proc/sys/kernel/core_pattern", *joining)[0] != 0
    mounts = sh(daemon, "busybox grep ' /proc ' /proc/self/mountinfo", *joining)[1]
    assert "nosuid,nodev,noexec" in mounts


def test_a_program_that_is_missing_is_told(daemon: Instance, watcher: str) -> None:
    done = daemon.run("run", "--rm", "--pid", f"container:{watcher}", "busybox", "/missing", cli="proa")
    assert done.returncode == 127
    assert "no such file" in done.stderr.lower()
    processes = daemon.run("exec", watcher, "busybox", "ps", "-o", "comm", cli="proa").stdout.split()
    assert sorted(processes[1:]) == ["busybox", "watch"] or "ps" in processes

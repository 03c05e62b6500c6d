"""Descriptors, the engine's own program and the working directory: nothing of the host within reach.

CVE-2019-5736, CVE-2016-9962, CVE-2024-21626.
"""

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile import compiled, host_pid, image, sh
from instance import Instance, eventually

INTERPRETER = """
/* Runs in place of the dynamic linker of whatever program is executed, with its mappings: what may root of a
   container do to the file behind /proc/self/exe? Exit 0: change it. */
static long call(long number, long a, long b, long c, long d) {
    long result;
    register long r10 asm("r10") = d;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                 : "rcx", "r11", "memory");
    return result;
}
void begin(void) {
    char status[256] = {0};
    long result = call(4, (long)"/proc/self/exe", (long)status, 0, 0);        /* stat */
    unsigned mode = *(unsigned *)(status + 24);
    if (result == 0) result = call(90, (long)"/proc/self/exe", mode & 07777, 0, 0);   /* chmod to that */
    call(231, -result, 0, 0, 0);
}
asm(".globl _start\\n_start: andq $-16, %rsp\\n call begin\\n");
"""
STATIC_PIE = ("-nostdlib", "-static-pie", "-fPIE", "-ffreestanding", "-fno-stack-protector")
READ_ONLY = 30


def interpreter_of(program: str) -> str:
    """The path of its dynamic linker. Source: elf(5)."""
    data = Path(program).read_bytes()
    if data[:5] != b"\x7fELF\x02":
        pytest.skip("the interpreter is no 64-bit ELF program")
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for start in range(offset, offset + size * count, size):
        if struct.unpack_from("<I", data, start)[0] == 3:
            where, length = (
                struct.unpack_from("<Q", data, start + 8)[0],
                struct.unpack_from("<Q", data, start + 32)[0],
            )
            return data[where : where + length].rstrip(b"\0").decode()
    pytest.skip("Python is linked statically")


@pytest.fixture(scope="module")
def self_exe(daemon: Instance, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose dynamic linker is the attacker's; /run.sh asks for the program that starts it."""
    if os.uname().machine != "x86_64":
        pytest.skip("the attack program is for x86_64")
    evil = compiled(INTERPRETER, tmp_path_factory.mktemp("evil"), "interpreter", *STATIC_PIE)

    def alter(tree: Path) -> None:
        linker = tree / interpreter_of(os.path.realpath(sys.executable)).lstrip("/")
        linker.parent.mkdir(parents=True, exist_ok=True)
        linker.write_bytes(evil.read_bytes())
        linker.chmod(0o755)
        (tree / "run.sh").write_text("#!/proc/self/exe\n")
        (tree / "run.sh").chmod(0o755)
        (tree / "link").symlink_to("/proc/self/exe")

    return image(daemon, "attack/self-exe", alter)


@pytest.mark.parametrize("program", ["/proc/self/exe", "/link", "/run.sh"])
@pytest.mark.parametrize("flags", [(), ("--init",)], ids=["plain", "init"])
def test_the_engine_s_program_cannot_be_changed_through_proc(
    daemon: Instance, self_exe: str, program: str, flags: tuple[str, ...]
) -> None:
    done = daemon.run("run", "--rm", *flags, self_exe, program, cli="proa")
    assert done.returncode == READ_ONLY, (done.returncode, done.stderr)


def test_nor_through_an_exec(daemon: Instance, self_exe: str) -> None:
    with running(daemon, self_exe) as name:
        for program in ("/proc/self/exe", "/run.sh"):
            done = daemon.run("exec", name, program, cli="proa")
            assert done.returncode == READ_ONLY, (done.returncode, done.stderr)


@contextmanager
def running(daemon: Instance, of: str = "busybox", *flags: str) -> Iterator[str]:
    """A container that sleeps."""
    done = daemon.run("run", "-d", *flags, of, "sleep", "1000", cli="proa")
    assert done.returncode == 0, done.stderr
    try:
        yield done.stdout.strip()
    finally:
        daemon.run("rm", "-f", done.stdout.strip(), cli="proa")


def targets(pid: int) -> dict[int, str]:
    """A process's descriptors, looked at from the host."""
    directory = Path(f"/proc/{pid}/fd")
    return {int(entry.name): os.readlink(entry) for entry in directory.iterdir()}


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in children for found in (int(child), *descendants(int(child)))]


@pytest.mark.parametrize(
    "flags", [(), ("-t",), ("--privileged",), ("-i",)], ids=["plain", "tty", "privileged", "in"]
)
def test_a_container_has_three_descriptors(daemon: Instance, flags: tuple[str, ...]) -> None:
    with running(daemon, "busybox", *flags) as name:
        found = targets(host_pid(daemon, name))
        assert sorted(found) == [0, 1, 2]
        assert all(to.startswith(("pipe:", "/dev/null", "/dev/pts/")) for to in found.values()), found


def test_the_built_in_init_has_none_and_nothing_of_the_keeper_in_memory(daemon: Instance) -> None:
    with running(daemon, "busybox", "--init") as name:
        pid = host_pid(daemon, name)
        assert targets(pid) == {}
        (child,) = descendants(pid)
        assert sorted(targets(child)) == [0, 1, 2]
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "[heap]" not in maps
        files = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split()) > 5}
        assert not [file for file in files if "bin/python" in file or "libpython" in file], files
        _, output, errors = exec_(daemon, name, "cat /proc/1/maps /proc/1/exe /proc/1/environ")
        assert output == ""
        assert errors.count("Permission denied") == 3


def exec_(daemon: Instance, name: str, script: str, *flags: str) -> tuple[int, str, str]:
    done = daemon.run("exec", *flags, name, "sh", "-c", script, cli="proa")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flags", [(), ("-t",), ("--privileged",)], ids=["plain", "tty", "privileged"])
def test_an_exec_has_three_descriptors(daemon: Instance, flags: tuple[str, ...]) -> None:
    with running(daemon) as name:
        _, output, _ = exec_(daemon, name, "ls /proc/self/fd; ls /proc/$$/fd; true", *flags)
        assert set(output.split()) <= {"0", "1", "2", "3"}
        assert output.split().count("3") == 1  # that of ls itself


@pytest.mark.parametrize("number", [3, 7, 8, 9, 12])
@pytest.mark.parametrize(
    "path", ["/proc/self/fd/{}", "/proc/self/fd/{}/../..", "/proc/1/fd/{}", "/proc/self/root/../.."]
)
def test_no_working_directory_outside(daemon: Instance, path: str, number: int) -> None:
    name = path.format(number)
    code, output, _ = sh(daemon, "cat ../../../../../etc/hostname; ls -id /", "-w", name)
    if code == 0:  # it led nowhere but to the container's own root
        assert Path("/etc/hostname").read_text().strip() not in output.split()
    with running(daemon) as container:
        done = daemon.run(
            "exec", "-w", name, container, "sh", "-c", "pwd -P; ls -id / ../../../..", cli="proa"
        )
        if done.returncode == 0:
            lines = done.stdout.split()
            assert not lines[0].startswith("(unreachable)")
            assert lines[1] == lines[3]


def test_a_working_directory_by_links_stays_inside(daemon: Instance) -> None:
    def alter(tree: Path) -> None:
        (tree / "out").symlink_to("../../../../../../../proa-boundary-cwd")
        (tree / "proc-link").symlink_to("/proc/self/fd/5")
        (tree / "file").write_text("")

    of = image(daemon, "attack/cwd", alter)
    code, output, errors = sh(daemon, "pwd -P", "-w", "/out/inside", image=of)
    assert not Path("/proa-boundary-cwd").exists()
    assert (code, output) == (0, "/proa-boundary-cwd/inside\n") or code == 127, errors
    assert sh(daemon, "pwd", "-w", "/proc-link", image=of)[0] in (125, 126, 127)
    assert sh(daemon, "pwd", "-w", "/file", image=of)[0] in (125, 126, 127)


def test_attached_clients_that_go_leave_nothing_in_the_keeper(daemon: Instance) -> None:
    keeper = daemon.keeper_pid()
    with running(daemon, "busybox", "-i") as name:
        before = sockets(keeper)
        for _ in range(40):
            connection = daemon.engine.connection()
            connection.request("POST", f"/v1.41/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1")
            connection.getresponse().close()
            connection.close()
        assert eventually(lambda: sockets(keeper) <= before)


def sockets(pid: int) -> int:
    return sum(to.startswith("socket:") for to in targets(pid).values())

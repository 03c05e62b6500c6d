"""Images that try to redirect what the engine mounts, makes or writes in their root filesystem.

CVE-2021-30465, CVE-2019-16884, CVE-2025-31133, CVE-2025-52881, CVE-2026-41579.
"""

import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hostile import image, load, sh
from instance import Instance

CANARY = "/tmp/proa-boundary-canary"
UP = "../" * 12


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory of the host that must stay empty, by a path that an image can name."""
    place = Path(CANARY)
    place.mkdir(exist_ok=True)
    yield place
    try:
        assert list(place.rglob("*")) == []
    finally:
        for entry in sorted(place.rglob("*"), reverse=True):
            entry.rmdir() if entry.is_dir() else entry.unlink()
        place.rmdir()


def replaced(name: str, target: str) -> Callable[[Path], None]:
    """The image's `name` becomes a symbolic link."""

    def alter(tree: Path) -> None:
        path = tree / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    return alter


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize(
    "target", [CANARY, UP + CANARY[1:], "/etc", "nowhere", "/proc/self/fd/4", "/proc/1/root"]
)
def test_kernel_file_systems_are_not_redirected(
    daemon: Instance, canary: Path, name: str, target: str
) -> None:
    of = image(daemon, "attack/kernel", replaced(name, target))
    code, output, errors = sh(daemon, "cat /proc/1/comm; ls /etc; cat /dev/null", image=of)
    assert code in (0, 125, 126, 127), errors
    assert "memory" not in output, errors  # /proc/meminfo and its like are nowhere but in /proc


FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "target", [f"{CANARY}/new", f"{UP}{CANARY[1:]}/new", "/run/made/later", "../data/file"]
)
def test_engine_files_follow_links_inside_only(
    daemon: Instance, canary: Path, name: str, target: str
) -> None:
    """As with Docker: a dangling link in the image gets its target, inside."""
    of = image(daemon, "attack/files", replaced(name, target))
    code, output, errors = sh(daemon, f"cat /{name} && echo x >> /{name} && echo kept", image=of)
    assert code == 0, errors
    assert output.endswith("kept\n")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "target", ["/proc/self/environ", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/dev/null"]
)
def test_engine_files_do_not_cover_the_kernel_s(daemon: Instance, name: str, target: str) -> None:
    of = image(daemon, "attack/files", replaced(name, target))
    code, output, _ = sh(daemon, "wc -c < /dev/null; cat /proc/self/environ | wc -c", image=of)
    if code == 0:
        assert output.split()[0] == "0"
        assert int(output.split()[1]) > 10


def test_mtab_by_a_link_is_left_alone(daemon: Instance, canary: Path) -> None:
    of = image(daemon, "attack/mtab", replaced("etc/mtab", f"{CANARY}/mtab"))
    assert sh(daemon, "true", image=of)[0] == 0


@pytest.mark.parametrize(
    ("link", "target", "mounted"),
    [
        ("data", CANARY, "/data/x"),
        ("data", f"{UP}{CANARY[1:]}", "/data/x"),
        ("a/b", f"/../..{CANARY}", "/a/b/c/d"),
        ("self", "/proc/self/root", "/self/x"),
        ("magic", "/proc/self/fd/3", "/magic/x"),
        ("loop", "loop", "/loop/x"),
    ],
)
@pytest.mark.parametrize("kind", ["bind", "file", "volume", "tmpfs"])
def test_mount_targets_stay_inside(
    daemon: Instance, canary: Path, tmp_path: Path, link: str, target: str, mounted: str, kind: str
) -> None:
    of = image(daemon, "attack/targets", replaced(link, target))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/mark").write_text("marked")
    flags = {
        "bind": ("-v", f"{tmp_path}/in:{mounted}"),
        "file": ("-v", f"{tmp_path}/in/mark:{mounted}"),
        "volume": ("-v", f"boundary-targets:{mounted}"),
        "tmpfs": ("--tmpfs", mounted),
    }[kind]
    code, output, errors = sh(daemon, f"cat {mounted}/mark {mounted} 2>/dev/null; true", *flags, image=of)
    daemon.run("volume", "rm", "-f", "boundary-targets", cli="proa")
    assert code in (0, 125, 126, 127), errors
    if code == 0 and kind in ("bind", "file"):
        assert output == "marked"


@pytest.mark.parametrize(
    "target", ["/proc", "/proc/self", "/proc/1/attr", "/proc/sys/kernel", "/proc/self/attr/exec"]
)
@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_mounted_over_proc(daemon: Instance, tmp_path: Path, target: str, link: bool) -> None:
    of = image(daemon, "attack/over-proc", replaced("way", target))
    (tmp_path / "f").write_text("")
    mounted = "/way" if link else target
    for flag in (("-v", f"{tmp_path}:{mounted}"), ("-v", f"{tmp_path}/f:{mounted}"), ("--tmpfs", mounted)):
        assert sh(daemon, "true", *flag, image=of)[0] in (125, 126, 127), flag


@pytest.mark.parametrize("flags", [(), ("-v", "/dev/null:/dev/null")], ids=["plain", "bound"])
def test_masked_paths_are_masked_by_the_null_device_itself(daemon: Instance, flags: tuple[str, ...]) -> None:
    def alter(tree: Path) -> None:
        (tree / "dev/null").write_text("not the null device")

    of = image(daemon, "attack/null", alter)
    script = "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; stat -c %t:%T /dev/null"
    assert sh(daemon, script, *flags, image=of)[1].split() == ["0", "1:3"]


def test_a_bind_of_another_file_over_the_null_device_does_not_unmask(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "null").write_text("spoof")
    code, output, _ = sh(daemon, "cat /proc/kcore | wc -c", "-v", f"{tmp_path}/null:/dev/null")
    assert code in (125, 126, 127) or output.strip() == "0"


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
)
def test_kernel_settings_are_read_only(daemon: Instance, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"this kernel has no {path}")
    _, output, _ = sh(
        daemon, f"(cat /dev/null >> {path}) 2>&1; busybox mount -o remount,rw /proc/sys 2>&1; true"
    )
    assert "Read-only" in output
    assert "ermitted" in output or "denied" in output


def test_a_device_is_not_made_through_a_link(daemon: Instance, canary: Path) -> None:
    of = image(daemon, "attack/device", replaced("data", CANARY))
    code, _, errors = sh(daemon, "ls -l /data/zero", "--device", "/dev/zero:/data/zero", image=of)
    assert code in (0, 125, 126, 127), errors


def test_copy_up_stays_inside_and_ends(daemon: Instance) -> None:
    """What an image has at a volume's or a tmpfs's target may be as deep as a path goes."""
    of = image(daemon, "attack/links", replaced("deep/secret", "/etc/shadow"))
    with_many = BytesIO()
    with tarfile.open(fileobj=with_many, mode="w") as archive:
        for name in ("deep", "deep/" + "d/" * 2000):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
    load(daemon, "attack/deep", [with_many.getvalue()], {"Cmd": ["x"]})
    for flag in (("-v", "boundary-deep:/deep"), ("--tmpfs", "/deep:tmpcopyup")):
        assert sh(daemon, "busybox readlink /deep/secret", *flag, image=of)[:2] == (0, "/etc/shadow\n")
        daemon.run("volume", "rm", "-f", "boundary-deep", cli="proa")
        code, _, errors = sh(daemon, "true", *flag, image="attack/deep")
        assert code in (125, 127)
        assert "name too long" in errors.lower()
        daemon.run("volume", "rm", "-f", "boundary-deep", cli="proa")
    assert sh(daemon, "echo alive")[1] == "alive\n"


def test_what_a_container_makes_in_its_root_is_only_looked_at(daemon: Instance) -> None:
    """An exec reads passwd in the container's root: no device is opened for it there, no writer woken."""
    name = daemon.run("run", "-d", "busybox", "sleep", "1000", cli="proa").stdout.strip()
    try:
        for make in (
            "rm -f /etc/passwd; busybox mkfifo /etc/passwd; (echo x >/etc/passwd; touch /woken) & sleep 0",
            "rm -f /etc/passwd; busybox mknod /etc/passwd c 10 130",  # the watchdog: to open it starts it
            "rm -f /etc/passwd; busybox ln -s /proc/1/mem /etc/passwd",
            "rm -f /etc/passwd; busybox ln -s /etc/passwd /etc/passwd",
            "rm -f /etc/passwd; busybox ln -s ../../../../../../proc/self/fd/0 /etc/passwd",
            "rm -f /etc/passwd; mkdir /etc/passwd",
        ):
            daemon.run("exec", "-d", "-u", "0", name, "sh", "-c", make, cli="proa")
            for _ in range(3):
                done = daemon.run("exec", "-u", "0:0", name, "echo", "here", cli="proa")
                assert (done.returncode, done.stdout) == (0, "here\n"), (make, done.stderr)
            assert daemon.run("exec", "-u", "root", name, "echo", cli="proa").returncode, make
        assert daemon.run("exec", name, "test", "-e", "/woken", cli="proa").returncode == 1
    finally:
        daemon.run("rm", "-f", name, cli="proa")


def test_a_passwd_that_is_too_large_is_refused(daemon: Instance) -> None:
    def grow(tree: Path) -> None:
        (tree / "etc/passwd").write_bytes(b"x:x:1:1::/:\n" * 200_000)

    of = image(daemon, "attack/passwd", grow)
    code, _, errors = sh(daemon, "true", "-u", "root", image=of)
    assert code == 125
    assert "too large" in errors.lower()
    assert sh(daemon, "echo alive")[1] == "alive\n"

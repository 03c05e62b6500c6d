"""What goes wrong says so in one line, with Docker's exit code, and leaves nothing on the host."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import peers
import pytest
from instance import Instance, eventually, instance, require_root

import proa


def one_line(text: str) -> str:
    """The error, which must be one line (the usage hint, and what run says before it pulls, aside)."""
    aside = ("See ", "Run '", "Usage:", "Unable to find image")
    lines = [line for line in text.splitlines() if line and not line.startswith(aside)]
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture
def clean(daemon: Instance) -> Iterator[Instance]:
    """The daemon, with nothing of a container on the host before the test and after it."""
    assert eventually(lambda: not daemon.leftovers()), daemon.leftovers()
    yield daemon
    assert eventually(lambda: not daemon.leftovers()), daemon.leftovers()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("run", "--no-such-flag", "busybox"), 125, "unknown flag: --no-such-flag"),
        (("run", "--rm", "no-such-image"), 125, "no-such-image"),
        (("run", "--rm", "UPPER"), 125, "invalid reference format"),
        (("run", "--rm", "-u", "ghost", "busybox", "true"), 125, "unable to find user ghost"),
        (("run", "--rm", "-u", "99999999999", "busybox", "true"), 125, "99999999999"),
        (
            ("run", "--rm", "--mount", "type=bind,src=/missing,dst=/x", "busybox", "true"),
            125,
            "bind source path does not exist",
        ),
        (("run", "--rm", "busybox", "missing-program"), 127, "executable file not found"),
        (("run", "--rm", "busybox", "/etc/passwd"), 126, "permission denied"),
        (("run", "--rm", "-w", "relative", "busybox", "true"), 125, "relative"),
        (
            ("run", "--rm", "--sysctl", "kernel.core_pattern=|x", "busybox", "true"),
            125,
            "kernel.core_pattern",
        ),
        (("run", "--rm", "--device", "/dev/missing", "busybox", "true"), 127, "/dev/missing"),
        (("run", "--rm", "--security-opt", "seccomp=/missing.json", "busybox", "true"), 125, "/missing.json"),
        (("run", "--rm", "--network", "container:missing", "busybox", "true"), 125, "missing"),
        (("run", "--rm", "--rootfs", "/missing-directory", "true"), 125, "/missing-directory"),
        (("run", "--rm", "--rootfs", "/", "true"), 125, "it holds the daemon's data root"),
        (("stop", "missing"), 1, "No such container: missing"),
        (("exec", "missing", "true"), 1, "No such container: missing"),
        (("rmi", "missing"), 1, "No such image: missing"),
    ],
)
def test_the_words_and_the_code(clean: Instance, words: tuple[str, ...], code: int, text: str) -> None:
    done = clean.run(*words, cli="proa")
    assert done.returncode == code, done.stderr
    assert text in one_line(done.stderr)


def test_a_program_of_another_architecture(clean: Instance, tmp_path: Path) -> None:
    foreign = bytearray(64)
    foreign[:20] = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00"
    (tmp_path / "riscv").write_bytes(foreign)
    (tmp_path / "riscv").chmod(0o755)
    done = clean.run("run", "--rm", "-v", f"{tmp_path}:/x", "busybox", "/x/riscv", cli="proa")
    assert done.returncode in (125, 126)
    assert "exec format error" in one_line(done.stderr).lower()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a tar at all" * 100, b"\x1f\x8b\x08" + bytes(50)],
    ids=["empty", "garbage", "cut gzip"],
)
def test_malformed_archives(clean: Instance, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(data)
    images = clean.run("images", "-aq", cli="proa").stdout
    done = clean.run("load", "-i", str(tmp_path / "bad.tar"), cli="proa")
    assert done.returncode == 1
    one_line(done.stderr)
    assert clean.run("images", "-aq", cli="proa").stdout == images


def test_an_archive_whose_layer_is_not_what_its_configuration_says(clean: Instance, tmp_path: Path) -> None:
    archive = peers.busybox_archive(clean.root / "tree")
    out = BytesIO()
    with tarfile.open(fileobj=BytesIO(archive)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            data = source.extractfile(member).read()
            if member.name == "layer.tar":
                data = data[:600] + b"X" + data[601:]
            target.addfile(member, BytesIO(data))
    (tmp_path / "forged.tar").write_bytes(out.getvalue().replace(b"busybox:latest", b"forgery:latest"))
    done = clean.run("load", "-i", str(tmp_path / "forged.tar"), cli="proa")
    assert done.returncode == 1, done.stdout
    assert "forgery" not in clean.run("images", cli="proa").stdout


def test_a_full_disk() -> None:
    require_root()
    root = Path(tempfile.mkdtemp(prefix="proa-full-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root], check=True)
    try:
        with instance(root) as small:
            images = small.run("images", "-q", cli="proa").stdout
            out = BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                info = tarfile.TarInfo("big")
                info.size = 16 << 20
                tar.addfile(info, BytesIO(os.urandom(16 << 20)))
            done = small.run(
                "import", "-", "big:1", cli="proa", input=out.getvalue().decode("latin-1"), encoding="latin-1"
            )
            assert done.returncode == 1
            assert "no space left on device" in one_line(done.stderr).lower()
            assert small.run("images", "-q", cli="proa").stdout == images
            assert small.run("run", "--rm", "busybox", "echo", "alive", cli="proa").stdout == "alive\n"
    finally:
        subprocess.run(["umount", "-l", root], check=True)
        root.rmdir()


def test_a_daemon_that_cannot_be_reached() -> None:
    command = [peers.script("proa"), "-H", "unix:///nowhere/proad.sock", "ps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Cannot connect to the" in one_line(done.stderr)
    assert "unix:///nowhere/proad.sock" in done.stderr


@pytest.mark.skipif(
    not Path("/usr/bin/python3").exists(), reason="needs an interpreter that others may execute"
)
def test_a_caller_without_root() -> None:
    require_root()
    script = "import os; os.setgroups([]); os.setgid(1); os.setuid(1); from proa.cli.main import main; main()"
    packages = str(Path(proa.__file__).parent.parent)
    environment = {**os.environ, "PROA_EXEC_ROOT": "/run/proa-nobody", "PYTHONPATH": packages}
    command = ["/usr/bin/python3", "-B", "-c", script, "ps"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "root" in one_line(done.stderr).lower()
    assert not Path("/run/proa-nobody").exists()

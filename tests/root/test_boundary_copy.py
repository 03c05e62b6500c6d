"""cp and export against containers that change their files meanwhile: nothing of the host is read or written.

CVE-2018-15664, CVE-2019-14271, CVE-2026-41567, CVE-2026-41568.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from uuid import uuid4

import pytest
from instance import Instance, eventually

SWAPS = """
mkdir -p /real; echo mine > /real/secret; cd /
while :; do ln -s {outside} /d; rm /d; mkdir /d; echo mine > /d/secret; rm -r /d; done
"""
ROUNDS = 60
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
CGROUP = "/sys/fs/cgroup" if UNIFIED else "/sys/fs/cgroup/memory"
GONE = 410
"""What was there when the answer began was not when its turn came: the answer is cut."""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that a container knows the name of."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    return directory


@pytest.fixture
def name(daemon: Instance) -> Iterator[str]:
    chosen = f"c-{uuid4().hex[:8]}"
    yield chosen
    daemon.run("rm", "-f", "-v", chosen, cli="proa")


def start(daemon: Instance, name: str, script: str, *flags: str) -> None:
    done = daemon.run(
        "run", "-d", "--name", name, "--network", "none", *flags, "busybox", "sh", "-c", script, cli="proa"
    )
    assert done.returncode == 0, done.stderr


def proa(daemon: Instance, *words: str, code: int | None = 0) -> str:
    done = daemon.run(*words, cli="proa")
    assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def request(
    daemon: Instance, method: str, name: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """One request to the archive endpoint: (status, body)."""
    connection = daemon.api
    connection.request(
        method, f"/v1.51/containers/{name}/archive?path={path}", body, {"Content-Type": "application/x-tar"}
    )
    response = connection.getresponse()
    try:
        return response.status, response.read()
    except IncompleteRead:
        return GONE, b""


def archive(*members: tuple[str, bytes, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as target:
        for member, kind, content, link in members:
            info = tarfile.TarInfo(member)
            info.type, info.size, info.linkname, info.mode = kind, len(content), link, 0o644
            info.devmajor, info.devminor = 1, 3
            target.addfile(info, io.BytesIO(content))
    return out.getvalue()


def contents(data: bytes) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        files = [found.extractfile(member) for member in found if member.isreg()]
        return [file.read() for file in files if file is not None]


F, S, H = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_archives_come_in_any_compression(
    daemon: Instance, name: str, compress: Callable[[bytes], bytes]
) -> None:
    start(daemon, name, "sleep 100")
    content = os.urandom(300_000)
    status, told = request(daemon, "PUT", name, "/tmp", compress(archive(("new", F, content, ""))))
    assert (status, told) == (200, b"")
    digest, _ = proa(daemon, "exec", name, "busybox", "sha256sum", "/tmp/new").split()
    assert digest == hashlib.sha256(content).hexdigest()
    cut = compress(archive(("cut", F, content, "")))[:150_000]
    assert request(daemon, "PUT", name, "/tmp", cut)[0] in (400, 500)


def test_a_directory_that_becomes_a_link_leads_nowhere(daemon: Instance, name: str, outside: Path) -> None:
    """Reading and writing, while the container swaps the directory for a link to the host's."""
    start(daemon, name, SWAPS.format(outside=outside))
    new = archive(("new", F, b"x", ""))
    seen = set()
    for _ in range(ROUNDS):
        status, data = request(daemon, "GET", name, "/d/secret")
        if status == 200:
            found = contents(data)
            assert found in ([b"mine\n"], [b""], [])
        seen.add(status)
        status, _ = request(daemon, "PUT", name, "/d", new)
        seen.add(status)
        status, data = request(daemon, "GET", name, "/d/")
        if status == 200:
            assert b"the host's" not in data
    assert 404 in seen
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "the host's"


def test_links_lead_where_they_lead_inside(
    daemon: Instance, name: str, outside: Path, tmp_path: Path
) -> None:
    script = (
        f"echo inside > /etc/passwd; ln -s /etc/passwd /link; ln -s {outside} /out; ln -s ../../../.. /up; "
        "ln -s /proc/1/root /magic; ln -s /proc/self/fd /fds; sleep 100"
    )
    start(daemon, name, script)
    assert eventually(lambda: daemon.run("exec", name, "test", "-h", "/fds", cli="proa").returncode == 0)
    proa(daemon, "cp", "-L", f"{name}:/link", f"{tmp_path}/got")
    assert (tmp_path / "got").read_text() == "inside\n"
    status, data = request(daemon, "GET", name, "/up/up/etc/passwd")
    assert (status, contents(data)) == (200, [b"inside\n"])
    for path in ("/out/secret", "/magic/etc/passwd", "/magic/", "/fds/0", "/proc/1/root/etc/passwd"):
        status, data = request(daemon, "GET", name, path)
        assert status >= 400, path
        assert b"the host's" not in data
    for path in ("/out", "/magic/tmp", "/fds", "/proc/1/root/tmp", "/proc/1/cwd"):
        assert request(daemon, "PUT", name, path, archive(("new", F, b"x", "")))[0] >= 400, path
    assert os.listdir(outside) == ["secret"]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    "members",
    [
        [("../../../../../../{outside}/new", F, b"x", "")],
        [("{outside}/new", F, b"x", "")],
        [("l", S, b"", "{outside}"), ("l/new", F, b"x", "")],
        [("l", S, b"", "../../../../../..{outside}"), ("l/secret", F, b"x", "")],
        [("h", H, b"", "{outside}/secret")],
        [("h", H, b"", "../../../../../../{outside}/secret")],
        [("l", S, b"", "{outside}"), ("h", H, b"", "l/secret")],
        [("p", S, b"", "/proc/1/root"), ("p/tmp/new", F, b"x", "")],
        [("p", S, b"", "/proc/sys"), ("p/kernel/hostname", F, b"x", "")],
    ],
)
def test_archives_stay_inside(
    daemon: Instance, name: str, outside: Path, members: list[tuple[str, bytes, bytes, str]], running: bool
) -> None:
    start(daemon, name, "mkdir -p /d; sleep 100" if running else "mkdir -p /d")
    if running:
        assert eventually(lambda: daemon.run("exec", name, "test", "-d", "/d", cli="proa").returncode == 0)
    else:
        proa(daemon, "wait", name)
    made = [
        (n.replace("{outside}", str(outside)), kind, content, link.replace("{outside}", str(outside)))
        for n, kind, content, link in members
    ]
    status, data = request(daemon, "PUT", name, "/d", archive(*made))
    assert b"internal error" not in data
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "the host's"
    assert os.stat(outside / "secret").st_nlink == 1
    if any(member[0].startswith("..") or member[1] == H for member in members):
        assert status >= 400


@pytest.mark.parametrize("path", ["/proc", "/sys", "/proc/sys/kernel", CGROUP, "/dev/pts"])
def test_the_kernels_file_systems_are_left_alone(daemon: Instance, name: str, path: str) -> None:
    start(daemon, name, "sleep 100", "--privileged")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    bad = archive(("core_pattern", F, b"|/bin/false", ""), ("release_agent", F, b"x", ""))
    assert request(daemon, "PUT", name, path, bad)[0] in (403, 404)
    status, data = request(daemon, "GET", name, path)
    if status == 200:
        with tarfile.open(fileobj=io.BytesIO(data)) as found:
            assert len(found.getmembers()) == 1
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("running", [True, False])
def test_what_is_read_only_stays_so(daemon: Instance, name: str, tmp_path: Path, running: bool) -> None:
    (tmp_path / "bind").mkdir()
    flags = ("--read-only", "-v", f"{tmp_path}/bind:/ro:ro", "-v", f"{name}-v:/rw")
    start(daemon, name, "sleep 100" if running else "true", *flags)
    if not running:
        proa(daemon, "wait", name)
    (tmp_path / "file").write_text("x")
    said = proa(daemon, "cp", f"{tmp_path}/file", f"{name}:/", code=1)
    assert "container rootfs is marked read-only" in said
    said = proa(daemon, "cp", f"{tmp_path}/file", f"{name}:/ro/", code=1)
    assert "mounted volume is marked read-only" in said
    assert os.listdir(tmp_path / "bind") == []
    proa(daemon, "cp", f"{tmp_path}/file", f"{name}:/rw/")
    proa(daemon, "cp", f"{name}:/rw/file", f"{tmp_path}/back")
    assert (tmp_path / "back").read_text() == "x"
    proa(daemon, "rm", "-f", name)
    proa(daemon, "volume", "rm", f"{name}-v")


def test_devices_and_fifos_are_entries_and_never_opened(daemon: Instance, name: str) -> None:
    start(daemon, name, "mkdir /n; mkfifo /n/fifo; mknod /n/zero c 1 5; touch /n/done; sleep 100")
    assert eventually(lambda: daemon.run("exec", name, "test", "-e", "/n/done", cli="proa").returncode == 0)
    _, data = request(daemon, "GET", name, "/n")
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        kinds = {member.name: member.type for member in found}
    assert kinds["n/fifo"] == tarfile.FIFOTYPE
    assert kinds["n/zero"] == tarfile.CHRTYPE
    assert request(daemon, "GET", name, "/n/fifo")[0] == 200


def test_a_process_that_has_changed_its_root_hides_nothing(daemon: Instance, name: str) -> None:
    script = (
        "mkdir -p /jail/bin /jail/etc; cp /bin/busybox /jail/bin/sleep; exec busybox chroot /jail sleep 100"
    )
    start(daemon, name, script.replace("exec busybox", "exec /bin/busybox"))
    assert eventually(lambda: request(daemon, "HEAD", name, "/jail/bin/sleep")[0] == 200)
    assert request(daemon, "HEAD", name, "/bin/busybox")[0] == 200


def test_mounted_files_are_not_replaced(daemon: Instance, name: str) -> None:
    """From outside of the container's mount namespace the kernel would let them go, mount and all."""
    done = daemon.run("run", "-d", "--name", name, "busybox", "sleep", "100", cli="proa")
    assert done.returncode == 0, done.stderr
    before = proa(daemon, "exec", name, "cat", "/etc/hosts")
    status, data = request(daemon, "PUT", name, "/etc", archive(("hosts", F, b"127.0.0.1 evil", "")))
    assert status == 500
    assert b"busy" in data
    assert proa(daemon, "exec", name, "cat", "/etc/hosts") == before


def test_an_export_of_changing_files_is_a_whole_archive(daemon: Instance, name: str, outside: Path) -> None:
    start(daemon, name, SWAPS.format(outside=outside), "-v", f"{outside}:/mounted")
    for _ in range(5):
        connection = daemon.api
        connection.request("GET", f"/v1.51/containers/{name}/export")
        data = connection.getresponse().read()
        assert b"the host's" not in data  # what is mounted there is not of the root file system
        with tarfile.open(fileobj=io.BytesIO(data)) as found:
            names = found.getnames()
        assert "bin/busybox" in names
        assert "mounted" in names
        assert "mounted/secret" not in names


def test_nothing_is_left_mounted(daemon: Instance, name: str, tmp_path: Path) -> None:
    """A stopped container's files are unmounted with the last byte."""
    start(daemon, name, "true", "-v", f"{tmp_path}:/here")
    proa(daemon, "wait", name)
    assert request(daemon, "GET", name, "/")[0] == 200
    assert request(daemon, "PUT", name, "/tmp", archive(("x", F, b"x", "")))[0] == 200
    # Nor by a request that fails: its traceback has the files, and no collection can be waited for.
    assert request(daemon, "GET", name, "/missing")[0] == 404
    assert request(daemon, "PUT", name, "/tmp", b"no archive" * 100)[0] == 400
    assert daemon.process is not None
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")

    def namespaces() -> list[str]:
        found = []
        for entry in descriptors.iterdir():
            try:
                found.append(os.readlink(entry))
            except FileNotFoundError:
                continue
        return [target for target in found if target.startswith("mnt:")]

    assert eventually(lambda: namespaces() == [])
    proa(daemon, "start", name)
    assert stat.S_ISDIR(os.stat(tmp_path).st_mode)

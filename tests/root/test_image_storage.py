"""Images as containers see them: deep stacks, and files that are odd in every way, committed again."""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
from image_archives import docker_archive, tar
from instance import Instance, instance

LAYERS = 128


@pytest.fixture(scope="module")
def daemon() -> Iterator[Instance]:
    with instance(Path(tempfile.mkdtemp(prefix="proa-storage-"))) as running:
        yield running


def test_a_stack_of_128_layers_runs(daemon: Instance) -> None:
    busybox = tar({"bin": None, "bin/busybox": Path(peers.BUSYBOX).read_bytes()}, modes=0o755)
    layers = [busybox, *(tar({f"layer{n}": b"%d" % n, "top": b"%d" % n}) for n in range(1, LAYERS))]
    peers.load(daemon.engine, docker_archive(layers, ["deep:1"]))
    run = daemon.run("run", "--rm", "deep:1", "/bin/busybox", "cat", "/layer1", "/layer64", "/top")
    assert (run.returncode, run.stdout) == (0, f"164{LAYERS - 1}"), run.stderr


ODD = r"""
set -e
mkdir /odd && cd /odd
echo one > first && ln first second
printf x > "$(printf 'not-utf8-\377')"
busybox dd if=/dev/zero of=sparse bs=1 count=1 seek=9663676416 2>/dev/null
busybox dd if=/dev/zero of=setuid bs=1 count=1 2>/dev/null && chown 1000:2000 setuid && chmod 4711 setuid
long=$(printf 'n%.0s' $(seq 1 200)) && mkdir -p $long/$long && echo deep > $long/$long/file
mknod null c 1 3
ln -s ../first link
busybox rm /etc/group
"""


def test_what_a_container_made_survives_commit_save_and_load(daemon: Instance) -> None:
    for name in ("mkdir", "ln", "printf", "chmod", "chown", "seq", "mknod", "rm"):
        (daemon.root / "applets").mkdir(exist_ok=True)
        (daemon.root / "applets" / name).unlink(missing_ok=True)
        (daemon.root / "applets" / name).symlink_to("/bin/busybox")
    applets = f"{daemon.root}/applets:/applets:ro"
    made = daemon.run(
        "run", "--name", "odd", "-v", applets, "-e", "PATH=/bin:/applets", "busybox", "sh", "-c", ODD
    )
    assert made.returncode == 0, made.stderr
    assert daemon.run("commit", "odd", "odd:1").returncode == 0
    before = looks(daemon)
    archive = daemon.root / "odd.tar"
    assert daemon.run("save", "-o", str(archive), "odd:1").returncode == 0
    assert archive.stat().st_size < 64 << 20, "the hole was saved"
    daemon.run("rm", "-f", "odd")
    assert daemon.run("rmi", "odd:1").returncode == 0
    peers.load(daemon.engine, archive.read_bytes())
    assert looks(daemon) == before


def looks(daemon: Instance) -> dict[str, object]:
    """Every file of odd:1's top layer, by what a stat and its content say; and what is checked by value."""
    inspected = json.loads(daemon.run("inspect", "odd:1").stdout)[0]
    assert inspected["RootFS"]["Layers"]
    top = next(
        path
        for path in sorted(Path(daemon.config.data_root, "snapshots").glob("l*/fs"))
        if (path / "odd").is_dir()
    )
    found: dict[str, object] = {}
    for directory, directories, names in os.walk(os.fsencode(top)):
        for name in directories + names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = b""
            if os.path.isfile(path) and status.st_size < 1 << 20:
                content = Path(os.fsdecode(path)).read_bytes()
            kind = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_size)
            whiteout = stat.S_ISCHR(status.st_mode) and not status.st_rdev
            identity = (*kind, 0 if whiteout else status.st_mtime_ns, hashlib.sha256(content).hexdigest())
            found[os.fsdecode(os.path.relpath(path, os.fsencode(top)))] = identity
    odd = top / "odd"
    assert (odd / "first").stat().st_ino == (odd / "second").stat().st_ino
    assert (odd / "sparse").stat().st_size == 9663676417
    assert (odd / "sparse").stat().st_blocks < 1 << 10
    assert (odd / "setuid").stat().st_mode & 0o7777 == 0o4711
    assert os.path.exists(os.fsencode(odd) + b"/not-utf8-\xff")
    assert (top / "etc/group").lstat().st_rdev == 0
    return found

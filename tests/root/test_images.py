"""What of images needs root: whiteouts over a real overlay, owners, devices, capabilities, proa/hello."""

import functools
import http.server
import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from image_archives import chunks, config, digest, docker_archive
from instance import Instance, require_root

sys.path.insert(0, str(Path(__file__).parent.parent / "unit/engine"))

from images_rig import Rig

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    require_root()
    return Rig(tmp_path)


def command(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def entry(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


BASE = layer(
    entry("gone", b"lower"),
    entry("kept", b"lower"),
    entry("dir", type=tarfile.DIRTYPE, mode=0o1777),
    entry("dir/old", b"lower"),
    entry("opaque", type=tarfile.DIRTYPE, mode=0o755),
    entry("opaque/old", b"lower"),
    entry("suid", b"x", mode=0o4755, uid=1000, gid=2000),
    entry(
        "capable",
        b"x",
        mode=0o755,
        pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")},
    ),
    entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
)
TOP = layer(
    entry(".wh.gone"),
    entry("dir/.wh.old"),
    entry("dir/new", b"upper"),
    entry("opaque/.wh..wh..opq"),
    entry("opaque/new", b"upper"),
)


async def test_layers_merge_in_a_real_overlay(rig: Rig, tmp_path: Path) -> None:
    await rig.load(chunks(docker_archive([BASE, TOP], ["a:1"])))
    overlay = rig.snapshots.prepare("key", rig.images.resolve("a:1").layers)
    merged = tmp_path / "merged"
    merged.mkdir()
    options = f"lowerdir={':'.join(overlay.lower)},upperdir={overlay.upper},workdir={overlay.work}"
    command("mount", "-t", "overlay", "-o", options, "overlay", merged)
    try:
        beneath = {".dockerenv", "dev", "etc", "proc", "sys"}  # what every container has
        assert set(os.listdir(merged)) - beneath == {"capable", "dir", "kept", "null", "opaque", "suid"}
        assert os.listdir(merged / "dir") == ["new"]
        assert os.listdir(merged / "opaque") == ["new"]
        status = (merged / "suid").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 2000, 0o4755)
        assert (merged / "null").stat().st_rdev == os.makedev(1, 3)
        assert os.getxattr(merged / "capable", "security.capability") == CAPABILITY
        # /dir has no entry of its own in the upper layer: it shows the lower one's mode all the same.
        assert stat.S_IMODE((merged / "dir").stat().st_mode) == 0o1777
    finally:
        command("umount", merged)


async def test_hello_is_there_on_demand(rig: Rig) -> None:
    assert await rig.names() == []
    image = rig.images.resolve("proa/hello")
    assert "Hello from proa!" in command(f"{image.layers[0]}/hello")
    assert rig.images.resolve("docker.io/proa/hello:latest") is image
    saved = await rig.save("proa/hello")
    assert (await rig.images.remove("proa/hello", force=False, prune=True))[0].untagged == "proa/hello:latest"
    assert rig.files() == set()
    assert await rig.load(chunks(saved)) == ["Loaded image: proa/hello:latest\n"]
    assert rig.images.resolve("proa/hello").id == image.id


async def test_overlayfs_marks_in_an_archive_are_not_believed(rig: Rig) -> None:
    marks = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.kept": "v",
    }
    evil = layer(entry("dir", type=tarfile.DIRTYPE, mode=0o755, pax_headers=marks))
    await rig.load(chunks(docker_archive([evil], ["evil:1"])))
    (directory,) = rig.images.resolve("evil:1").layers
    assert not [name for name in os.listxattr(f"{directory}/dir") if "overlay" in name]
    assert rig.images.resolve("evil:1").id == digest(config([evil]))


@pytest.mark.parametrize("cli", ["docker", "proa"])
def test_an_image_of_what_a_url_has(daemon: Instance, tmp_path: Path, cli: str) -> None:
    """Through the engine's own client, compressed as rarely anybody does."""
    if cli == "docker" and not shutil.which("docker"):
        pytest.skip("needs the docker CLI")
    (tmp_path / "root.tar.xz").write_bytes(lzma.compress(layer(entry("etc/from", b"afar"))))
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{web.server_port}/root.tar.xz"
            done = daemon.run("import", "-c", "CMD a", url, f"by-{cli}:1", cli=cli)
            assert (done.returncode, done.stderr) == (0, "")
            told = done.stdout.splitlines()
            missing = daemon.run("import", f"{url}x", cli=cli)
        finally:
            web.shutdown()
    image = daemon.api.call("GET", f"/images/by-{cli}:1/json")
    assert told == [f"Downloading from {url}", image["Id"]]
    assert (image["Comment"], image["Config"]["Cmd"]) == (f"Imported from {url}", ["/bin/sh", "-c", "a"])
    assert (missing.returncode, f"failed to GET {url}x with status 404" in missing.stderr) == (1, True)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of a directory."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the tests' output."""

"""Archives both ways with a real dockerd: the same image comes back, whoever saved and whoever loaded it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
from image_archives import chunks
from instance import require_root

sys.path.insert(0, str(Path(__file__).parent.parent / "unit/engine"))

from images_rig import Rig

CHANGES = (
    "rm /etc/group && rm -r /bin && mkdir /bin && /x/bin/busybox cp -a /x/bin/. /bin && "
    "ln /x/file /x/hard && chown 7:8 /x/file && "
    "chmod 6755 /x/file && mkfifo /x/pipe && mknod /x/null c 1 3 && mkdir -m 1777 /x/sticky"
)


@pytest.fixture(scope="module")
def docker() -> "Iterator[Docker]":
    require_root()
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd here")
    root = Path(tempfile.mkdtemp(prefix="proa-docker-"))  # Short: its sockets lie below.
    command = [
        "dockerd",
        "--data-root",
        f"{root}/data",
        "--exec-root",
        f"{root}/exec",
        "--pidfile",
        f"{root}/pid",
    ]
    command += ["-H", f"unix://{root}/docker.sock", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        peers.wait_for_ping(f"{root}/docker.sock", process)
        yield Docker(root)
    finally:
        peers.end(process)
        shutil.rmtree(root)


class Docker:
    """The docker CLI on that daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environment = os.environ | {
            "DOCKER_HOST": f"unix://{root}/docker.sock",
            "DOCKER_CONFIG": f"{root}/config",
        }

    def __call__(self, *words: str, data: bytes = b"") -> bytes:
        done = subprocess.run(
            ["docker", *words], env=self._environment, input=data, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inspect(self, image: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self("image", "inspect", image))[0]
        return found

    def contents(self, image: str) -> list[str]:
        """Every file of the image with owner, mode, links and type, as a container sees it.

        But for what docker itself puts into a container's /etc.
        """
        find = "find / -xdev -mindepth 1 ! -path '/[.dps]*' ! -path '/etc' ! -path '/etc/[hmr]*'"
        # A merged directory's count of links says where it was merged, not what is in it.
        script = (
            f"{find} ! -type d -exec stat -c '%n %u %g %a %h %F %s %Y' {{}} +;"
            f"{find} -type d -exec stat -c '%n %u %g %a %F %Y' {{}} +"
        )
        listed = self("run", "--rm", "--network", "none", image, "/bin/busybox", "sh", "-c", script)
        return sorted(listed.decode().splitlines())


@pytest.fixture(scope="module")
def image(docker: Docker) -> str:
    """changed:1, two layers, the upper one with everything that a layer can have."""
    tree = peers.busybox_tree(docker.root / "tree")
    (tree / "x").mkdir()
    shutil.copytree(tree / "bin", tree / "x/bin", symlinks=True)
    (tree / "x/file").write_bytes(b"content")
    docker("load", data=peers.busybox_archive(tree))
    docker("run", "--name", "changed", "--network", "none", "busybox", "/x/bin/busybox", "sh", "-c", CHANGES)
    docker("commit", "-c", "LABEL a=b", "changed", "changed:1")
    docker("rm", "changed")
    return "changed:1"


async def test_what_docker_saves_is_the_same_image_here_and_back(
    docker: Docker, image: str, tmp_path: Path
) -> None:
    rig = Rig(tmp_path)
    expected = docker.inspect(image)
    before = docker.contents(image)
    assert any(line.startswith("/x/hard 7 8 6755 2 regular") for line in before)
    await rig.load(chunks(docker("save", image), 1 << 16))
    found = await rig.images.inspect(image)
    assert found.id == expected["Id"]
    assert found.root_fs == expected["RootFS"]
    assert found.created == expected["Created"]
    assert found.size == expected["Size"]
    saved = await rig.save(image)
    docker("rmi", image)
    assert f"Loaded image: {image}" in docker("load", data=saved).decode()
    assert docker.inspect(image)["Id"] == expected["Id"]
    assert docker.contents(image) == before


async def test_our_layers_merge_as_dockers_do(docker: Docker, image: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.load(chunks(docker("save", image), 1 << 16))
    lower = rig.images.resolve(image).layers
    overlay = rig.snapshots.prepare("key", lower)
    merged = tmp_path / "merged"
    merged.mkdir()
    options = f"lowerdir={':'.join(overlay.lower)},upperdir={overlay.upper},workdir={overlay.work}"
    mount = ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)]
    subprocess.run(mount, check=True)  # noqa: ASYNC221
    try:
        archive = subprocess.run(["tar", "-C", merged, "-c", "."], capture_output=True, check=True).stdout  # noqa: ASYNC221
    finally:
        subprocess.run(["umount", merged], check=True)  # noqa: ASYNC221
    docker("import", "-", "merged:1", data=archive)
    assert docker.contents("merged:1") == docker.contents(image)

"""Archives both ways with a real dockerd: the same image comes back, whoever saved and whoever loaded it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
import pytest
from docker_rig import Docker, dockerd
from image_archives import chunks, legacy_archive, tar
from instance import instance

sys.path.insert(0, str(Path(__file__).parent.parent / "unit/engine"))

from images_rig import Rig

CHANGES = (
    "rm /etc/group && rm -r /bin && mkdir /bin && /x/bin/busybox cp -a /x/bin/. /bin && "
    "ln /x/file /x/hard && chown 7:8 /x/file && "
    "chmod 6755 /x/file && mkfifo /x/pipe && mknod /x/null c 1 3 && mkdir -m 1777 /x/sticky"
)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with dockerd() as running:
        yield running


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


@pytest.fixture(scope="module")
def busybox(docker: Docker) -> bytes:
    """An archive of busybox:latest alone."""
    return peers.busybox_archive(peers.busybox_tree(docker.root / "plain"))


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


async def test_parents_travel_with_their_children(docker: Docker, busybox: bytes, tmp_path: Path) -> None:
    docker("load", data=busybox)
    docker("create", "--name", "parented", "--network", "none", "busybox", "true")
    docker("commit", "parented", "child:1")
    docker("rm", "parented")
    base = docker.inspect("busybox")["Id"]
    rig = Rig(tmp_path)
    await rig.load(chunks(docker("save", "child:1", "busybox"), 1 << 16))
    assert (await rig.images.inspect("child:1")).parent == base
    saved = await rig.save("child:1", "busybox")
    docker("rmi", "-f", "child:1")
    docker("load", data=saved)
    assert docker.inspect("child:1")["Parent"] == base
    docker("rmi", "child:1")


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


def test_an_archive_of_before_manifests_has_dockers_ids(docker: Docker, tmp_path: Path) -> None:
    """Debian's dockerd still loads it."""
    layers = [tar({"etc": None, "etc/os": b"base"}), tar({}), tar({"top": b"top"})]
    archive = legacy_archive(layers, {"legacy": {"1": f"{2:064x}"}})
    docker("load", data=archive)
    with instance(Path(tempfile.mkdtemp(prefix="proa-legacy-"))) as running:
        (tmp_path / "legacy.tar").write_bytes(archive)
        done = running.run("load", "-i", str(tmp_path / "legacy.tar"), cli="proa")
        assert (done.returncode, done.stdout) == (0, "Loaded image: legacy:1\n")
        ours = running.api.call("GET", "/images/legacy:1/json")
    assert ours["Id"] == docker.inspect("legacy:1")["Id"]


CHANGES_TO_COMMITS = (
    ('CMD ["a", "b"]', "cmd echo $HOME"),
    ('SHELL ["/bin/bash", "-c"]',),
    ("ENTRYPOINT x y", "CMD z"),
    ("ENTRYPOINT x",),
    ("ENV A=1 B='2 3'", "ENV PATH=$PATH:/x", "ENV C the rest", "ENV A=4"),
    ("LABEL a=1 b=", 'LABEL "c d"=$PATH'),
    ("EXPOSE 80 53/udp 8000-8001",),
    ('VOLUME ["/a"]', "VOLUME /b /c"),
    ("USER 1000:1000", "WORKDIR /a", "WORKDIR b/../c"),
    ("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",),
    ("HEALTHCHECK NONE",),
    ("# nothing",),
    ("RUN x",),
    ("copy a b",),
    ("ENV A",),
    ("ENV =x",),
    ("ENV A='1",),
    ("EXPOSE 70000",),
    ("SHELL bash",),
    ("ONBUILD FROM x",),
    ("ONBUILD RUN x",),
    ("HEALTHCHECK CMD",),
    ('VOLUME [""]',),
    ("WORKDIR",),
)


def test_changes_as_docker_reads_them(docker: Docker, busybox: bytes) -> None:
    """The same configuration, or a refusal of both."""
    docker("load", data=busybox)
    with instance(Path(tempfile.mkdtemp(prefix="proa-changes-"))) as running:
        clients = (docker.run, lambda *words: running.run(*words, cli="docker"))
        for run in clients:
            run("create", "--name", "to-change", "--network", "none", "-e", "HOME=/h", "busybox", "true")
        answers: tuple[list[object], list[object]] = ([], [])
        for changes in CHANGES_TO_COMMITS:
            flags = [word for change in changes for word in ("-c", change)]
            for run, told in zip(clients, answers, strict=True):
                done = run("commit", *flags, "to-change", "changed:2")
                config = run("image", "inspect", "--format", "{{json .Config}}", "changed:2").stdout
                told.append((changes, done.returncode, _of_image(config) if not done.returncode else ""))
        for run in clients:
            run("rm", "to-change")
    assert answers[0] == answers[1]


def _of_image(text: str) -> dict[str, object]:
    """What of a configuration docker 20.10 and 28 have alike."""
    config = json.loads(text)
    shared = ("User", "ExposedPorts", "Env", "Cmd", "Healthcheck", "Volumes", "WorkingDir", "Entrypoint",
              "OnBuild", "Labels", "StopSignal", "Shell")  # fmt: skip
    return {name: config.get(name) for name in shared if config.get(name)}


LINEAGE = (
    "run --network none --name first busybox /bin/busybox touch /one",
    "commit first made:1",
    "run --network none --name second made:1 /bin/busybox touch /two",
    "commit second made:2",
    "tag made:2 other:2",
    "ps -a --filter ancestor=busybox --format {{.Names}}",
    "ps -a --filter ancestor=made:1 --format {{.Names}}",
    "ps -a --filter ancestor=made:2 --format {{.Names}}",
    "rm first second",
    "history --no-trunc --format {{.ID}}|{{.CreatedBy}} made:2",
    "image inspect --format {{.Parent}} made:2",
    "rmi -f made:1.id",
    "rmi made:1",
    "images --format {{.Repository}}:{{.Tag}}",
    "images -a --format {{.Repository}}:{{.Tag}}",
    "images -f dangling=true -q",
    "history --no-trunc --format {{.ID}} made:2",
    "image prune -f",
    "rmi made:2",
    "rmi other:2",
    "images -a --format {{.Repository}}:{{.Tag}}",
)
"""`name.id` stands for the id of what had that name first."""


def test_parents_in_dockers_words(docker: Docker, busybox: bytes) -> None:
    """The same commands to both daemons: the same answers, but for what names an image or a time."""
    docker("image", "prune", "-a", "-f")
    docker("load", data=busybox)
    theirs = Told(lambda *words: docker.run(*words))
    with instance(Path(tempfile.mkdtemp(prefix="proa-lineage-"))) as running:
        ours = Told(lambda *words: running.run(*words, cli="docker"))
        for line in LINEAGE:
            assert ours.answer(line) == theirs.answer(line), line


class Told:
    """What a daemon answers, with the images' ids as their first names."""

    def __init__(self, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self._run = run
        self._ids: dict[str, str] = {}

    def answer(self, line: str) -> tuple[int, list[str]]:
        for image in self._run(
            "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"
        ).stdout.splitlines():
            name, id_ = image.split()
            self._ids.setdefault(name, id_)
        words = [
            self._ids[word.removesuffix(".id")] if word.endswith(".id") else word for word in line.split()
        ]
        done = self._run(*words)
        text = done.stdout + done.stderr
        for name, id_ in self._ids.items():
            text = text.replace(id_, name).replace(id_[7:19], name)
        return done.returncode, sorted(re.sub(r"[0-9a-f]{64}", "<id>", text).splitlines())

"""Generated Dockerfiles, built by proa and by a peer: the images have the same files and configurations.

BuildKit is the reference. Where the classic builder does otherwise, the generator leaves it out, or
`_PECULIAR` says what is not compared.

    PROA_DIFFERENTIAL_SEEDS=100-200 pytest tests/root/test_build_differential.py
"""

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
import peers
import pytest
from docker_rig import dockerd
from generated_builds import Generated
from instance import Instance

_FIRST, _, _LAST = os.environ.get("PROA_DIFFERENTIAL_SEEDS", "1-4").partition("-")
SEEDS = range(int(_FIRST), int(_LAST or _FIRST) + 1)

_CONFIG = (
    *("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes"),
    *("StopSignal", "Healthcheck", "Shell", "OnBuild"),
)


@dataclass(frozen=True)
class Entry:
    """A name of a file system, but for its time."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    target: str = ""
    """Of a symbolic link; of a hard link, the first of its names."""
    content: str = ""
    device: tuple[int, int] = (0, 0)
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Image:
    """What an archive of docker save holds."""

    files: Mapping[str, Entry]
    config: Mapping[str, Any]
    history: list[tuple[str, bool]]
    author: str


def read_image(path: Path) -> Image:
    """The image of an archive, its layers on top of each other."""
    files: dict[str, Entry] = {}
    with tarfile.open(path) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

        manifest = json.loads(member("manifest.json"))[0]
        image = json.loads(member(manifest["Config"]))
        for layer in manifest["Layers"]:
            found = archive.extractfile(layer)
            with tarfile.open(fileobj=found) as tar:
                _lay(files, tar)
    config = {key: image["config"].get(key) or None for key in _CONFIG}
    history = [(each["created_by"], each.get("empty_layer", False)) for each in image["history"]]
    return Image(files, config, history, image.get("author", ""))


def _lay(files: dict[str, Entry], tar: tarfile.TarFile) -> None:
    """Put a layer over what is there."""
    members = tar.getmembers()
    for info in members:
        above, _, name = info.name.strip("./").rpartition("/")
        if name == ".wh..wh..opq":
            _remove_below(files, above)
        elif name.startswith(".wh."):
            path = f"{above}/{name[4:]}".strip("/")
            files.pop(path, None)
            _remove_below(files, path)
    contents: dict[str, str] = {}
    for info in members:
        name = info.name.removeprefix("./").strip("/")
        if name in ("", ".") or name.rpartition("/")[2].startswith(".wh."):
            continue
        data = tar.extractfile(info) if info.isreg() else None
        content = hashlib.sha256(data.read()).hexdigest() if data else ""
        if info.islnk():
            first = files[info.linkname.removeprefix("./").strip("/")]
            files[name] = first
            continue
        contents[name] = content
        if not info.isdir():
            _remove_below(files, name)
        files[name] = _entry(info, content)


def _entry(info: tarfile.TarInfo, content: str) -> Entry:
    marks = {
        key.removeprefix("SCHILY.xattr."): value
        for key, value in info.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    return Entry(
        kind=info.type,
        mode=info.mode & 0o7777 if not info.issym() else 0o777,
        uid=info.uid,
        gid=info.gid,
        target=info.linkname,
        content=content,
        device=(info.devmajor, info.devminor) if info.ischr() or info.isblk() else (0, 0),
        attributes=tuple(sorted(marks.items())),
    )


def _remove_below(files: dict[str, Entry], path: str) -> None:
    for name in [name for name in files if name.startswith(f"{path}/")]:
        del files[name]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of busybox that every builder starts from."""
    root = tmp_path_factory.mktemp("base")
    path = root / "busybox.tar"
    path.write_bytes(peers.busybox_archive(peers.busybox_tree(root / "tree")))
    return path


@pytest.fixture(scope="module")
def peer(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[builders.Builder]:
    """The builder to compare with, on roots of its own."""
    if why := builders.missing(request.param):
        pytest.skip(why)
    root = tmp_path_factory.mktemp("peer") / "root"
    with contextlib.ExitStack() as stack:
        if request.param == "buildkit":
            yield stack.enter_context(builders.buildkitd(root, base))
        else:
            docker = stack.enter_context(dockerd())
            engine = peers.Engine("dockerd", f"{docker.root}/docker.sock", ["docker"], 0, "")
            peers.load(engine, base.read_bytes())
            yield builders.DockerBuild("classic", engine, docker.root)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("peer", ["buildkit", "classic"], indirect=True)
def test_images_are_the_same(peer: builders.Builder, seed: int, daemon: Instance, tmp_path: Path) -> None:
    engine = daemon.engine
    assert engine is not None
    modern = peer.name == "buildkit"
    # The classic builder is compared through its own client at both daemons.
    ours = builders.ProaBuild(engine) if modern else builders.DockerBuild("proa", engine, daemon.root)
    context = tmp_path / "context"
    context.mkdir()
    text = Generated(seed, modern=modern).write(context)
    images = []
    for builder in (ours, peer):
        builder.archive(context, tmp_path / "image.tar")
        images.append(read_image(tmp_path / "image.tar"))
        (tmp_path / "image.tar").unlink()
    found = differences(*images, peculiar=_PECULIAR[peer.name])
    assert not found, "\n".join([text, *found])


def differences(ours: Image, theirs: Image, peculiar: frozenset[str]) -> list[str]:
    """Each as a line; `peculiar` is what not to look at."""
    found = []
    for name in sorted(ours.files.keys() | theirs.files.keys()):
        pair = ours.files.get(name), theirs.files.get(name)
        if pair[0] != pair[1]:
            found.append(f"{name}: {pair[0]} != {pair[1]}")
    found += [
        f"{key}: {ours.config[key]} != {theirs.config[key]}"
        for key in _CONFIG
        if key not in peculiar and ours.config[key] != theirs.config[key]
    ]
    if "history" not in peculiar and ours.history != theirs.history:
        found += [f"{a} != {b}" for a, b in zip(ours.history, theirs.history, strict=False) if a != b]
    if ours.author != theirs.author:
        found.append(f"author: {ours.author} != {theirs.author}")
    return found


_PECULIAR = {
    "buildkit": frozenset[str](),
    "classic": frozenset(("history",)),
}

"""Hostile images and attack programs for the boundary tests: made here, run in real containers."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import peers
import pytest
from image_archives import config, tar
from instance import Instance

Alter = Callable[[Path], None]


def image(daemon: Instance, name: str, alter: Alter | None = None, **settings: object) -> str:
    """Load busybox, changed by `alter`, as `name`; `settings` go into the image's configuration."""
    with tempfile.TemporaryDirectory() as directory:
        tree = peers.busybox_tree(Path(directory) / "tree")
        if alter is not None:
            alter(tree)
        layer = BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            archive.add(tree, arcname=".")
    load(daemon, name, [layer.getvalue()], {"Env": ["PATH=/bin"], "Cmd": ["sh"], **settings})
    return name


def load(daemon: Instance, name: str, layers: Sequence[bytes], settings: dict[str, object]) -> None:
    """Load plain layers, base first, as an image."""
    blob = config(layers, config=settings)
    digest = hashlib.sha256(blob).hexdigest()
    paths = [f"{number}/layer.tar" for number, _ in enumerate(layers)]
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": paths}]
    members = {f"{digest}.json": blob, "manifest.json": json.dumps(manifest).encode()}
    assert daemon.engine is not None
    peers.load(daemon.engine, tar({**dict(zip(paths, layers, strict=True)), **members}))


def sh(daemon: Instance, script: str, *flags: str, image: str = "busybox") -> tuple[int, str, str]:
    """(exit code, output, errors) of a script in a container of its own."""
    done = daemon.run("run", "--rm", *flags, image, "sh", "-c", script, cli="proa")
    return done.returncode, done.stdout, done.stderr


def compiled(source: str, directory: Path, name: str, *flags: str) -> Path:
    """A static program; skips the test where it cannot be made."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for the attack program")
    file, program = directory / f"{name}.c", directory / name
    file.write_text(source)
    done = subprocess.run(
        [compiler, "-O1", "-w", *(flags or ("-static",)), "-o", program, file],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the attack program cannot be compiled: {done.stderr[:200]}")
    return program


def host_pid(daemon: Instance, container: str) -> int:
    """The container's first process, as the host numbers it."""
    return int(daemon.api.call("GET", f"/containers/{container}/json")["State"]["Pid"])

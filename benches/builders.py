"""The builders that benches time and tests compare: proa's, Docker's classic one, BuildKit, buildah.

Each starts from the same base image, busybox, and keeps what it makes below a root of its own. BuildKit is
looked for on PATH and in /var/cache/proa-bench/bin; a builder that is not there is left out.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import peers
from peers import Engine

OWN_BINARIES = "/var/cache/proa-bench/bin"
TAG = "bench:latest"


class Builder:
    """One command line that builds a directory; the image is called `bench`."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], cold: str = "--no-cache"
    ) -> None:
        self.name = name
        self.environment = {**os.environ, **environment}
        self._command = list(command)
        self._cold = cold

    def build(self, context: Path, *, cold: bool = False) -> float:
        """Seconds of one build, without the cache where `cold`. Raises RuntimeError with what it said."""
        begun = time.monotonic()
        self.run([*self._command, *([self._cold] if cold else []), *self.words(context)])
        return time.monotonic() - begun

    def words(self, context: Path) -> list[str]:
        """How the directory is named to it."""
        return [str(context)]

    def archive(self, context: Path, target: Path) -> None:
        """Build, and write the image as docker save does. Raises RuntimeError with what it said."""
        raise NotImplementedError

    def run(self, command: Sequence[str]) -> None:
        """One command of this builder. Raises RuntimeError with what it said."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}\n{done.stdout}")


class ProaBuild(Builder):
    """`proa build`, on the daemon's own host: the context is read where it lies."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("proa build", [engine.cli[0], "build", "-q", "-t", TAG], engine.environment)

    def archive(self, context: Path, target: Path) -> None:
        self.run([*self._command, "-o", f"type=docker,dest={target}", str(context)])


class DockerBuild(Builder):
    """The docker CLI without BuildKit, at proad or dockerd."""

    def __init__(self, name: str, engine: Engine, root: Path) -> None:
        environment = peers.docker_cli_environment(engine, root) | {"DOCKER_BUILDKIT": "0"}
        super().__init__(name, ["docker", "build", "-q", "-t", TAG], environment)

    def archive(self, context: Path, target: Path) -> None:
        self.build(context)
        self.run(["docker", "save", "-o", str(target), TAG])


class BuildxBuild(Builder):
    """The docker CLI with its plugin buildx, which speaks BuildKit's protocol to the daemon."""

    def __init__(self, name: str, engine: Engine, root: Path) -> None:
        environment = peers.docker_cli_environment(engine, root / "buildx")
        plugins = Path(environment["DOCKER_CONFIG"], "cli-plugins")
        plugins.mkdir(parents=True)
        (plugins / "docker-buildx").symlink_to(str(found("docker-buildx")))
        super().__init__(name, ["docker", "build", "-q", "-t", TAG], environment)


class Buildah(Builder):
    """buildah with its cache of layers; it needs no daemon, and no limits that it would have to raise."""

    def __init__(self, root: Path, base: Path) -> None:
        storage = ["--root", f"{root}/storage", "--runroot", f"{root}/run", "--storage-driver", "overlay"]
        self._buildah = ["buildah", *storage]
        build = ["build", "--isolation", "chroot", "--layers", "--pull-never", "-q", "-t", TAG]
        super().__init__("buildah", [*self._buildah, *build], {})
        self.run([*self._buildah, "pull", "-q", f"docker-archive:{base}"])

    def archive(self, context: Path, target: Path) -> None:
        self.build(context)
        self.run([*self._buildah, "push", "-q", TAG, f"docker-archive:{target}"])


class Buildkit(Builder):
    """buildctl at a buildkitd; the base image is a layout of its client's."""

    def __init__(self, client: str, address: str, layout: Path) -> None:
        index = json.loads((layout / "index.json").read_text())
        self._context = f"context:busybox=oci-layout://base@{index['manifests'][0]['digest']}"
        command = [client, "--addr", address, "build", "--frontend", "dockerfile.v0", "--progress", "plain"]
        command += ["--oci-layout", f"base={layout}", "--opt", self._context]
        super().__init__("buildkit", command, {})

    def words(self, context: Path) -> list[str]:
        # The image becomes one of its store, as the others' does.
        return [*self._local(context), "--output", f"type=image,name={TAG}"]

    def _local(self, context: Path) -> list[str]:
        return ["--local", f"context={context}", "--local", f"dockerfile={context}"]

    def archive(self, context: Path, target: Path) -> None:
        output = f"type=docker,dest={target},name={TAG}"
        self.run([*self._command, *self._local(context), "--output", output])


def found(name: str) -> str | None:
    """Path of a program of BuildKit's."""
    return shutil.which(name, path=f"{os.environ['PATH']}:{OWN_BINARIES}")


@contextlib.contextmanager
def buildah(root: Path, base: Path) -> Iterator[Buildah]:
    """buildah on storage below `root`; `base` is the archive of busybox."""
    root.mkdir(parents=True)
    builder = Buildah(root, base)
    try:
        yield builder
    finally:
        # Its overlay's own mount keeps the directory busy.
        subprocess.run(["umount", f"{root}/storage/overlay"], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def buildkitd(root: Path, base: Path) -> Iterator[Buildkit]:
    """A buildkitd with runc, on roots below `root`; `base` is the archive of busybox."""
    root.mkdir(parents=True)
    subprocess.run(["skopeo", "copy", "-q", f"docker-archive:{base}", f"oci:{root}/layout:base"], check=True)
    address = f"unix://{root}/sock"
    command = [str(found("buildkitd")), "--root", f"{root}/data", "--addr", address]
    command += ["--oci-worker-snapshotter=overlayfs", "--oci-worker-net=host", "--containerd-worker=false"]
    client = str(found("buildctl"))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _until_it_answers([client, "--addr", address, "debug", "workers"], process)
        yield Buildkit(client, address, root / "layout")
    finally:
        peers.end(process)


def _until_it_answers(command: Sequence[str], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return
        time.sleep(0.05)
    raise RuntimeError("buildkitd does not answer")


def missing(name: str) -> str:
    """Why a builder cannot run here; empty where it can."""
    needs = {
        "buildx": ("docker", "docker-buildx"),
        "buildkit": ("buildkitd", "buildctl", "skopeo", "runc"),
        "classic": ("dockerd", "docker"),
    }
    absent = [program for program in needs.get(name, (name,)) if not found(program)]
    return f"no {' and no '.join(absent)} here" if absent else ""

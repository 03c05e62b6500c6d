"""kill -9 of proad while it pulls, loads, pushes, commits or removes: afterwards all or nothing is there.

A command is begun and the daemon killed a random moment later, by a seed. The next daemon has each image
whole or not at all, no scratch and no drafts, and the same command works. KILLS in the environment asks for
more rounds than the suite has time for.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image_archives import docker_archive, oci_archive, tar
from instance import Instance, eventually, instance, require_root
from registry_server import RegistryServer, registry_server
from skopeo_rig import skopeo

ROUNDS = int(os.environ.get("KILLS", "10"))
FILES = 300
"""In each layer, so that there are moments in which a layer is half there."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    require_root()
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def daemon() -> Iterator[Instance]:
    with instance(Path(tempfile.mkdtemp(prefix="proa-killed-"))) as running:
        yield running


def layers(seed: int) -> list[bytes]:
    """Three layers of many small files and a large one, other ones for each seed."""
    chance = random.Random(seed)
    found = []
    for number in range(3):
        members: dict[str, bytes | str | None] = {
            f"l{number}-{each}": chance.randbytes(chance.randrange(1, 3000)) for each in range(FILES)
        }
        members[f"large{number}"] = chance.randbytes(1_500_000)
        found.append(tar(members))
    return found


class Rig:
    """A daemon, what is done to it, and what must hold of it."""

    def __init__(self, daemon: Instance, registry: RegistryServer, tmp_path: Path) -> None:
        self.daemon = daemon
        self.registry = registry
        self.archive = tmp_path / "archive.tar"
        self.check_whole()  # busybox's layer has a blob after this
        self.before = self.on_disk()

    def on_disk(self) -> dict[str, list[str]]:
        """Every blob, scratch and snapshot that lies there; not what waits to be gone on with."""
        root = Path(self.daemon.config.data_root)
        found = {name: sorted(os.listdir(root / "content" / name)) for name in ("blobs/sha256", "ingest")}
        snapshots = set(os.listdir(root / "snapshots")) - {"base"}
        found["snapshots"] = sorted(name for name in snapshots if len(name) < 64)  # no container's
        return found

    def names(self) -> list[str]:
        return sorted(name for image in self.images() for name in image["RepoTags"])

    def images(self) -> "list[dict[str, list[str]]]":
        return self.daemon.api.call("GET", "/images/json")  # type: ignore[return-value]

    def succeed(self, *words: str) -> None:
        done = self.daemon.run(*words, cli="proa")
        assert done.returncode == 0, (words, done.stderr)

    def killed_within(self, seconds: float, *words: str) -> bool:
        """Kill the daemon so long after a command began, and start the next; whether the command was done."""
        engine = self.daemon.engine
        assert engine is not None
        client = subprocess.Popen(
            [engine.cli[0], *words],
            # By its address, so that the client starts no daemon itself.
            env={**os.environ, "DOCKER_HOST": f"unix://{engine.socket}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(seconds)
        self.daemon.kill_daemon()
        done = client.wait(60) == 0
        self.daemon.start()
        return done

    def check_whole(self) -> None:
        """Every image that is shown has all its bytes, and nothing is there that no image has."""
        needed, snapshots = set(), 0
        for image in self.images():
            archive = subprocess.run(
                [self.daemon.engine.cli[0], "save", image["Id"]],
                env={**os.environ, **self.daemon.engine.environment},
                capture_output=True,
                check=True,
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as saved:
                for member in saved:
                    if member.isfile() and member.name.startswith("blobs/sha256/"):
                        data = saved.extractfile(member).read()  # type: ignore[union-attr]
                        assert hashlib.sha256(data).hexdigest() == member.name[13:]
                listed = json.load(saved.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            needed |= {path[13:] for path in listed["Layers"]}
            snapshots += len(listed["Layers"])
        assert eventually(lambda: self.on_disk()["ingest"] == [])
        assert eventually(lambda: set(self.on_disk()["blobs/sha256"]) <= needed), self.on_disk()
        assert eventually(lambda: len(self.on_disk()["snapshots"]) <= snapshots), self.on_disk()

    def check_gone(self) -> None:
        """All is as it was before the first command."""
        assert eventually(lambda: self.on_disk() == self.before), (self.on_disk(), self.before)


Begin = Callable[[Rig, int], tuple[str, ...]]
"""Prepares one round; returns the command to kill the daemon in."""


def _pull(rig: Rig, seed: int) -> tuple[str, ...]:
    rig.archive.write_bytes(oci_archive(layers(seed), "x:latest"))
    target = f"docker://{rig.registry.host}/killed:{seed}"
    skopeo("copy", "-q", "--dest-tls-verify=false", f"oci-archive:{rig.archive}", target)
    return "pull", f"{rig.registry.host}/killed:{seed}"


def _load(rig: Rig, seed: int) -> tuple[str, ...]:
    rig.archive.write_bytes(docker_archive(layers(seed), [f"{rig.registry.host}/killed:{seed}"]))
    return "load", "-q", "-i", str(rig.archive)


def _push(rig: Rig, seed: int) -> tuple[str, ...]:
    rig.succeed(*_load(rig, seed))
    return "push", "-q", f"{rig.registry.host}/killed:{seed}"


def _commit(rig: Rig, seed: int) -> tuple[str, ...]:
    script = "for i in $(seq 300); do echo $i > /f$i; done; head -c 3000000 /dev/urandom > /large"
    rig.succeed("run", "--network", "none", "--name", f"c{seed}", "busybox", "sh", "-c", script)
    return "commit", f"c{seed}", f"{rig.registry.host}/killed:{seed}"


def _remove(rig: Rig, seed: int) -> tuple[str, ...]:
    rig.succeed(*_load(rig, seed))
    return "rmi", f"{rig.registry.host}/killed:{seed}"


@pytest.mark.parametrize("begin", [_pull, _load, _push, _commit, _remove])
def test_killed_at_any_moment(
    daemon: Instance, registry: RegistryServer, tmp_path: Path, begin: Begin
) -> None:
    rig = Rig(daemon, registry, tmp_path)
    chance = random.Random(7)
    for seed in range(max(1, ROUNDS // 5)):
        name = f"{registry.host}/killed:{seed}"
        command = begin(rig, seed)
        removes = command[0] == "rmi"
        there = name in rig.names()
        done = rig.killed_within(chance.uniform(0.01, 0.4), *command)
        rig.check_whole()
        if done:
            assert (name in rig.names()) is not removes
        elif not removes and there:
            assert name in rig.names()
        if not (removes and name not in rig.names()):
            rig.succeed(*command)
        rig.check_whole()
        if not removes:
            rig.succeed("rmi", "-f", name)
        if command[0] == "commit":
            rig.succeed("image", "prune", "-f")  # done, but the client was not told: it has lost its name
            rig.succeed("rm", "-f", f"c{seed}")
        rig.check_gone()

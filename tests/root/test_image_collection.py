"""Image garbage collection in a whole daemon: by flags, with containers, events and a restart in between."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
from image_archives import docker_archive, tar
from instance import Instance, eventually, instance

MIB = 1 << 20
MARKS = ("--image-gc-high=9m", "--image-gc-low=8m", "--image-gc-min-age=0s", "--image-gc-keep=busybox")


@pytest.fixture
def daemon() -> Iterator[Instance]:
    """busybox (2 MiB) is there, and stays."""
    with instance(Path(tempfile.mkdtemp(prefix="proa-eviction-")), *MARKS) as running:
        yield running


def load(daemon: Instance, name: str) -> None:
    """An image of 3 MiB that has a program."""
    program = Path(peers.BUSYBOX).read_bytes()
    layer = tar({"bin": None, "bin/busybox": program, name: os.urandom(3 * MIB - len(program))}, modes=0o755)
    peers.load(daemon.engine, docker_archive([layer], [name]))


def names(daemon: Instance) -> list[str]:
    found = daemon.api.call("GET", "/images/json")
    return sorted(name.removesuffix(":latest") for image in found for name in image["RepoTags"])


def test_the_image_used_longest_ago_makes_room(daemon: Instance) -> None:
    load(daemon, "one")
    load(daemon, "two")
    assert names(daemon) == ["busybox", "one", "two"]
    assert daemon.run("run", "--rm", "one", "/bin/busybox", "true").returncode == 0
    two = daemon.api.call("GET", "/images/two/json")["Id"]
    load(daemon, "three")
    assert eventually(lambda: names(daemon) == ["busybox", "one", "three"])
    until = str(int(time.time()) + 1)  # in whole seconds, as the CLI has it
    events = daemon.run("events", "--since", "10m", "--until", until, "--format", "{{json .}}")
    told = [json.loads(line) for line in events.stdout.splitlines()]
    assert [event["Actor"]["ID"] for event in told if event["Action"] == "delete"] == [two]
    snapshots = Path(daemon.config.data_root, "snapshots")
    assert eventually(lambda: len(list(snapshots.glob("l*"))) == 3), "the disk is given back"
    assert "image gc: removing two:latest" in (daemon.root / "log").read_text()


def test_a_container_keeps_its_image_and_its_removal_lets_it_go(daemon: Instance) -> None:
    load(daemon, "one")
    assert daemon.run("create", "--name", "first", "one", "/bin/busybox", "true").returncode == 0
    load(daemon, "two")
    load(daemon, "three")
    assert eventually(lambda: names(daemon) == ["busybox", "one", "three"])
    assert daemon.run("create", "--name", "second", "three", "/bin/busybox", "true").returncode == 0
    load(daemon, "four")
    assert eventually(lambda: names(daemon) == ["busybox", "one", "three"])
    assert daemon.run("start", "-a", "first").returncode == 0
    assert daemon.run("rm", "first").returncode == 0
    load(daemon, "four")
    assert eventually(lambda: names(daemon) == ["busybox", "four", "three"])


def test_a_build_stands_on_its_base_and_its_image_counts(daemon: Instance) -> None:
    load(daemon, "one")
    load(daemon, "two")
    context = daemon.root / "context"
    context.mkdir()
    (context / "file").write_bytes(os.urandom(3 * MIB))
    (context / "Dockerfile").write_text("FROM one\nCOPY file /\n")
    built = daemon.run("build", "-t", "built", str(context), cli="proa")
    assert built.returncode == 0, built.stderr
    assert daemon.run("run", "--rm", "built", "/bin/busybox", "test", "-s", "/file").returncode == 0
    assert eventually(lambda: "built" in names(daemon))
    assert "two" in names(daemon), "the cache keeps what was built and its base: they do not count"


def test_the_build_cache_outlives_the_daemon(daemon: Instance) -> None:
    context = daemon.root / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS first\nRUN echo one > /one\nFROM busybox\nCOPY --from=first /one /two\n"
    )
    assert daemon.run("build", "-t", "built", str(context), cli="proa").returncode == 0
    daemon.kill_daemon()
    daemon.start()
    (context / "Dockerfile").write_text("FROM busybox AS first\nRUN echo one > /one\nRUN cat /one\n")
    further = daemon.run("build", str(context), cli="proa")
    assert (further.returncode, further.stderr.count(" CACHED\n")) == (0, 1), further.stderr

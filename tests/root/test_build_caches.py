"""Caches of builds that are kept elsewhere: in a directory, in a registry, in an image.

Each is taken by a daemon that has never done the steps.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from instance import Instance, instance, require_root
from registry_server import RegistryServer, registry_server
from test_build import Outcome, build, context_of, posted, run, tar_of

DOCKERFILE = (
    "FROM busybox AS made\nRUN cat /proc/sys/kernel/random/uuid > /made && mkdir -m 1777 /d\n"
    "FROM busybox\nWORKDIR /w\nCOPY file .\nRUN cat /proc/sys/kernel/random/uuid > /unique\n"
    "COPY --link --from=made /made /linked/\nLABEL a=b\n"
)
STEPS = 4


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    require_root()
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("first")) as daemon:
        yield daemon


@pytest.fixture
def second(first: Instance, tmp_path: Path) -> Iterator[Instance]:
    """Knows the same base and nothing else."""
    archive = str(tmp_path / "base.tar")
    assert first.run("save", "-o", archive, "busybox").returncode == 0
    with instance(tmp_path / "second") as daemon:
        assert daemon.run("load", "-i", archive).returncode == 0
        yield daemon


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return context_of(tmp_path / "context", DOCKERFILE, file=str(tmp_path))


def made(daemon: Instance, image: str = "built") -> str:
    return run(daemon, "cat /unique /linked/made", image)


def done(outcome: Outcome) -> list[str]:
    """Steps that were not cached."""
    vertices = [line["vertex"] for line in outcome.lines if "vertex" in line]
    titles = {vertex["number"]: vertex["title"] for vertex in vertices if "title" in vertex}
    return [
        titles[vertex["number"]]
        for vertex in vertices
        if vertex.get("done") and str(vertex["number"]).isdigit() and " FROM " not in titles[vertex["number"]]
    ]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_directory(first: Instance, second: Instance, context: Path, tmp_path: Path, mode: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    target = {"type": "local", "dest": str(cache), "mode": mode}
    assert build(first, context, CacheTo=[target]).error == ""
    source = {"type": "local", "src": str(cache)}
    again = build(second, context, CacheFrom=[source])
    assert (again.error, done(again), len(again.cached)) == ("", [], STEPS)
    assert made(second) == made(first)
    # What only a stage that was not needed again did is there in mode=max.
    (context / "Dockerfile").write_text(DOCKERFILE.partition("FROM busybox\n")[0])
    other = build(second, context, CacheFrom=[source])
    assert len(done(other)) == (mode == "min")


def test_a_layer_above_a_linked_one_of_another_stage(
    first: Instance, second: Instance, context: Path, tmp_path: Path
) -> None:
    """The linked layer was made alone, and no image has it on what it was put on."""
    text = "FROM busybox AS one\nRUN cat /proc/sys/kernel/random/uuid > /below\nCOPY --link file /linked/\n"
    text += "RUN cat /proc/sys/kernel/random/uuid > /above\n"
    whole = f"{text}FROM busybox\nCOPY --from=one /above /above\n"
    (context / "Dockerfile").write_text(whole)
    cache = tmp_path / "cache"
    cache.mkdir()
    target = {"type": "local", "dest": str(cache), "mode": "max"}
    assert build(first, context, CacheTo=[target]).error == ""
    (context / "Dockerfile").write_text(f"{text}RUN cat /below /linked/file /above\n")
    again = build(second, context, CacheFrom=[{"type": "local", "src": str(cache)}])
    assert (again.error, len(done(again))) == ("", 1)
    assert run(first, "cat /above") in again.output


def test_a_damaged_directory_costs_the_steps_and_nothing_else(
    first: Instance, second: Instance, context: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    build(first, context, "t=built&nocache=1", CacheTo=[{"type": "local", "dest": str(cache)}])
    for blob in (cache / "blobs/sha256").iterdir():
        data = blob.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again = build(second, context, CacheFrom=[{"type": "local", "src": str(cache)}])
    assert (again.error, len(done(again))) == ("", STEPS + 1)
    assert any("warning" in line for line in again.lines)
    missing = build(second, context, CacheFrom=[{"type": "local", "src": str(tmp_path / "no")}])
    assert missing.error == ""


@pytest.mark.parametrize("as_manifest", ["true", "false"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_registry(
    first: Instance,
    second: Instance,
    context: Path,
    registry: RegistryServer,
    as_manifest: str,
    compression: str,
) -> None:
    ref = f"{registry.host}/cache-{compression}:{as_manifest}"
    target = {"type": "registry", "ref": ref, "image-manifest": as_manifest, "compression": compression}
    assert build(first, context, CacheTo=[{**target, "mode": "max"}]).error == ""
    again = build(second, context, CacheFrom=[{"type": "registry", "ref": ref}])
    assert (again.error, done(again)) == ("", [])
    assert made(second) == made(first)


def test_an_image_that_has_its_cache_in_it(
    first: Instance, second: Instance, context: Path, registry: RegistryServer
) -> None:
    name = f"{registry.host}/app:latest"
    assert build(first, context, f"t={name}", CacheTo=[{"type": "inline"}]).error == ""
    assert first.run("push", name).returncode == 0
    (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo more > /more\n")
    again = build(second, context, CacheFrom=[{"type": "registry", "ref": name}])
    assert (again.error, len(done(again)), len(again.cached)) == ("", 1, STEPS)
    assert made(second) == made(first, name)
    # The layers that came are the ones that were pushed.
    assert second.run("tag", "built", f"{registry.host}/app:more").returncode == 0
    pushed = second.run("push", f"{registry.host}/app:more").stdout
    assert pushed.count("Layer already exists") == STEPS + 1


def test_the_classic_query_takes_an_image_of_the_store(
    first: Instance, second: Instance, context: Path, registry: RegistryServer
) -> None:
    name = f"{registry.host}/classic:1"
    body = tar_of({"Dockerfile": DOCKERFILE, "file": "content"})
    query = f"t={name}&cachefrom={quote(json.dumps([name]))}"
    built = posted(first, body, query)
    assert not any("error" in line for line in built)
    assert first.run("push", name).returncode == 0
    assert second.run("pull", name).returncode == 0
    again = "".join(line.get("stream", "") for line in posted(second, body, query))
    assert again.count("Using cache") == STEPS + 1  # LABEL has nothing to do either
    assert made(second, name) == made(first, name)


def test_the_history_of_an_image_that_another_builder_made(first: Instance, tmp_path: Path) -> None:
    """Its commands are found by their lines, as the classic builder finds them."""
    text = "FROM busybox\nENV a=b\nRUN cat /proc/sys/kernel/random/uuid > /unique\nCOPY x /x\nRUN echo end\n"
    assert posted(first, tar_of({"Dockerfile": text, "x": ""}), "t=ours")
    archive = tmp_path / "ours.tar"
    first.run("save", "-o", str(archive), "ours")
    with instance(tmp_path / "other") as other:
        assert other.run("load", "-i", str(archive)).returncode == 0
        assert first.run("save", "-o", str(archive), "busybox").returncode == 0
        assert other.run("load", "-i", str(archive)).returncode == 0
        lines: list[dict[str, Any]] = posted(
            other, tar_of({"Dockerfile": text, "x": ""}), f"t=again&cachefrom={quote(json.dumps(['ours']))}"
        )
        told = "".join(line.get("stream", "") for line in lines)
        assert told.count("Using cache") == 1
        assert run(other, "cat /unique", "again") == run(first, "cat /unique", "ours")

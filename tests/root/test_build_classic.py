"""Builds by Docker's classic API, through the docker CLI: what it prints, and the images in between."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, instance

STAGES = """ARG TAG=latest
FROM busybox:${TAG} AS base
ENV A=b
ONBUILD RUN echo triggered
RUN echo made > /file
LABEL first=$A
FROM base
COPY Dockerfile /copied/
EXPOSE 80
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("classic")) as daemon:
        yield daemon


def images(daemon: Instance) -> set[str]:
    return set(daemon.run("images", "-aq").stdout.split())


def built(daemon: Instance, context: Path, dockerfile: str) -> list[str]:
    """The lines of a build called `classic`, ids of containers left out."""
    (context / "Dockerfile").write_text(dockerfile)
    done = daemon.run("build", "-t", "classic", str(context))
    assert done.returncode == 0, done.stderr
    lines = done.stdout[done.stdout.index("Step 1/") :].splitlines()
    return [re.sub(r"(Running in|container) [0-9a-f]{12}$", r"\1 ID", line) for line in lines]


def test_every_instruction_has_its_image(daemon: Instance, tmp_path: Path) -> None:
    before = images(daemon)
    lines = built(daemon, tmp_path, STAGES)
    ids = [line[6:] for line in lines if re.fullmatch(r" ---> [0-9a-f]{12}", line)]
    ran = [" ---> Running in ID", " ---> Removed intermediate container ID"]
    assert lines == [
        "Step 1/9 : ARG TAG=latest",
        *("Step 2/9 : FROM busybox:${TAG} AS base", f" ---> {ids[0]}"),
        *("Step 3/9 : ENV A=b", f" ---> {ids[1]}"),
        *("Step 4/9 : ONBUILD RUN echo triggered", f" ---> {ids[2]}"),
        *("Step 5/9 : RUN echo made > /file", *ran, f" ---> {ids[3]}"),
        *("Step 6/9 : LABEL first=$A", f" ---> {ids[4]}"),
        *("Step 7/9 : FROM base", f" ---> {ids[4]}"),
        *("# Executing 1 build trigger", ran[0], "triggered", ran[1], f" ---> {ids[6]}"),
        *("Step 8/9 : COPY Dockerfile /copied/", f" ---> {ids[7]}"),
        *("Step 9/9 : EXPOSE 80", f" ---> {ids[8]}"),
        f"Successfully built {ids[8]}",
        "Successfully tagged classic:latest",
    ]
    assert daemon.run("run", "--rm", ids[3], "cat", "/file").stdout == "made\n"
    assert daemon.run("image", "inspect", "-f", "{{.Config.Env}}", ids[1]).stdout == "[PATH=/bin A=b]\n"
    history = daemon.run("history", "-q", "classic").stdout.split()
    assert history[0] == ids[-1]
    assert history.count("<missing>") == 1  # what busybox itself has
    assert daemon.run("images", "-q").stdout.split().count(ids[3]) == 0
    cached = built(daemon, tmp_path, STAGES)
    assert [line[6:] for line in cached if re.fullmatch(r" ---> [0-9a-f]{12}", line)] == ids
    assert cached.count(" ---> Using cache") == 5
    assert daemon.run("rmi", "classic").returncode == 0
    assert images(daemon) == before


def test_a_failed_build_leaves_no_image(daemon: Instance, tmp_path: Path) -> None:
    before = images(daemon)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nENV A=b\nRUN echo one\nRUN exit 7\n")
    done = daemon.run("build", str(tmp_path))
    assert done.returncode != 0
    assert "The command '/bin/sh -c exit 7' returned a non-zero code: 7" in done.stderr
    assert images(daemon) == before


def test_quietly_there_is_only_the_id(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\nENV A=b\n")
    loud = daemon.run("build", str(tmp_path)).stdout.splitlines()
    assert loud[loud.index("Step 1/3 : FROM scratch") + 1] == " ---> "
    quiet = daemon.run("build", "-q", str(tmp_path)).stdout
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", quiet)
    assert loud[-1] == f"Successfully built {quiet[7:19]}"

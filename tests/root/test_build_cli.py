"""Builds by `proa build` and by the docker CLI without BuildKit, on a real daemon with busybox as base."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance

IMAGE = re.compile(r"sha256:[0-9a-f]{64}\n")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory to build from."""
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "file").write_text("content\n")
    (directory / "Dockerfile").write_text(
        "FROM busybox AS first\nARG NAME=nobody\nRUN echo hello $NAME > /greeting\n"
        "FROM busybox\nCOPY --from=first /greeting /greeting\nCOPY file /file\nLABEL a=b\n"
        'CMD ["cat", "/greeting", "/file"]\n'
    )
    return directory


def build(
    daemon: Instance, *words: str | Path, cli: str = "proa", **options: object
) -> "subprocess.CompletedProcess[str]":
    return daemon.run("build", *map(str, words), cli=cli, **options)


def test_an_image_is_built_and_runs(daemon: Instance, context: Path) -> None:
    done = build(daemon, "-t", "built:1", "--build-arg", "NAME=you", context)
    assert done.returncode == 0, done.stderr
    assert "RUN echo hello you > /greeting\n" in done.stderr
    assert re.search(r"^#\d+ DONE \d+\.\ds$", done.stderr, re.MULTILINE)
    assert daemon.run("run", "--rm", "built:1", cli="proa").stdout == "hello you\ncontent\n"
    again = build(daemon, "-t", "built:1", "--build-arg", "NAME=you", context)
    assert again.stderr.count(" CACHED\n") == 2
    assert "RUN" not in again.stderr


def test_steps_have_buildkits_names(daemon: Instance, context: Path) -> None:
    done = build(daemon, "-t", "named:1", "--progress", "plain", context)
    shown = re.findall(r"^#\d+ (\[.*|exporting to image|(?:writing|naming).*)$", done.stderr, re.MULTILINE)
    image = json.loads(daemon.run("image", "inspect", "named:1", cli="proa").stdout)[0]["Id"]
    # A step that another came in between is named again.
    assert [text for text in dict.fromkeys(shown) if not text.startswith(("[first", "[stage-1"))] == [
        "[internal] load build definition from Dockerfile",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "exporting to image",
        f"writing image {image} done",
        "naming to docker.io/library/named:1 done",
    ]
    assert "[stage-1 1/3] FROM docker.io/library/busybox:latest" in shown


def test_quiet_and_results(daemon: Instance, context: Path, tmp_path: Path) -> None:
    done = build(daemon, "-q", "--iidfile", tmp_path / "id", "--metadata-file", tmp_path / "meta", context)
    assert done.returncode == 0, done.stderr
    assert IMAGE.fullmatch(done.stdout)
    assert (tmp_path / "id").read_text() == done.stdout.strip()
    assert json.loads((tmp_path / "meta").read_text())["containerimage.digest"] == done.stdout.strip()


def test_a_step_that_fails(daemon: Instance, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo oh no; exit 3\n")
    done = build(daemon, context)
    assert done.returncode == 1
    assert " oh no\n------\nDockerfile:2\n--------------------\n   1 |     FROM busybox\n" in done.stderr
    assert done.stderr.endswith(
        'ERROR: failed to solve: process "/bin/sh -c echo oh no; exit 3" did not complete successfully: '
        "exit code: 3\n"
    )


def test_a_dockerfile_that_cannot_be_read(daemon: Instance, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUNN x\n")
    done = build(daemon, "-q", context)
    assert done.returncode == 1
    assert "   2 | >>> RUNN x\n" in done.stderr
    assert "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)" in done.stderr
    done = build(daemon, "-f", context / "nope", context)
    assert "no such file or directory" in done.stderr
    assert done.returncode == 1


def test_a_dockerfile_and_a_tar_on_stdin(daemon: Instance) -> None:
    done = build(daemon, "-q", "-", input="FROM busybox\nRUN true\n")
    assert IMAGE.fullmatch(done.stdout), done.stderr
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        text = b"FROM busybox\nRUN --mount=type=secret,id=s test $(cat /run/secrets/s) = value\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    body = archive.getvalue().decode()
    done = build(daemon, "--secret", "id=s,env=S", "-", input=body, timeout=60)
    assert done.returncode == 1  # there is no such variable, the secret is empty
    os.environ["S"] = "value"
    try:
        done = build(daemon, "--secret", "id=s,env=S", "-", input=body)
    finally:
        del os.environ["S"]
    assert done.returncode == 0, done.stderr
    assert "RUN --mount=type=secret" in done.stderr


def test_outputs(daemon: Instance, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /sub/file\n")
    out, archive, image = tmp_path / "out", tmp_path / "x.tar", tmp_path / "image.tar"
    words = ("-o", out, "-o", f"type=tar,dest={archive}", "-o", f"type=docker,dest={image}")
    done = build(daemon, "-t", "outputs:1", *words, context)
    assert done.returncode == 0, done.stderr
    assert (out / "sub/file").read_text() == "content\n"
    with tarfile.open(archive) as tar:
        assert "sub/file" in [member.name.strip("/") for member in tar]
    with tarfile.open(image) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert json.loads(manifest.read())[0]["RepoTags"] == ["outputs:1"]
    assert daemon.run("ps", "-aq", cli="proa").stdout == ""


def test_checks(daemon: Instance, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox as a\n")
    warning = "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"
    done = build(daemon, context)
    assert (done.returncode, warning in done.stderr) == (0, True)
    done = build(daemon, "--check", context)
    assert done.returncode == 1
    assert "Check complete, 1 warning has been found!" in done.stdout
    assert "   1 | >>> FROM busybox as a" in done.stdout
    (context / "Dockerfile").write_text("# check=error=true\nFROM busybox as a\n")
    done = build(daemon, context)
    assert done.returncode == 1
    assert done.stderr.endswith("ERROR: failed to solve: lint violation found for rules: FromAsCasing\n")
    done = build(daemon, "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", context)
    assert (done.returncode, "warning" in done.stderr) == (0, False)


def test_the_cache_is_pruned(daemon: Instance, context: Path) -> None:
    assert build(daemon, "-q", context).returncode == 0
    df = daemon.run("system", "df", "--format", "{{.Type}} {{.TotalCount}}", cli="proa").stdout
    assert not re.search(r"Build Cache 0\n", df)
    done = daemon.run("builder", "prune", "-a", "-f", cli="proa")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Total reclaimed space: \S+B\n$", done.stdout)
    df = daemon.run("system", "df", "--format", "{{.Type}} {{.TotalCount}}", cli="proa").stdout
    assert "Build Cache 0\n" in df


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")
def test_the_docker_cli_without_buildkit(
    daemon: Instance, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    done = build(daemon, "-t", "classic:1", context, cli="docker")
    assert done.returncode == 0, done.stderr
    assert "Successfully tagged classic:1\n" in done.stdout
    assert daemon.run("run", "--rm", "classic:1").stdout == "hello nobody\ncontent\n"
    (context / "Dockerfile").write_text("FROM busybox\nRUN exit 3\n")
    done = build(daemon, context, cli="docker")
    assert done.returncode == 3
    assert "The command '/bin/sh -c exit 3' returned a non-zero code: 3" in done.stderr


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def elsewhere(daemon: Instance) -> Iterator[str]:
    """The daemon's address as one of another host: a port that leads to its socket."""
    assert daemon.engine is not None
    sockets: list[socket.socket] = [socket.create_server(("127.0.0.1", 0))]
    threads: list[threading.Thread] = []

    def spawn(*pair: socket.socket) -> None:
        threads.append(threading.Thread(target=_pump, args=pair))
        threads[-1].start()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = sockets[0].accept()
                server = socket.socket(socket.AF_UNIX)
                sockets.extend((client, server))
                server.connect(f"{daemon.config.exec_root}/proad.sock")
                spawn(client, server)
                spawn(server, client)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield f"tcp://127.0.0.1:{sockets[0].getsockname()[1]}"
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    acceptor.join()
    for thread in threads:
        thread.join()
    for each in sockets:
        each.close()


def test_a_daemon_elsewhere(daemon: Instance, context: Path, elsewhere: str, tmp_path: Path) -> None:
    (context / ".dockerignore").write_text("*.log\nDockerfile\n.dockerignore\n")
    (context / "x.log").touch()
    (tmp_path / "other").write_text("FROM busybox\nCOPY . /c/\nRUN test $(ls -A /c) = file\n")
    (tmp_path / "secret").write_text("value")
    words = ("-f", tmp_path / "other", "--secret", f"id=s,src={tmp_path}/secret", context)
    done = daemon.run("-H", elsewhere, "build", *map(str, words), cli="proa")
    assert done.returncode == 0, done.stderr
    assert "[3/3] RUN test" in done.stderr
    again = daemon.run("-H", elsewhere, "build", *map(str, words), cli="proa")
    assert again.stderr.count(" CACHED\n") == 2

"""`proa build` and `proa builder prune` against a server that plays a daemon's answers."""

import base64
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from fake_daemon import CONTAINER_ID, Answer, FakeDaemon, Request

PYTHON = Path(__file__).parents[2] / "python"
IMAGE = "sha256:" + "1" * 64
PROA_BUILD = "application/vnd.proa.build.v1+json"


EVERY_FLAG = """
-f other --target final --build-arg A=1 --build-arg FROM_HERE --build-arg MISSING --label a=b
--no-cache --no-cache-filter one,two --pull --platform linux/amd64 --network host
--add-host h:10.0.0.1 --secret id=f,src=secret --secret id=e,env=TOKEN --secret id=TOKEN
--build-context base=docker-image://busybox --build-context here=. --allow security.insecure
--shm-size 64m --ulimit nofile=10:20 -m 1g --memory-swap -1 -c 5 --cpu-period 6 --cpu-quota 7
--cpuset-cpus 0 --cpuset-mems 0 --cgroup-parent /p
--cache-from x --cache-from type=local,src=c --cache-to type=inline --provenance=false --sbom=false
--rm --force-rm --compress --explain-cache --load
"""


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\r\n" for event in events)


BUILT = lines(
    {"plan": {"vertices": 1}},
    {"vertex": {"number": 0, "title": "[1/1] FROM busybox", "cached": True}},
    {"aux": {"ID": IMAGE, "Names": []}},
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """The server, closed at the end; every build works out."""
    server = FakeDaemon(tmp_path / "d.sock")
    server.on("POST", "/build", Answer(200, BUILT))
    yield server
    server.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory to build from."""
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM busybox\n")
    return directory


def proa(
    daemon: FakeDaemon, *words: str, stdin: bytes = b"", cwd: Path | None = None, **variables: str
) -> "subprocess.CompletedProcess[bytes]":
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(daemon.socket_path.parent),
        "PYTHONPATH": str(PYTHON),
        "DOCKER_HOST": daemon.host,
        **variables,
    }
    command = [sys.executable, "-m", "proa.cli", *words]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=30, cwd=cwd)


def asked(daemon: FakeDaemon) -> tuple[Request, dict[str, list[str]]]:
    request = daemon.find("POST", "/build")
    return request, parse_qs(request.query)


def test_a_local_directory_is_named_and_not_sent(daemon: FakeDaemon, context: Path) -> None:
    done = proa(daemon, "build", "-t", "x", "-t", "y:1", ".", cwd=context, SOURCE_DATE_EPOCH="0")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == (
        b'#0 building with "default" instance using docker driver\n\n#1 [1/1] FROM busybox\n#1 CACHED\n'
    )
    request, query = asked(daemon)
    assert request.headers["content-type"] == PROA_BUILD
    assert request.json == {"Context": str(context), "SourceDateEpoch": 0}
    assert query == {"t": ["x", "y:1"]}


def test_every_flag_reaches_the_daemon(daemon: FakeDaemon, context: Path) -> None:
    (context / "secret").write_bytes(b"\xffs")
    words = shlex.split(EVERY_FLAG)
    done = proa(daemon, "build", *words, ".", cwd=context, FROM_HERE="yes", TOKEN="t0k")
    assert done.returncode == 0, done.stderr
    request, query = asked(daemon)
    assert request.json == {
        "Context": str(context),
        "DockerfilePath": str(context / "other"),
        "Contexts": {"base": "docker-image://busybox", "here": str(context)},
        "Secrets": {
            "f": base64.b64encode(b"\xffs").decode(),
            "e": base64.b64encode(b"t0k").decode(),
            "TOKEN": base64.b64encode(b"t0k").decode(),
        },
        "Entitlements": ["security.insecure"],
        "NoCacheFilter": ["one", "two"],
        "CacheFrom": [{"type": "registry", "ref": "x"}, {"type": "local", "src": str(context / "c")}],
        "CacheTo": [{"type": "inline"}],
        "ExplainCache": True,
    }
    assert {name: values[0] for name, values in query.items()} == {
        "nocache": "1",
        "pull": "1",
        "target": "final",
        "platform": "linux/amd64",
        "buildargs": '{"A":"1","FROM_HERE":"yes"}',
        "labels": '{"a":"b"}',
        "networkmode": "host",
        "cgroupparent": "/p",
        "shmsize": str(64 << 20),
        "ulimits": '[{"Name":"nofile","Hard":20,"Soft":10}]',
        "memory": str(1 << 30),
        "memswap": "-1",
        "cpushares": "5",
        "cpuperiod": "6",
        "cpuquota": "7",
        "cpusetcpus": "0",
        "cpusetmems": "0",
        "extrahosts": "h:10.0.0.1",
    }


def test_quiet_prints_the_id_alone_and_results_are_written(daemon: FakeDaemon, context: Path) -> None:
    words = ("-q", "-t", "x", "--iidfile", "id", "--metadata-file", "meta", ".")
    done = proa(daemon, "build", *words, cwd=context)
    assert (done.returncode, done.stdout, done.stderr) == (0, IMAGE.encode() + b"\n", b"")
    assert (context / "id").read_text() == IMAGE
    found = json.loads((context / "meta").read_text())
    assert found["containerimage.digest"] == IMAGE
    assert found["image.name"] == "docker.io/library/x:latest"


def test_what_an_image_is_to_be_like_reaches_the_daemon(daemon: FakeDaemon, context: Path) -> None:
    words = (
        "--platform", "linux/amd64,linux/arm64", "--platform", "linux/arm/v7",
        "-o", "type=image,compression=zstd,annotation-index.K=v", "-o", "type=image,rewrite-timestamp=true",
        "--annotation", "x:y=z", "--annotation", "index,manifest[linux/arm64]:a=b=c",
    )  # fmt: skip
    assert proa(daemon, "build", *words, ".", cwd=context).returncode == 0
    request, query = asked(daemon)
    assert query["platform"] == ["linux/amd64,linux/arm64,linux/arm/v7"]
    assert request.json["Output"] == {
        "compression": "zstd",
        "annotation-index.K": "v",
        "rewrite-timestamp": "true",
        "annotation-manifest.x:y": "z",
        "annotation-index.a": "b=c",
        "annotation-manifest[linux/arm64].a": "b=c",
    }
    differing = ("-o", "type=image,compression=zstd", "-o", "type=image,compression=gzip")
    assert b"cannot differ in compression" in proa(daemon, "build", *differing, ".", cwd=context).stderr


def test_a_dockerfile_on_stdin(daemon: FakeDaemon, context: Path) -> None:
    assert proa(daemon, "build", "-", stdin=b"FROM scratch\n").returncode == 0
    assert asked(daemon)[0].json == {"DockerfileText": "FROM scratch\n"}
    assert proa(daemon, "build", "-f", "-", str(context), stdin=b"FROM a\n").returncode == 0
    assert asked(daemon)[0].json == {"Context": str(context), "DockerfileText": "FROM a\n"}
    both = proa(daemon, "build", "-f", "-", "-")
    assert both.returncode == 1
    assert b"can't use stdin for both build context and dockerfile" in both.stderr


def test_a_tar_on_stdin_goes_as_it_is(daemon: FakeDaemon) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("Dockerfile"))
    daemon.on("POST", "/build", Answer(200, lines({"stream": "Step 1/1 : FROM x\n"}, {"aux": {"ID": IMAGE}})))
    done = proa(daemon, "build", "-f", "sub/Dockerfile", "-", stdin=archive.getvalue())
    assert (done.returncode, done.stderr) == (0, b"Step 1/1 : FROM x\n")
    request, query = asked(daemon)
    assert request.headers["content-type"] == "application/x-tar"
    assert request.body == archive.getvalue()
    assert query == {"dockerfile": ["sub/Dockerfile"]}


def test_a_daemon_elsewhere_is_sent_the_directory(tmp_path: Path, context: Path) -> None:
    daemon = FakeDaemon(tmp_path / "unused", tcp=True)
    try:
        daemon.on("POST", "/build", Answer(200, BUILT))
        (context / ".dockerignore").write_text("*.log")
        (context / "x.log").touch()
        done = proa(daemon, "build", "--secret", "id=T", "--no-cache-filter", "a", str(context), T="t")
        assert done.returncode == 0, done.stderr
        request, query = asked(daemon)
        with tarfile.open(fileobj=io.BytesIO(request.body)) as archive:
            assert archive.getnames() == [".dockerignore", "Dockerfile"]
        assert query == {"dockerfile": ["Dockerfile"]}
        assert json.loads(base64.urlsafe_b64decode(request.headers["x-proa-build"])) == {
            "Secrets": {"T": base64.b64encode(b"t").decode()},
            "NoCacheFilter": ["a"],
        }
        refused = proa(daemon, "build", "--build-context", f"a={context}", str(context))
        assert refused.stderr == b"ERROR: --build-context a: a directory needs a daemon on this host\n"
    finally:
        daemon.close()


def test_a_url_is_the_daemons_to_fetch(daemon: FakeDaemon) -> None:
    assert proa(daemon, "build", "https://example.com/x.git#main:sub").returncode == 0
    request, query = asked(daemon)
    assert query == {"remote": ["https://example.com/x.git#main:sub"]}
    assert request.json == {}


def test_a_failure_ends_as_docker_ends(daemon: FakeDaemon, context: Path) -> None:
    stream = lines(
        {"vertex": {"number": 0, "title": "[2/2] RUN false"}},
        {"vertex": {"number": 0, "seconds": 0.1, "error": "exit code: 1"}},
        {"failure": {"excerpt": "Dockerfile:2\n"}},
        {"errorDetail": {"message": "process did not complete"}, "error": "process did not complete"},
    )
    daemon.on("POST", "/build", Answer(200, stream))
    done = proa(daemon, "build", str(context))
    assert done.returncode == 1
    assert done.stderr.endswith(b"Dockerfile:2\nERROR: failed to solve: process did not complete\n")
    daemon.on("POST", "/build", Answer(400, {"message": "failed to read dockerfile"}))
    done = proa(daemon, "build", "-q", str(context))
    assert (done.returncode, done.stderr) == (1, b"ERROR: failed to solve: failed to read dockerfile\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nowhere",), 'unable to prepare context: path "nowhere" not found'),
        (
            ("-t", "X", "."),
            'invalid tag "X": invalid reference format: repository name (library/X) must be lowercase',
        ),
        (("--cache-to", "type=local", "."), "local cache requires dest="),
        (("--annotation", "a", "."), "invalid annotation 'a', expected key=value"),
        (("--sbom", "true", "."), "Attestation is not supported"),
        (("--disable-content-trust=false", "."), "content trust is not supported"),
        (("--push", "."), "tag is needed when pushing to registry"),
        (("-o", "type=image,compression=estargz", "."), "compression=estargz is not supported"),
        (("--secret", "id=x", "."), "failed to stat x: stat x: no such file or directory"),
        (("--ssh", "default", "."), "invalid empty ssh agent socket"),
        (("--build-context", "a=nowhere", "."), "failed to get build context a"),
        (("--progress", "loud", "."), "invalid progress mode: loud"),
        (("-o", '"a"b', "."), "parse error on line 1"),
        (("-o", "type=local", "."), "dest is required for local exporter"),
    ],
)
def test_what_cannot_be_is_one_line(
    daemon: FakeDaemon, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    done = proa(daemon, "build", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert text in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not [request for request in daemon.requests if request.path == "/build"]


def test_content_trust_is_refused_and_not_passed_over(daemon: FakeDaemon, context: Path) -> None:
    done = proa(daemon, "build", ".", cwd=context, DOCKER_CONTENT_TRUST="1")
    assert done.returncode == 1
    assert b"content trust is not supported: use --disable-content-trust" in done.stderr
    assert not [request for request in daemon.requests if request.path == "/build"]
    done = proa(daemon, "build", "--disable-content-trust", ".", cwd=context, DOCKER_CONTENT_TRUST="1")
    assert done.returncode == 0


def test_logins_go_with_it(daemon: FakeDaemon, context: Path, tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:secret").decode()
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(
        json.dumps({"auths": {"r.example": {"auth": auth}, "e": {}}})
    )
    assert proa(daemon, "build", str(context)).returncode == 0
    header = asked(daemon)[0].headers["x-registry-config"]
    assert json.loads(base64.urlsafe_b64decode(header)) == {
        "r.example": {"serveraddress": "r.example", "username": "me", "password": "secret"}
    }


def test_outputs(daemon: FakeDaemon, context: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    data = archive.getvalue()
    daemon.on("POST", "/containers/create", Answer(201, {"Id": CONTAINER_ID, "Warnings": []}))
    daemon.on("DELETE", "/containers/[^/]+", Answer(204))
    daemon.on("GET", "/containers/[^/]+/export", Answer(200, data, content_type="application/x-tar"))
    daemon.on("GET", "/images/get", Answer(200, b"archive", content_type="application/x-tar"))
    words = ("-o", "out", "-o", "type=tar,dest=x.tar", "-o", "type=docker,dest=d.tar", "-o", "type=oci", ".")
    done = proa(daemon, "build", "-t", "x", *words, cwd=context)
    assert (done.returncode, done.stdout) == (0, b"archive"), done.stderr
    assert (context / "out/file").read_bytes() == b"hi"
    assert (context / "x.tar").read_bytes() == data
    assert (context / "d.tar").read_bytes() == b"archive"
    assert daemon.find("GET", "/images/get").query == "names=x"
    assert daemon.find("POST", "/containers/create").json["Image"] == IMAGE
    assert len([request for request in daemon.requests if request.method == "DELETE"]) == 2


def test_push_pushes_every_tag(daemon: FakeDaemon, context: Path) -> None:
    daemon.on("POST", "/images/.*/push", Answer(200, b""))
    assert (
        proa(daemon, "build", "--push", "-t", "r.example/a", "-t", "r.example/b:2", str(context)).returncode
        == 0
    )
    pushes = [(r.path, r.query) for r in daemon.requests if r.path.endswith("/push")]
    assert pushes == [
        ("/images/r.example%2Fa/push", "tag=latest"),
        ("/images/r.example%2Fb/push", "tag=2"),
    ]


def test_check_shows_findings(daemon: FakeDaemon, context: Path) -> None:
    daemon.on("POST", "/build", Answer(200, b""))
    done = proa(daemon, "build", "--check", str(context))
    assert (done.returncode, done.stdout) == (0, b"Check complete, no warnings found.\n")
    assert asked(daemon)[0].json["Check"] is True
    finding = {
        "warning": "FromAsCasing: casing (line 1)",
        "rule": "FromAsCasing",
        "description": "casing",
        "url": "https://example.com/r",
        "excerpt": "Dockerfile:1\n",
    }
    daemon.on("POST", "/build", Answer(200, lines(finding)))
    done = proa(daemon, "build", "--call=check", str(context))
    assert (done.returncode, done.stdout.decode()) == (
        1,
        "Check complete, 1 warning has been found!\n\n"
        "WARNING: FromAsCasing - https://example.com/r\ncasing\nDockerfile:1\n",
    )
    assert done.stderr == b""


@pytest.mark.parametrize("words", [("builder", "build"), ("image", "build"), ("buildx", "b")])
def test_other_names(daemon: FakeDaemon, context: Path, words: tuple[str, ...]) -> None:
    assert proa(daemon, *words, "-q", str(context)).stdout.decode() == f"{IMAGE}\n"


def test_prune_of_the_cache(daemon: FakeDaemon) -> None:
    daemon.on("POST", "/build/prune", Answer(200, {"CachesDeleted": ["a", "b"], "SpaceReclaimed": 1500}))
    done = proa(daemon, "builder", "prune", "-f", "-a", "--filter", "until=24h", "--keep-storage", "1kb")
    assert done.stdout == b"Deleted build cache objects:\na\nb\n\nTotal reclaimed space: 1.5kB\n"
    assert parse_qs(daemon.find("POST", "/build/prune").query) == {
        "all": ["1"],
        "filters": ['{"until":{"24h":true}}'],
        "keep-storage": ["1024"],
    }
    refused = proa(daemon, "builder", "prune", stdin=b"n\n")
    assert refused.returncode == 1

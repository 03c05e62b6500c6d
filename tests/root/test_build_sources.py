"""Sources of ADD that come from elsewhere: git repositories behind git's own server program, and archives."""

import base64
import bz2
import gzip
import http.server
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, instance

_SETTINGS = {
    "user.name": "somebody",
    "user.email": "some@body",
    "init.defaultBranch": "main",
    "protocol.file.allow": "always",
    "safe.directory": "*",
}
_CONFIG = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_COUNT": str(len(_SETTINGS))}
for _number, (_name, _value) in enumerate(_SETTINGS.items()):
    _CONFIG |= {f"GIT_CONFIG_KEY_{_number}": _name, f"GIT_CONFIG_VALUE_{_number}": _value}

_LOGIN = base64.b64encode(b"user:secret").decode()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("sources")) as daemon:
        yield daemon


class GitServer(http.server.BaseHTTPRequestHandler):
    """git-http-backend over the repositories of `root`; a `closed` one is for user:secret."""

    root, closed = "", False

    def _serve(self) -> None:
        if self.closed and self.headers.get("Authorization") != f"Basic {_LOGIN}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            **os.environ,
            **_CONFIG,
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "CONTENT_LENGTH": str(length),
        }
        done = subprocess.run(
            ["git", "http-backend"],
            env=environment,
            input=self.rfile.read(length),
            capture_output=True,
            check=False,
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is told."""


def git(directory: Path, *words: str) -> str:
    environment = {**os.environ, **_CONFIG}
    done = subprocess.run(["git", *words], cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(URL, directory): `v1` (annotated) says one, `main` two, `branch` three; main has a submodule."""
    if not shutil.which("git"):
        pytest.skip("no git here")
    root = tmp_path_factory.mktemp("git")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (GitServer,), {"root": str(root)})
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    part, whole = root / "part.git", root / "whole.git"
    for directory in (part, whole):
        directory.mkdir()
        git(directory, "init", "-q")
    (part / "inside").write_text("part\n")
    git(part, "add", ".")
    git(part, "commit", "-qm", "part")
    (whole / "deep/er").mkdir(parents=True)
    (whole / "deep/er/file").write_text("deep\n")
    for word, name in (("one", "v1"), ("three", "branch"), ("two", "")):
        if word == "three":
            git(whole, "checkout", "-qb", name)
        if word == "two":
            git(whole, "checkout", "-q", "main")
            git(whole, "submodule", "add", "-q", str(part), "sub")
            git(whole, "config", "-f", ".gitmodules", "submodule.sub.url", "../part.git")
        (whole / "file").write_text(f"{word}\n")
        git(whole, "add", ".")
        git(whole, "commit", "-qm", word)
        if word == "one":
            git(whole, "tag", "-am", word, name)
    yield f"{address}/whole.git", whole
    server.shutdown()
    thread.join()
    server.server_close()


def built(daemon: Instance, context: Path, dockerfile: str) -> "subprocess.CompletedProcess[str]":
    (context / "Dockerfile").write_text(dockerfile)
    return daemon.run("build", "--progress=plain", str(context), cli="proa")


@pytest.mark.parametrize(
    ("more", "command", "output"),
    [
        ("", "cat /r/file /r/sub/inside; ls -A /r", "two part .gitmodules deep file sub"),
        ("#branch", "cat /r/file", "three"),
        ("#v1", "cat /r/file; ls -A /r", "one deep file"),
        ("#{v1}", "cat /r/file", "one"),
        ("#main:deep/er", "cat /r/file; ls /r", "deep file"),
        ("?branch=branch&subdir=deep", "ls -R /r", "/r: er /r/er: file"),
        ("?tag=v1&commit={v1}", "cat /r/file", "one"),
        ("?commit={v1}", "cat /r/file", "one"),
        ("?submodules=0", "ls -A /r/sub", ""),
        ("?keep-git-dir=1", "ls -A /r | head -1; grep -c @ /r/.git/config || true", ".git 0"),
    ],
)
def test_repositories(
    daemon: Instance, repository: tuple[str, Path], tmp_path: Path, more: str, command: str, output: str
) -> None:
    url, directory = repository
    url = url.replace("http://", "http://user:secret@") + more.format(v1=git(directory, "rev-parse", "v1^{}"))
    dockerfile = (
        f"FROM busybox\nADD {url} /r\nRUN ({command}) > /out\nFROM scratch\nCOPY --from=0 /out /out\n"
    )
    (tmp_path / "Dockerfile").write_text(dockerfile)
    done = daemon.run("build", "-o", str(tmp_path / "files"), str(tmp_path), cli="proa")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "files/out").read_text().split() == output.split()


def test_a_repository_and_its_submodule_behind_a_login(
    daemon: Instance, repository: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = repository[0]
    monkeypatch.setattr(GitServer, "closed", True)
    dockerfile = "FROM busybox\nADD {} /r\nRUN cat /r/file /r/sub/inside\n"
    done = built(daemon, tmp_path, dockerfile.format(url))
    assert done.returncode == 1
    assert "could not read Username" in done.stderr
    done = built(daemon, tmp_path, dockerfile.format(url.replace("http://", "http://user:s%65cret@")))
    assert done.returncode == 0, done.stderr
    assert " part\n" in done.stderr


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ("#nothing", "repository does not contain ref nothing"),
        ("#main:nothing", "git subdirectory 'nothing' not found"),
        ("?tag=v1&checksum=00", "expected checksum to match 00, got "),
        ("?none=1", 'unexpected query "none"'),
    ],
)
def test_what_a_repository_has_not(
    daemon: Instance, repository: tuple[str, Path], tmp_path: Path, more: str, error: str
) -> None:
    done = built(daemon, tmp_path, f"FROM busybox\nADD {repository[0]}{more} /r\n")
    assert done.returncode == 1
    assert error in done.stderr
    assert "   2 | >>> ADD " in done.stderr


def test_a_ref_that_moves_means_another_step(
    daemon: Instance, repository: tuple[str, Path], tmp_path: Path
) -> None:
    url, directory = repository
    git(directory, "checkout", "-qb", "moving", "v1")
    try:
        dockerfile = f"FROM busybox\nADD {url}#moving /r\nRUN cat /r/file\n"
        assert "CACHED" not in built(daemon, tmp_path, dockerfile).stderr
        assert "CACHED" in built(daemon, tmp_path, dockerfile).stderr
        (directory / "file").write_text("moved\n")
        git(directory, "commit", "-qam", "moved")
        assert " moved\n" in built(daemon, tmp_path, dockerfile).stderr
    finally:
        git(directory, "checkout", "-q", "main")


def test_what_add_unpacks_and_what_it_copies(daemon: Instance, tmp_path: Path) -> None:
    """Compressed files that hold no archive are copied, as BuildKit does; a short one is an error."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("in/one", "in/two"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"two"))
    data = stream.getvalue()
    files = {
        "a.gz": gzip.compress(data),
        "a.bz2": bz2.compress(data),
        "a.xz": lzma.compress(data),
        "members.gz": gzip.compress(data[:600]) + gzip.compress(data[600:]),
        "text.gz": gzip.compress(b"a text"),
        "twice.gz": gzip.compress(gzip.compress(data)),
        "short.gz": gzip.compress(data, 0)[:-60],
        "empty.tar": bytes(10240),
        "empty": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    dockerfile = "FROM scratch\n" + "".join(
        f"ADD {name} /d{number}/\n" for number, name in enumerate(files) if name != "short.gz"
    )
    dockerfile += "ADD a.gz text.* /some/\nADD text.gz /renamed\nADD --unpack=false a.gz /kept/\n"
    (tmp_path / "Dockerfile").write_text(f"{dockerfile}FROM scratch\nCOPY --from=0 / /\n")
    done = daemon.run("build", "-o", str(tmp_path / "files"), str(tmp_path), cli="proa")
    assert done.returncode == 0, done.stderr
    places = ("d?", "some", "kept", "renamed")
    found = {path for place in places for path in (tmp_path / "files").glob(f"{place}/**/*")}
    found |= {tmp_path / "files/renamed"}
    assert sorted(str(path.relative_to(tmp_path / "files")) for path in found if path.is_file()) == [
        *(f"d{number}/in/{name}" for number in range(4) for name in ("one", "two")),
        *("d4/text.gz", "d5/twice.gz", "d7/empty.tar", "d8/empty", "kept/a.gz", "renamed"),
        *("some/in/one", "some/in/two", "some/text.gz"),
    ]
    done = built(daemon, tmp_path, "FROM busybox\nADD short.gz /x/\n")
    assert done.returncode == 1
    assert "incomplete deflate stream" in done.stderr

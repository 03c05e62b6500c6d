"""`proa pull` and `proa push` against a server that plays a registry's answers: requests, lines, rows."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import CONTAINER_ID, Answer, FakeDaemon

from proa.cli import rows

PYTHON = Path(__file__).parents[2] / "python"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[FakeDaemon]:
    """The server, closed at the end."""
    server = FakeDaemon(tmp_path / "d.sock")
    yield server
    server.close()


def environment(recorder: FakeDaemon) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(recorder.socket_path.parent),
        "PYTHONPATH": str(PYTHON),
        "DOCKER_HOST": f"unix://{recorder.socket_path}",
        "TERM": "xterm",
        "COLUMNS": "100",
    }


def proa(recorder: FakeDaemon, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "proa.cli", *words],
        env=environment(recorder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def on_terminal(recorder: FakeDaemon, *words: str) -> tuple[int, str]:
    """Exit code and everything that the terminal got."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "proa.cli", *words]
    process = subprocess.Popen(command, env=environment(recorder), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    try:
        while chunk := os.read(ours, 65536):
            data += chunk
    except OSError:  # EIO: the other side is closed
        pass
    finally:
        os.close(ours)
    return process.wait(30), data.decode()


def stream(*messages: dict[str, Any]) -> Answer:
    return Answer(200, b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


def layer(status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if current else {}
    return {"status": status, "progressDetail": detail, "id": "aaaaaaaaaaaa"}


PULL = (
    {"status": "Pulling from library/app", "id": "1"},
    layer("Pulling fs layer"),
    {**layer("Downloading", 500, 1000), "progress": "[==> ]"},
    layer("Pull complete"),
    {"status": f"Digest: {DIGEST}"},
    {"status": "Status: Downloaded newer image for app:1"},
)


def test_a_pull_is_plain_lines(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/images/create", stream(*PULL))
    done = proa(recorder, "pull", "--platform", "arm64", "--disable-content-trust", "app:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1: Pulling from library/app",
        "aaaaaaaaaaaa: Pulling fs layer",
        "aaaaaaaaaaaa: Pull complete",
        f"Digest: {DIGEST}",
        "Status: Downloaded newer image for app:1",
        "docker.io/library/app:1",
    ]
    asked = recorder.find("POST", "/images/create")
    assert asked.query == "fromImage=app&tag=1&platform=arm64"


@pytest.mark.parametrize(
    ("words", "query", "last"),
    [
        (("app",), "fromImage=app&tag=latest", "docker.io/library/app:latest"),
        (("-a", "app"), "fromImage=app", "docker.io/library/app"),
        (
            (f"app@{DIGEST}",),
            f"fromImage=app&tag=sha256%3A{'0' * 64}",
            f"docker.io/library/app@{DIGEST}",
        ),
        (("-q", "host:5000/a/b"), "fromImage=host%3A5000%2Fa%2Fb&tag=latest", "host:5000/a/b:latest"),
    ],
)
def test_what_is_asked_for(recorder: FakeDaemon, words: tuple[str, ...], query: str, last: str) -> None:
    recorder.on("POST", "/images/create", stream({"status": "told"}))
    lines = proa(recorder, "pull", *words).stdout.splitlines()
    assert recorder.find("POST", "/images/create").query == query
    assert lines[-1] == last
    assert ("told" in lines) == ("-q" not in words)


def test_all_tags_and_one_tag_do_not_go_together(recorder: FakeDaemon) -> None:
    for verb in ("pull", "push"):
        done = proa(recorder, verb, "-a", "app:1")
        assert done.returncode == 1
        assert "tag can't be used with --all-tags/-a" in done.stderr


def test_a_failure_in_the_middle_is_the_exit_code(recorder: FakeDaemon) -> None:
    failure = {"errorDetail": {"message": "no space left on device"}, "error": "no space left on device"}
    recorder.on("POST", "/images/create", stream(*PULL[:2], failure))
    done = proa(recorder, "pull", "app:1")
    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert "docker.io/library/app" not in done.stdout


def test_a_push(recorder: FakeDaemon) -> None:
    told = (
        {"status": "The push refers to repository [host:5000/a/b]"},
        layer("Preparing"),
        layer("Pushed"),
        {"status": f"latest: digest: {DIGEST} size: 5"},
        {"progressDetail": {}, "aux": {"Tag": "latest", "Digest": DIGEST, "Size": 5}},
    )
    recorder.on("POST", "/images/.*/push", stream(*told))
    done = proa(recorder, "push", "--platform", "linux/arm/v7", "host:5000/a/b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Using default tag: latest",
        "The push refers to repository [host:5000/a/b]",
        "aaaaaaaaaaaa: Preparing",
        "aaaaaaaaaaaa: Pushed",
        f"latest: digest: {DIGEST} size: 5",
    ]
    asked = recorder.find("POST", "/images/.*/push")
    platform = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm%22%2C%22variant%22%3A%22v7%22%7D"
    assert asked.query == f"tag=latest&platform={platform}"
    assert proa(recorder, "push", "-q", "host:5000/a/b:2").stdout == "host:5000/a/b:2\n"
    assert proa(recorder, "push", "-a", "-q", "host:5000/a/b").stdout == "host:5000/a/b\n"
    assert recorder.find("POST", "/images/.*/push").query == ""


def test_a_push_of_less_than_the_name_means_says_so(recorder: FakeDaemon) -> None:
    aux = {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": {"digest": "sha256:1"},
        "selectedManifest": {"digest": "sha256:2"},
    }
    recorder.on("POST", "/images/.*/push", stream({"progressDetail": {}, "aux": aux}))
    done = proa(recorder, "push", "-q", "host:5000/a/b:1")
    assert (done.returncode, done.stdout) == (0, "host:5000/a/b:1\n")
    assert done.stderr == (
        "\n Info -> Not all multiplatform-content is present and only the available single-platform image "
        "was pushed\n         sha256:1 -> sha256:2\n"
    )


def test_an_import_from_a_url(recorder: FakeDaemon) -> None:
    """How far it is stands in one line of a terminal, and nowhere else."""
    url = "https://web.example/root.tar?x=y"
    told = (
        {"status": f"Downloading from {url}"},
        {"status": "Importing", "progressDetail": {"current": 5, "total": 9}, "progress": "[=> ] 5B/9B"},
        {"status": DIGEST},
    )
    recorder.on("POST", "/images/create", stream(*told))
    done = proa(recorder, "import", url, "made:1")
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"Downloading from {url}", DIGEST])
    asked = recorder.find("POST", "/images/create").query
    assert asked == "fromSrc=https%3A%2F%2Fweb.example%2Froot.tar%3Fx%3Dy&repo=made&tag=1"
    code, shown = on_terminal(recorder, "import", url)
    assert code == 0
    assert shown.endswith(f"\r\nImporting [=> ] 5B/9B\r\x1b[2K\r{DIGEST}\r\n")


def test_rows_on_a_terminal(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/images/create", stream(*PULL))
    code, told = on_terminal(recorder, "pull", "app:1")
    assert code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told).replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    # What stands there at the end; before it, the rows as they changed.
    assert lines[-5:] == [
        "1: Pulling from library/app",
        "aaaaaaaaaaaa: Pull complete",
        f"Digest: {DIGEST}",
        "Status: Downloaded newer image for app:1",
        "docker.io/library/app:1",
    ]
    assert told.endswith("docker.io/library/app:1\r\n")
    assert "\x1b[?25l" not in told  # the cursor stays: Ctrl-C may come at any time


def test_rows_look_as_dockers_do() -> None:
    assert rows.bar(0, 10) == ""
    assert rows.bar(1_500_000, 3_000_000) == f"[{'=' * 25}>{' ' * 25}]    1.5MB/3MB"
    assert rows.bar(3_000_000, 3_000_000) == f"[{'=' * 50}>]      3MB/3MB"
    assert rows.bar(10, 0) == "10B"


def test_run_pulls_as_it_is_told(recorder: FakeDaemon) -> None:
    answers = [Answer(404, {"message": "No such image: app:latest"})]

    def create(_: object) -> Answer:
        return answers.pop(0) if answers else Answer(201, {"Id": CONTAINER_ID})

    recorder.on("POST", "/containers/create", create)
    recorder.on("POST", "/images/create", stream({"status": "told"}))
    never = proa(recorder, "create", "--pull", "never", "app")
    assert "No such image: app:latest" in never.stderr
    assert not [request for request in recorder.requests if request.path == "/images/create"]
    always = proa(recorder, "create", "--pull", "always", "app")
    assert (always.stdout, always.stderr) == (f"{CONTAINER_ID}\n", "told\n")
    assert recorder.find("POST", "/images/create").query == "fromImage=app&tag=latest"
    assert "invalid pull option" in proa(recorder, "create", "--pull", "maybe", "app").stderr


@pytest.mark.parametrize(
    "words", [("pull", "app:1"), ("push", "app:1"), ("run", "app:1"), ("create", "app:1")]
)
def test_content_trust_is_not_pretended(recorder: FakeDaemon, words: tuple[str, ...]) -> None:
    refused = "content trust is not supported: use --disable-content-trust"
    verb, *rest = words
    done = proa(recorder, verb, "--disable-content-trust=false", *rest)
    assert (done.returncode != 0, refused in done.stderr) == (True, True)
    done = subprocess.run(
        [sys.executable, "-m", "proa.cli", *words],
        env=environment(recorder) | {"DOCKER_CONTENT_TRUST": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0, refused in done.stderr) == (True, True)
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("words", "method", "path", "query"),
    [
        (("save", "app"), "GET", "/images/app/get", "platform="),
        (("save", "a", "b"), "GET", "/images/get", "names=a&names=b&platform="),
        (("history", "app"), "GET", "/images/app/history", "platform="),
        (("rmi", "app"), "DELETE", "/images/app", "platforms="),
        (("load", "-i", "/dev/null"), "POST", "/images/load", "quiet=1&platform="),
    ],
)
def test_a_platform_reaches_the_daemon(
    recorder: FakeDaemon, words: tuple[str, ...], method: str, path: str, query: str
) -> None:
    recorder.on(method, path, Answer(200, None if words[0] in ("save", "load") else []))
    done = proa(recorder, words[0], "--platform", "linux/arm64", *words[1:])
    assert done.returncode == 0, done.stderr
    platform = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm64%22%7D"
    assert recorder.find(method, path).query == query + platform


def test_saving_to_what_is_no_file(recorder: FakeDaemon, tmp_path: Path) -> None:
    recorder.on("GET", "/images/app/get", Answer(200, b"tar", content_type="application/x-tar"))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for target, words in (
        ("/dev/null", "cannot write to a character device file"),
        (str(tmp_path), "cannot write to a directory"),
        (str(tmp_path / "fifo"), "cannot write to a named pipe (FIFO)"),
        (str(tmp_path / "link"), "cannot write to a symbolic link directly"),
        ("/nosuch/x", "invalid output path: stat /nosuch: no such file or directory"),
        ("/dev/null/x", "invalid output path: stat /dev/null: not a directory"),
    ):
        done = proa(recorder, "save", "-o", target, "app")
        assert (done.returncode, done.stderr) == (1, f"failed to save image: {words}\n")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "words", [("tag", "app", f"b@{DIGEST}"), ("commit", "c", f"b@{DIGEST}")], ids=["tag", "commit"]
)
def test_a_digest_is_not_a_name_to_give(recorder: FakeDaemon, words: tuple[str, ...]) -> None:
    done = proa(recorder, *words)
    assert (done.returncode, done.stderr) == (1, "refusing to create a tag with a digest reference\n")


def test_images_as_a_tree(recorder: FakeDaemon) -> None:
    image = {"Id": DIGEST, "Created": 0, "Size": 1_982_408, "Containers": 0}
    child = {
        "ID": DIGEST,
        "Kind": "image",
        "Size": {"Total": 3_000_000, "Content": 1_000_000},
        "ImageData": {"Platform": {"os": "linux", "architecture": "arm64"}, "Containers": ["c"]},
    }
    found = [
        image | {"RepoTags": []},
        image | {"RepoTags": ["busybox:latest", "a/long/name:1"], "Containers": 1},
        image | {"RepoTags": ["multi:1"], "Manifests": [child]},
    ]
    recorder.on("GET", "/images/json", Answer(200, found))
    done = proa(recorder, "images", "--tree")
    assert done.stdout.split("\n") == [
        "IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA",
        "a/long/name:1",
        "busybox:latest   000000000000       1.98MB             0B   U    ",
        "",
        "multi:1          000000000000       1.98MB            1MB   U    ",
        "└─ linux/arm64   000000000000          3MB            1MB   U    ",
        "",
        "<untagged>       000000000000       1.98MB             0B        ",
        "",
        "",
    ]
    assert recorder.find("GET", "/images/json").query == "manifests=1"

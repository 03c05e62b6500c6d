"""`proa login`, `logout`, `search` and `manifest inspect`, held against docker where it asks the daemon."""

import base64
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_version import DOCKER, needs_docker_28
from fake_daemon import Answer, FakeDaemon, Request

PYTHON = Path(__file__).parents[2] / "python"
PROA = [sys.executable, "-m", "proa.cli"]
HELPER = """#!/bin/sh
case $1 in
get) read server; cat "{store}" 2>/dev/null ||
  {{ echo "credentials not found in native keychain"; exit 1; }};;
store) cat > "{store}";;
erase) rm -f "{store}";;
esac
"""

FOUND = [
    {"name": "few", "description": "a\nb", "star_count": 1, "is_official": False, "is_automated": True},
    {"name": "many", "description": "x" * 60, "star_count": 900, "is_official": True, "is_automated": False},
]


def authenticate(request: Request) -> Answer:
    """`secret` and the identity token `good` are right; the server named tokens.example gives a token."""
    body = request.json
    if body.get("identitytoken") == "good" or body.get("password") == "secret":
        token = "good" if body["serveraddress"] == "tokens.example" else ""
        return Answer(200, {"Status": "Login Succeeded", "IdentityToken": token})
    return Answer(401, {"message": "incorrect username or password"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeDaemon]:
    (tmp_path / "bin").mkdir()
    daemon = FakeDaemon(tmp_path / "d.sock")
    daemon.on("POST", "/auth", authenticate)
    daemon.on("GET", "/images/search", Answer(200, FOUND))
    daemon.on("GET", "/info", Answer(200, {"IndexServerAddress": "https://index.docker.io/v1/"}))
    yield daemon
    daemon.close()


def run(
    server: FakeDaemon, command: list[str], config: Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{server.socket_path.parent}/bin:{os.environ['PATH']}",
        "HOME": str(server.socket_path.parent),
        "PYTHONPATH": str(PYTHON),
        "DOCKER_HOST": f"unix://{server.socket_path}",
        "DOCKER_CONFIG": str(config),
    }
    return subprocess.run(command, env=env, input=given, capture_output=True, text=True, timeout=30)


def proa(server: FakeDaemon, config: Path, line: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return run(server, [*PROA, *shlex.split(line)], config, given)


def kept(config: Path) -> Any:
    path = config / "config.json"
    return json.loads(path.read_text()) if path.exists() else None


def install_helper(tmp_path: Path, name: str = "testing") -> Path:
    """A credential helper that keeps one login in the file that is returned."""
    store = tmp_path / "helper-store"
    program = tmp_path / "bin" / f"docker-credential-{name}"
    program.write_text(HELPER.format(store=store))
    program.chmod(0o755)
    return store


SEQUENCES = [
    [
        "login -u me --password-stdin reg.example:5000<secret",
        "login reg.example:5000",
        "logout reg.example:5000",
        "login reg.example:5000",
    ],
    ["login -u me -p secret", "login", "logout", "logout"],
    ["login -u me -p secret docker.io"],
    ["login -u me -p secret https://reg.example/v2/", "logout https://reg.example"],
    ["login -u me -p secret tokens.example", "logout tokens.example"],
    ["login -u me -p wrong reg.example"],
    ["login -u me --password-stdin reg.example<wrong"],
    ["login --password-stdin reg.example<secret"],
    ["login -u me -p a --password-stdin reg.example"],
    ["login -u me reg.example"],
    ["login reg.example"],
    ["login --nosuch"],
    ["search x", "search --no-trunc x", "search --format json x", "search -f stars=3 --limit 7 x"],
    ["search --format '{{.Name}} {{.StarCount}} {{.IsOfficial}}' x", "search", "search a b"],
    ["search --format 'table {{.Name}}\t{{.Description}}' x", "search --limit x y", "search -f a x"],
]


def observed(server: FakeDaemon, command: list[str], config: Path, given: str) -> tuple[object, ...]:
    """What the user sees, what the daemon is asked, and what is kept."""
    server.requests.clear()
    done = run(server, command, config, given)
    asked = [
        (request.method, request.path, sorted(request.query.split("&")), request.body and request.json)
        for request in server.requests
        if request.path != "/_ping"
    ]
    texts = [text.replace(str(config), "CONFIG") for text in (done.stdout, done.stderr)]
    for name in ("login", "logout", "search"):
        texts = [text.replace(f"docker {name}", f"proa {name}") for text in texts]
    texts = [text.replace("docker: ", "proa: ") for text in texts]
    return (done.returncode, *texts, asked, kept(config))


@needs_docker_28
@pytest.mark.parametrize("lines", SEQUENCES, ids=lambda lines: lines[0])
def test_prints_asks_and_keeps_the_same(lines: list[str], server: FakeDaemon, tmp_path: Path) -> None:
    for line in lines:
        words, _, given = line.partition("<")
        expected = observed(server, [str(DOCKER), *shlex.split(words)], tmp_path / "docker", given)
        found = observed(server, [*PROA, *shlex.split(words)], tmp_path / "proa", given)
        assert found == expected, line


def test_the_file_is_the_users_alone_and_keeps_what_else_is_in_it(server: FakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.mkdir()
    (config / "real.json").write_text('{"detachKeys":"ctrl-x","auths":{"other.example":{"auth":"YTpi"}}}')
    (config / "config.json").symlink_to("real.json")
    assert proa(server, config, "login -u me --password-stdin reg.example", "secret\r\n").returncode == 0
    assert kept(config) == {
        "detachKeys": "ctrl-x",
        "auths": {"other.example": {"auth": "YTpi"}, "reg.example": {"auth": "bWU6c2VjcmV0"}},
    }
    assert (config / "config.json").is_symlink()
    assert (config / "real.json").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in config.iterdir()) == ["config.json", "real.json"]


def test_a_helper_keeps_the_secret(server: FakeDaemon, tmp_path: Path) -> None:
    config, store = tmp_path / "c", install_helper(tmp_path)
    config.mkdir()
    (config / "config.json").write_text('{"credsStore":"testing"}')
    done = proa(server, config, "login -u me --password-stdin reg.example", "secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(store.read_text()) == {"ServerURL": "reg.example", "Username": "me", "Secret": "secret"}
    assert kept(config) == {"credsStore": "testing", "auths": {"reg.example": {}}}
    proa(server, config, "search reg.example/x")
    assert sent(server, "/images/search") == {
        "serveraddress": "reg.example",
        "username": "me",
        "password": "secret",
    }
    assert proa(server, config, "logout reg.example").returncode == 0
    assert not store.exists()
    assert kept(config) == {"credsStore": "testing", "auths": {}}


def test_an_identity_token_is_kept_in_place_of_the_password(server: FakeDaemon, tmp_path: Path) -> None:
    config, store = tmp_path / "c", install_helper(tmp_path)
    config.mkdir()
    (config / "config.json").write_text('{"credHelpers":{"tokens.example":"testing"}}')
    assert proa(server, config, "login -u me --password-stdin tokens.example", "secret").returncode == 0
    kept_by_helper = json.loads(store.read_text())
    assert (kept_by_helper["Username"], kept_by_helper["Secret"]) == ("<token>", "good")
    assert proa(server, config, "login tokens.example").stdout == "Login Succeeded\n"
    assert server.find("POST", "/auth").json == {"serveraddress": "tokens.example", "identitytoken": "good"}


@pytest.mark.parametrize("broken", ["missing", "failing"])
def test_a_helper_that_fails_ends_the_command(server: FakeDaemon, tmp_path: Path, broken: str) -> None:
    """Neither another registry's login nor none at all goes out in its place (CVE-2021-41092)."""
    config = tmp_path / "c"
    config.mkdir()
    (config / "config.json").write_text(
        '{"credHelpers":{"reg.example":"broken"},"auths":{"reg.example":{"auth":"YTpi"}}}'
    )
    if broken == "failing":
        program = tmp_path / "bin" / "docker-credential-broken"
        program.write_text("#!/bin/sh\necho no keyring\nexit 3\n")
        program.chmod(0o755)
    done = proa(server, config, "search reg.example/x")
    assert done.returncode == 1
    assert "error getting credentials - err: " in done.stderr
    assert [request.path for request in server.requests] == []


def test_a_login_goes_to_its_own_registry_only(server: FakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "c"
    proa(server, config, "login -u me --password-stdin reg.example", "secret")
    proa(server, config, "search reg.example.evil/x")
    assert sent(server, "/images/search") is None
    proa(server, config, "search x")
    assert sent(server, "/images/search") is None


def sent(server: FakeDaemon, path: str) -> Any:
    """The credentials of the last request."""
    header = server.find("GET", path).headers.get("x-registry-auth")
    return None if header is None else json.loads(base64.urlsafe_b64decode(header))


INDEX = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [{"mediaType": "m", "digest": "sha256:" + "b" * 64, "size": 2, "platform": {"os": "linux"}}],
}


def test_manifest_inspect(server: FakeDaemon, tmp_path: Path) -> None:
    def manifest(request: Request) -> Answer:
        if "@" in request.path or "%40" in request.path:
            kind = "application/vnd.oci.image.manifest.v1+json"
            return Answer(200, b'{"schemaVersion":2,"layers":[]}', content_type=kind)
        return Answer(200, INDEX, content_type=INDEX["mediaType"])

    server.on("GET", "/distribution/.*/manifest", manifest)
    done = proa(server, tmp_path / "c", "manifest inspect --insecure reg.example/x:1")
    assert done.stdout.startswith('{\n   "schemaVersion": 2,\n')
    assert json.loads(done.stdout) == INDEX
    assert server.requests[-1].query == "insecure=1"
    done = proa(server, tmp_path / "c", "manifest inspect -v x")
    (child,) = json.loads(done.stdout)
    assert child["Ref"] == f"docker.io/library/x:latest@sha256:{'b' * 64}"
    assert child["Descriptor"] == INDEX["manifests"][0]  # type: ignore[index]
    assert json.loads(base64.b64decode(child["Raw"])) == child["OCIManifest"]


def test_manifest_inspect_of_what_is_not_there(server: FakeDaemon, tmp_path: Path) -> None:
    server.on("GET", "/distribution/.*/manifest", Answer(404, {"message": "manifest for x not found"}))
    done = proa(server, tmp_path / "c", "manifest inspect x")
    assert (done.returncode, done.stderr) == (1, "no such manifest: docker.io/library/x:latest\n")


def at_terminal(server: FakeDaemon, config: Path, line: str, *typed: tuple[str, str]) -> tuple[int, str]:
    """Run at a terminal: each text is typed when its question is shown. Returns (exit code, the screen)."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(config),
        "PYTHONPATH": str(PYTHON),
        "DOCKER_HOST": f"unix://{server.socket_path}",
    }
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, [*PROA, "--config", str(config), *shlex.split(line)], env)
    screen = b""
    questions = list(typed)
    try:
        while part := os.read(terminal, 4096):
            screen += part
            if questions and questions[0][0].encode() in screen:
                os.write(terminal, questions.pop(0)[1].encode() + b"\n")
    except OSError:
        pass  # the terminal's other side is closed: the command has ended
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()


def test_login_asks_at_a_terminal(server: FakeDaemon, tmp_path: Path) -> None:
    typed = ("Username: ", "me"), ("Password: ", "secret")
    code, screen = at_terminal(server, tmp_path / "c", "login reg.example", *typed)
    assert code == 0
    assert "Login Succeeded" in screen
    assert "secret" not in screen
    assert kept(tmp_path / "c") == {"auths": {"reg.example": {"auth": "bWU6c2VjcmV0"}}}


def test_the_hubs_web_login_is_refused_in_words(server: FakeDaemon, tmp_path: Path) -> None:
    typed = ("Username: ", "me"), ("Password: ", "secret")
    code, screen = at_terminal(server, tmp_path / "c", "login", *typed)
    assert code == 0
    assert "Web-based login is Docker's own and not supported here" in screen
    assert "https://index.docker.io/v1/" in kept(tmp_path / "c")["auths"]


def test_a_login_that_is_no_good_any_more_is_asked_for_again(server: FakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.mkdir()
    (config / "config.json").write_text('{"auths":{"reg.example":{"auth":"bWU6b2xk"}}}')
    typed = ("Username (me): ", ""), ("Password: ", "secret")
    code, screen = at_terminal(server, config, "login reg.example", *typed)
    assert code == 0
    assert "Authenticating with existing credentials... [Username: me]" in screen
    assert "Stored credentials invalid or expired" in screen
    assert kept(config) == {"auths": {"reg.example": {"auth": "bWU6c2VjcmV0"}}}
